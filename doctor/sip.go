package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// profileFindings say what is wrong with the settings of profiles. The same fault of several is one finding.
func (s *system) profileFindings() []Finding {
	var all []Finding
	profilesThat := func(f func(*profile) bool) []string {
		var names []string
		for _, p := range s.profiles {
			if p.params != nil && f(p) {
				names = append(names, word(p.name))
			}
		}
		slices.Sort(names)
		return names
	}
	add := func(names []string, f Finding) {
		if len(names) > 0 {
			f.Seen = capital(profilesOf(names)) + ": " + f.Seen
			f.Change = settingOf(names, f.Change) + "."
			all = append(all, f)
		}
	}

	for _, p := range s.profiles {
		context, open := s.door(p)
		if shown := s.servesPhones(p); open && shown != "" && !p.on("auth-calls", false) {
			add([]string{word(p.name)}, Finding{
				Check: "auth-calls", Severity: Critical,
				Title: fmt.Sprintf("Profile %s serves extensions and asks no caller for a password", word(p.name)),
				Seen:  fmt.Sprintf("auth-calls is off, calls go to context %s, and %s.", word(context), shown),
				Why:   "Anybody calls as anybody: a refused registration keeps nobody from calling.", Change: "auth-calls = true",
			})
		}
	}
	add(profilesThat(func(p *profile) bool { return p.on("accept-blind-auth", false) && p.on("auth-calls", false) }), Finding{
		Check: "accept-blind-auth", Severity: Critical, Title: "accept-blind-auth is on", Seen: "every password is taken for right.",
		Why: "Calls are let in as a user's, whatever password they show.", Change: "take accept-blind-auth out",
	})
	add(profilesThat(func(p *profile) bool { return p.on("accept-blind-reg", false) && !p.on("disable-register", false) }), Finding{
		Check: "accept-blind-reg", Severity: Critical, Title: "accept-blind-reg is on", Seen: "every registration is accepted.",
		Why: "Anybody registers as any extension and gets its calls, without a password and without a trace of failure.", Change: "take accept-blind-reg out",
	})
	add(profilesThat(s.registersStrangers), Finding{
		Check: "register-acl-open", Severity: Critical, Title: "An access list registers anybody, without a password",
		Seen: "apply-register-acl names only lists that let strangers in.",
		Why:  "Whoever passes apply-register-acl is registered without being asked for a password.", Change: "apply-register-acl = a list with default deny, or none",
	})
	add(profilesThat(func(p *profile) bool { return p.on("auth-calls", false) && s.letsIn(p) && !p.isLocal() }), Finding{
		Check: "inbound-acl-bypass", Severity: Critical, Title: "An access list takes the place of the password for anybody",
		Seen: "apply-inbound-acl names a list that lets strangers in, with auth-calls on.",
		Why:  "Whoever passes apply-inbound-acl is not asked for a password. The list was meant to keep others out, and lets them in.", Change: "apply-inbound-acl = a list with default deny",
	})
	add(profilesThat(func(p *profile) bool {
		return !p.on("auth-calls", false) && len(p.inboundLists()) == 0 && !p.isLocal()
	}), Finding{
		Check: "inbound-acl", Severity: Warning, Title: "Calls without a password are taken from anywhere",
		Seen: "auth-calls is off and there is no apply-inbound-acl.",
		Why:  "Only your carriers need to reach this port. Without a list every scanner tries its numbers here, and each try is a call that FreeSWITCH handles.",
		Change: "apply-inbound-acl = inbound; in autoload_configs/acl.conf.xml a list inbound with default deny and a node allow " +
			"for each network of your carriers; then reloadxml and restart the profile",
	})
	add(profilesThat(func(p *profile) bool { return !p.on("auth-calls", false) && s.letsIn(p) && !p.isLocal() }), Finding{
		Check: "inbound-acl-open", Severity: Warning, Title: "The access list for calls without a password keeps nobody out",
		Seen: "apply-inbound-acl names a list that lets strangers in.",
		Why:  "A list with default allow stops only those that it names, and attackers have more addresses than you can name.", Change: "apply-inbound-acl = a list with default deny (autoload_configs/acl.conf.xml)",
	})
	add(profilesThat(func(p *profile) bool { return p.on("enable-chat-api-proto", false) }), Finding{
		Check: "chat-api", Severity: Critical, Title: "A SIP MESSAGE can run commands of FreeSWITCH",
		Seen: "enable-chat-api-proto is on.", Why: "With it the api chat protocol is open to whoever can send a MESSAGE: system runs any program (CVE-2026-116779).", Change: "take enable-chat-api-proto out",
	})
	add(profilesThat(func(p *profile) bool { return !s.authenticates(p, "messages") }), Finding{
		Check: "auth-messages", Severity: Warning, Title: "Anybody can send messages to your phones",
		Seen: "auth-messages is off.", Why: "A SIP MESSAGE in the name of your switchboard needs no password (CVE-2021-37624).", Change: "auth-messages = true",
	})
	add(profilesThat(func(p *profile) bool {
		return p.on("manage-presence", false) && !s.authenticates(p, "subscriptions")
	}), Finding{
		Check: "auth-subscriptions", Severity: Warning, Title: "Anybody can watch who calls when",
		Seen: "auth-subscriptions is off.", Why: "A SUBSCRIBE for an extension needs no password (CVE-2021-41157).", Change: "auth-subscriptions = true",
	})
	add(profilesThat(func(p *profile) bool { return p.on("inbound-reg-force-matching-username", false) }), Finding{
		Check: "forged-failures", Severity: Note, Title: "Failed logins can be forged with one UDP packet",
		Seen: "inbound-reg-force-matching-username is on.",
		Why: "A registration whose two user names differ is refused, and reported as a failure, before anything proves where it came from. " +
			"Somebody can have fsban ban addresses of his choice. Without the parameter two packets do it.",
		Change: "leave it as it is: it keeps a user from registering as another. Put your own networks and carriers into policy.ignoreip, so that nobody can have them banned",
	})
	add(profilesThat(func(p *profile) bool { return p.on("log-auth-failures", false) }), Finding{
		Check: "log-auth-failures", Severity: Note, Title: "Each failed login writes to the log",
		Seen: "log-auth-failures is on.", Why: "fsban reads events and does not need it. Under attack the log grows by two lines a try.", Change: "take log-auth-failures out, unless something else reads it",
	})
	add(profilesThat(func(p *profile) bool {
		return p.value("wss-binding") != "" && p.browsers > 0 && p.browsers == p.registrations
	}), Finding{
		Check: "browsers-only", Severity: Note, Title: "Only browsers are registered, and the UDP port is open",
		Seen: "all who are registered came over ws or wss.", Why: "Nearly all attacks come over UDP.", Change: "leave it, and close the profile's UDP port in the firewall, so that only wss stays open",
	})
	return append(all, s.limitFindings()...)
}

