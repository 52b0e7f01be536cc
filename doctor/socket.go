package doctor

import (
	"fmt"
	"strings"
	"time"
)

// cluecon is the password that FreeSWITCH's event socket has unless somebody sets one.
const cluecon = "ClueCon"

// socketFindings judge the event socket: whoever logs in to it owns FreeSWITCH, and runs programs as its user.
func (s *system) socketFindings(opts *Options) []Finding {
	var all []Finding
	if opts.LoggedIn == "" {
		all = append(all, Finding{
			Check: "full-login", Severity: Note,
			Title: "fsban logs in with the password that may do everything",
			Seen:  "freeswitch.user is not set.",
			Why:   "fsban needs a few events and no command to guard. A login of its own can be kept to them.",
			Change: "A user in the directory with esl-password, esl-allowed-events and esl-allowed-api; its name and password in fsban's " +
				"configuration (freeswitch.user, freeswitch.password).",
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
			Seen:   "Password in event_socket.conf, listening on " + address(ip) + ".",
			Why:    "Each user and each web application of this host can take FreeSWITCH over: its commands run programs.",
			Change: file + "password = a long random one; the same in fsban's configuration and wherever else it is used.",
		}
		if open {
			f.Severity, f.Why = Critical, "Anybody can take FreeSWITCH over, and run programs as its user."
		}
		all = append(all, f)
	}
	switch {
	case open && !local:
		all = append(all, Finding{
			Check: "socket-open", Severity: Critical,
			Title:  "The event socket can be reached from anywhere",
			Seen:   fmt.Sprintf("It listens on %s, and apply-inbound-acl names a list that lets strangers in.", address(ip)),
			Why:    "A password is all that stands before complete control of FreeSWITCH, and there is no limit to guessing it.",
			Change: file + "listen-ip = 127.0.0.1, or apply-inbound-acl = a list with default deny.",
		})
	case !local && len(lists) == 0 && s.version != "" && versionOf(s.version).before(versionOf("1.6.0")):
		all = append(all, Finding{
			Check: "socket-open", Severity: Critical,
			Title:  "The event socket can be reached from anywhere",
			Seen:   fmt.Sprintf("It listens on %s, without apply-inbound-acl, in a FreeSWITCH (%s) that lets everybody in then.", address(ip), word(s.version)),
			Why:    "A password is all that stands before complete control of FreeSWITCH, and there is no limit to guessing it.",
			Change: file + "listen-ip = 127.0.0.1.",
		})
	case !local && len(lists) == 0:
		all = append(all, Finding{
			Check: "socket-everywhere", Severity: Note,
			Title:  "The event socket listens on all addresses, and lets only this host in",
			Seen:   fmt.Sprintf("The parameter listen-ip is %s, and without apply-inbound-acl loopback.auto holds.", address(ip)),
			Why:    "A list that somebody adds later opens it to the network at once.",
			Change: file + "listen-ip = 127.0.0.1, if nobody else needs it.",
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

// socketPassword says what is weak about the event socket's password, without telling it.
func socketPassword(settings map[string][]string) string {
	switch p := last(settings["password"]); {
	case p == cluecon || p == "":
		return "the password that everybody knows"
	case len(p) < 8:
		return "a short password"
	}
	return ""
}

// moduleFindings judge what else listens.
func (s *system) moduleFindings() []Finding {
	if s.rpc == nil {
		return nil
	}
	settings := params(s.rpc)
	// Without a realm it leaves auth-user and auth-pass unread, and asks nobody for a login.
	if last(settings["auth-realm"]) != "" && last(settings["auth-pass"]) != "works" {
		return nil
	}
	return []Finding{{
		Check: "xml-rpc", Severity: Critical,
		Title:  "mod_xml_rpc runs any command for everybody, or for whoever knows its default login",
		Seen:   "xml_rpc.conf has no auth-realm, or the login of the vanilla configuration.",
		Why:    "It listens on all addresses, and its commands run programs (CVE-2018-19911).",
		Change: "Unload mod_xml_rpc (autoload_configs/modules.conf.xml), or set auth-realm, auth-user and auth-pass in autoload_configs/xml_rpc.conf.xml and close its port.",
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
			Title:  "FreeSWITCH's clock is not ours",
			Seen:   fmt.Sprintf("%v apart.", off),
			Why:    "Bans begin and end by FreeSWITCH's times. More than a minute apart, events count as happening when they arrive.",
			Change: "Let chrony or systemd-timesyncd keep the time on both hosts. FreeSWITCH takes a changed time over with fsctl sync_clock.",
		}
		if off > largeSkew {
			f.Severity = Warning
		}
		all = append(all, f)
	}
	if s.zone != "" && host.Zone != "" && s.zone != host.Zone {
		all = append(all, Finding{
			Check: "zone", Severity: Note,
			Title: "FreeSWITCH's time zone is not ours",
			Seen:  fmt.Sprintf("FreeSWITCH has %s, we have %s.", word(s.zone), word(host.Zone)),
			Why:   "fsban reckons without zones. To compare logs you have to add the difference.",
		})
	}
	return all
}
