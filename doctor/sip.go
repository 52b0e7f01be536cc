package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// profileChecks are the findings about single settings. Seen and Change are completed with the profiles' names.
var profileChecks = []struct {
	applies func(*system, *profile) bool // to a profile with a known configuration
	finding Finding
}{
	{func(_ *system, p *profile) bool { return p.on("accept-blind-auth", false) && p.on("auth-calls", false) }, Finding{
		Check: "accept-blind-auth", Severity: Critical, Title: "accept-blind-auth is on", Seen: "every password is accepted.",
		Why: "Anybody calls as any user, with any password.", Change: "remove accept-blind-auth",
	}},
	{func(_ *system, p *profile) bool {
		return p.on("accept-blind-reg", false) && !p.on("disable-register", false)
	}, Finding{
		Check: "accept-blind-reg", Severity: Critical, Title: "accept-blind-reg is on", Seen: "every registration is accepted.",
		Why:    "Anybody registers as any extension and receives its calls, and no failed login shows it.",
		Change: "remove accept-blind-reg",
	}},
	{(*system).registersStrangers, Finding{
		Check: "register-acl-open", Severity: Critical, Title: "An access list registers anybody, without a password",
		Seen:   "apply-register-acl has only lists that allow every address.",
		Why:    "An address on apply-register-acl registers as any extension without a password.",
		Change: "apply-register-acl = a list with default deny, or none",
	}},
	{func(s *system, p *profile) bool { return p.on("auth-calls", false) && s.letsIn(p) && !p.isLocal() }, Finding{
		Check: "inbound-acl-bypass", Severity: Critical, Title: "An access list replaces the password for everybody",
		Seen:   "auth-calls is on, and apply-inbound-acl has a list that allows every address.",
		Why:    "A call from an address on this list needs no password, and every address is on it.",
		Change: "apply-inbound-acl = a list with default deny",
	}},
	{func(_ *system, p *profile) bool {
		return !p.on("auth-calls", false) && len(p.inboundLists()) == 0 && !p.isLocal()
	}, Finding{
		Check: "inbound-acl", Severity: Warning, Title: "Calls without a password are accepted from every address",
		Seen: "auth-calls is off and there is no apply-inbound-acl.",
		Why:  "Only your carriers need this port. Without a list scanners try numbers here, and FreeSWITCH handles a call for each.",
		Change: "apply-inbound-acl = inbound; in autoload_configs/acl.conf.xml a list inbound with default deny and a node allow " +
			"for each network of your carriers; then reloadxml and restart the profile",
	}},
	{func(s *system, p *profile) bool { return !p.on("auth-calls", false) && s.letsIn(p) && !p.isLocal() }, Finding{
		Check: "inbound-acl-open", Severity: Warning, Title: "The access list for calls without a password allows every address",
		Seen:   "apply-inbound-acl has a list that allows every address.",
		Why:    "A list with default allow refuses only the addresses in it, and attackers have more than you can list.",
		Change: "apply-inbound-acl = a list with default deny (autoload_configs/acl.conf.xml)",
	}},
	{func(_ *system, p *profile) bool { return p.on("enable-chat-api-proto", false) }, Finding{
		Check: "chat-api", Severity: Critical, Title: "A SIP MESSAGE can run commands of FreeSWITCH",
		Seen: "enable-chat-api-proto is on.", Why: "Every sender of a MESSAGE can run api commands, and with system any program " +
			"(CVE-2026-116779).", Change: "remove enable-chat-api-proto",
	}},
	{func(s *system, p *profile) bool { return !s.authenticates(p, "messages") }, Finding{
		Check: "auth-messages", Severity: Warning, Title: "Anybody can send messages to your phones",
		Seen:   "auth-messages is off.",
		Why:    "A SIP MESSAGE needs no password, and can name any sender, such as your switchboard (CVE-2021-37624).",
		Change: "auth-messages = true",
	}},
	{func(s *system, p *profile) bool {
		return p.on("manage-presence", false) && !s.authenticates(p, "subscriptions")
	}, Finding{
		Check: "auth-subscriptions", Severity: Warning, Title: "Anybody can watch the calls of extensions",
		Seen: "auth-subscriptions is off.", Why: "A SUBSCRIBE to the state of an extension needs no password (CVE-2021-41157).",
		Change: "auth-subscriptions = true",
	}},
	{func(_ *system, p *profile) bool { return p.on("inbound-reg-force-matching-username", false) }, Finding{
		Check: "forged-failures", Severity: Note, Title: "Failed logins can be forged with one UDP packet",
		Seen: "inbound-reg-force-matching-username is on.",
		Why: "FreeSWITCH refuses a registration with two different user names, and reports a failed login, before the source address is " +
			"proven. An attacker can have any address banned; without the parameter it takes two packets.",
		Change: "leave it on: it keeps a user from registering as another. Add your own networks and carriers to policy.ignoreip: these " +
			"addresses are never banned",
	}},
	{func(_ *system, p *profile) bool { return p.on("log-auth-failures", false) }, Finding{
		Check: "log-auth-failures", Severity: Note, Title: "Each failed login writes to the log",
		Seen: "log-auth-failures is on.", Why: "fsban reads events instead. Under attack the log grows by two lines per attempt.",
		Change: "remove log-auth-failures, unless another program reads these lines",
	}},
	{func(_ *system, p *profile) bool {
		return p.value("wss-binding") != "" && p.browsers > 0 && p.browsers == p.registrations
	}, Finding{
		Check: "browsers-only", Severity: Note, Title: "Only browsers are registered, and the UDP port is open",
		Seen: "all registrations came over ws or wss.", Why: "Nearly all attacks come over UDP, which no phone here uses.",
		Change: "leave it, and close the profile's UDP port in the firewall, so that only wss stays open",
	}},
}