// profilesOf is "profile a" or "profiles a and b".
func profilesOf(names []string) string {
	if len(names) == 1 {
		return "profile " + names[0]
	}
	return "profiles " + list(names)
}

// letsIn says whether an inbound list of a profile lets strangers in.
func (s *system) letsIn(p *profile) bool {
	return slices.ContainsFunc(p.inboundLists(), func(use string) bool { return s.open[listName(use)] })
}

// registersStrangers says whether strangers pass all register lists of a profile.
func (s *system) registersStrangers(p *profile) bool {
	lists := p.lists("apply-register-acl")
	closed := slices.ContainsFunc(lists, func(use string) bool { return !s.open[use] })
	return len(lists) > 0 && !closed && !p.on("disable-register", false) && !p.isLocal()
}

// authenticates says whether a profile asks for a password before it takes messages or subscriptions. disable-auth-… goes
// before auth-…. Before 1.10.7 it did not unless it was told to.
func (s *system) authenticates(p *profile, what string) bool {
	if len(p.params["disable-auth-"+what]) > 0 {
		return !p.on("disable-auth-"+what, false)
	}
	return p.on("auth-"+what, !versionOf(s.version).before(versionOf("1.10.7")))
}

// limitFindings say what FreeSWITCH does under a flood.
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
		Check: "limits", Severity: Note, Title: "How much FreeSWITCH takes", Seen: capital(strings.Join(seen, "; ")) + ".",
		Why: "Above max-recv-requests-per-second a profile answers nobody, phones neither, and reports nothing: of such a flood fsban sees one second. " +
			"sessions-per-second bounds how fast an intruder makes calls.",
		Change: "autoload_configs/switch.conf.xml: sessions-per-second and max-sessions not far above what you need.",
	}}
}
