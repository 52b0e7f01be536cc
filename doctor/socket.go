package doctor

import (
	"fmt"
	"strings"
	"time"
)

// cluecon is the default password of FreeSWITCH's event socket.
const cluecon = "ClueCon"

// socketFindings judge the event socket: a login to it controls FreeSWITCH, and runs programs as its user.
func (s *system) socketFindings(opts *Options) []Finding {
	var all []Finding
	if opts.LoggedIn == "" {
		all = append(all, Finding{
			Check: "full-login", Severity: Note,
			Title: "fsban logs in with full rights",
			Seen:  "freeswitch.user is not set.",
			Why:   "fsban needs a few events and no commands. If its configuration leaks, a login with full rights gives control of FreeSWITCH.",
			Change: "Add a user to the directory with esl-password, esl-allowed-events and esl-allowed-api, and set freeswitch.user and " +
				"freeswitch.password in fsban's configuration.",
		})
	}
	if s.socket == nil {
		return all
	}
	settings := params(s.socket)
	ip := last(settings["listen-ip"])
	lists := settings["apply-inbound-acl"]
	local := ip == "" || strings.HasPrefix(ip, "127.") || ip == "::1" || ip == "localhost"
	open := false
	for _, l := range lists {
		open = open || s.open[l]
	}
	file := "autoload_configs/event_socket.conf.xml: "
	if weak := socketPassword(settings); weak != "" {
		f := Finding{
			Check: "socket-password", Severity: Warning,
			Title:  "The event socket has " + weak,
			Seen:   "The parameter password in event_socket.conf; it listens on " + address(ip) + ".",
			Why:    "Each user and web application of this host can control FreeSWITCH, and run programs as its user.",
			Change: file + "password = a long random one. Set the same in fsban's configuration (freeswitch.password) and in all other clients.",
		}
		if open {
			f.Severity, f.Why = Critical, "Anybody can control FreeSWITCH, and run programs as its user."
		}
		all = append(all, f)
	}
	switch {
	case open && !local:
		all = append(all, Finding{
			Check: "socket-open", Severity: Critical,
			Title:  "The event socket can be reached from anywhere",
			Seen:   fmt.Sprintf("It listens on %s, and apply-inbound-acl has a list that allows every address.", address(ip)),
			Why:    "Only its password protects full control of FreeSWITCH, and guesses are not limited.",
			Change: file + "listen-ip = 127.0.0.1, or apply-inbound-acl = a list with default deny.",
		})
	case !local && len(lists) == 0 && s.version != "" && versionOf(s.version).before(versionOf("1.6.0")):
		all = append(all, Finding{
			Check: "socket-open", Severity: Critical,
			Title: "The event socket can be reached from anywhere",
			Seen: fmt.Sprintf("It listens on %s without apply-inbound-acl, and FreeSWITCH %s then allows every address.", address(ip),
				word(s.version)),
			Why:    "Only its password protects full control of FreeSWITCH, and guesses are not limited.",
			Change: file + "listen-ip = 127.0.0.1.",
		})
	case !local && len(lists) == 0:
		all = append(all, Finding{
			Check: "socket-everywhere", Severity: Note,
			Title:  "The event socket listens on all addresses and accepts this host only",
			Seen:   fmt.Sprintf("The parameter listen-ip is %s. Without apply-inbound-acl the list loopback.auto applies.", address(ip)),
			Why:    "An access list that is added later opens it to the network at once.",
			Change: file + "listen-ip = 127.0.0.1, if no other host needs it.",
		})
	}
	return all
}

func address(ip string) string {
	switch ip {
	case "":
		return "127.0.0.1"
	case "::", "0.0.0.0":
		return ip + " (all addresses)"
	}
	return word(ip)
}

// socketPassword describes the weakness of the event socket's password, without repeating it.
func socketPassword(settings map[string][]string) string {
	switch p := last(settings["password"]); {
	case p == cluecon || p == "":
		return "the default password"
	case len(p) < 8:
		return "a short password"
	}
	return ""
}

// moduleFindings judge other listening modules.
func (s *system) moduleFindings() []Finding {
	if s.rpc == nil {
		return nil
	}
	settings := params(s.rpc)
	// Without a realm it ignores auth-user and auth-pass, and requires no login.
	if last(settings["auth-realm"]) != "" && last(settings["auth-pass"]) != "works" {
		return nil
	}
	return []Finding{{
		Check: "xml-rpc", Severity: Critical,
		Title: "mod_xml_rpc runs commands without a login, or with its default login",
		Seen:  "xml_rpc.conf has no auth-realm, or the password of the vanilla configuration.",
		Why:   "It listens on all addresses, and its commands can run programs (CVE-2018-19911).",
		Change: "Unload mod_xml_rpc (autoload_configs/modules.conf.xml), or set auth-realm, auth-user and auth-pass in " +
			"autoload_configs/xml_rpc.conf.xml and close its port.",
	}}
}

// How far FreeSWITCH's clock may be from ours. An event further off than the second counts as happening now.
const (
	smallSkew = 2 * time.Second
	largeSkew = 60 * time.Second
)

func (s *system) clockFindings(host *Host) []Finding {
	var all []Finding
	if off := s.skew.Abs().Round(time.Second); !s.clock.IsZero() && off > smallSkew {
		f := Finding{
			Check: "clock", Severity: Note,
			Title:  "FreeSWITCH's clock differs from this host's",
			Seen:   fmt.Sprintf("The difference is %v.", off),
			Why:    "fsban counts attempts by FreeSWITCH's times. With more than a minute of difference they count at their arrival.",
			Change: "Run chrony or systemd-timesyncd on both hosts. FreeSWITCH adopts a corrected time with fsctl sync_clock.",
		}
		if off > largeSkew {
			f.Severity = Warning
		}
		all = append(all, f)
	}
	if s.zone != "" && host.Zone != "" && s.zone != host.Zone {
		all = append(all, Finding{
			Check: "zone", Severity: Note,
			Title:  "FreeSWITCH's time zone differs from this host's",
			Seen:   fmt.Sprintf("FreeSWITCH uses %s, this host %s.", word(s.zone), word(host.Zone)),
			Why:    "Times in FreeSWITCH's log and in fsban's differ by that much. Counting is not affected.",
			Change: "Set the same time zone on both hosts, or compare logs in UTC.",
		})
	}
	return all
}