// profileFindings judges the settings of the profiles.
func (s *system) profileFindings() []Finding {
	all := s.openProfileFindings()
	for _, c := range profileChecks {
		var names []string
		for _, p := range s.profiles {
			if p.params != nil && c.applies(s, p) {
				names = append(names, word(p.name))
			}
		}
		if len(names) > 0 {
			slices.Sort(names)
			all = append(all, ofProfiles(names, c.finding))
		}
	}
	return append(all, s.limitFindings()...)
}

// ofProfiles completes a finding with the names of the profiles.
func ofProfiles(names []string, f Finding) Finding {
	f.Seen = capital(profilesOf(names)) + ": " + f.Seen
	f.Change = settingOf(names, f.Change) + "."
	return f
}

// openProfileFindings names profiles that serve extensions and ask for no password.
func (s *system) openProfileFindings() (all []Finding) {
	for _, p := range s.profiles {
		context, open := s.door(p)
		if shown := s.servesPhones(p); open && shown != "" && !p.on("auth-calls", false) {
			all = append(all, ofProfiles([]string{word(p.name)}, Finding{
				Check: "auth-calls", Severity: Critical,
				Title: fmt.Sprintf("Profile %s serves extensions and requires no password for calls", word(p.name)),
				Seen:  fmt.Sprintf("auth-calls is off, calls go to context %s, and %s.", word(context), shown),
				Why:   "Anybody can call as any extension: a call needs no registration.", Change: "auth-calls = true",
			}))
		}
	}
	return all
}

// profilesOf is "profile a" or "profiles a and b".
func profilesOf(names []string) string {
	if len(names) == 1 {
		return "profile " + names[0]
	}
	return "profiles " + list(names)
}

// letsIn reports whether an inbound list of a profile lets strangers in.
func (s *system) letsIn(p *profile) bool {
	return slices.ContainsFunc(p.inboundLists(), func(use string) bool { return s.open[listName(use)] })
}

// registersStrangers reports whether strangers pass all register lists of a profile.
func (s *system) registersStrangers(p *profile) bool {
	lists := p.lists("apply-register-acl")
	closed := slices.ContainsFunc(lists, func(use string) bool { return !s.open[use] })
	return len(lists) > 0 && !closed && !p.on("disable-register", false) && !p.isLocal()
}

// authenticates reports whether a profile asks for a password before it takes messages or subscriptions. disable-auth-… goes
// before auth-…. Before 1.10.7 it asked only if it was configured to.
func (s *system) authenticates(p *profile, requests string) bool {
	if len(p.params["disable-auth-"+requests]) > 0 {
		return !p.on("disable-auth-"+requests, false)
	}
	return p.on("auth-"+requests, !versionOf(s.version).before(versionOf("1.10.7")))
}

// limitFindings report the limits of FreeSWITCH under a flood.
func (s *system) limitFindings() []Finding {
	by := make(map[string][]string)
	for _, p := range s.profiles {
		if p.params != nil {
			limit := cmp.Or(p.value("max-recv-requests-per-second"), "1000")
			by[limit] = append(by[limit], word(p.name))
		}
	}
	var seen []string
	for _, limit := range slices.Sorted(maps.Keys(by)) {
		seen = append(seen, fmt.Sprintf("%s requests a second at %s", word(limit), profilesOf(by[limit])))
	}
	settings := params(s.core)
	for _, name := range []string{"sessions-per-second", "max-sessions"} {
		if v := last(settings[name]); v != "" {
			seen = append(seen, name+" "+word(v))
		}
	}
	if len(seen) == 0 {
		return nil
	}
	return []Finding{{
		Check: "limits", Severity: Note, Title: "Limits of FreeSWITCH under a flood", Seen: capital(strings.Join(seen, "; ")) + ".",
		Why: "Above max-recv-requests-per-second a profile drops the requests of phones too, and reports none of them, so fsban counts only a " +
			"part of a flood. sessions-per-second bounds how fast an intruder makes calls.",
		Change: "autoload_configs/switch.conf.xml: set sessions-per-second and max-sessions little above your own peak.",
	}}
}
