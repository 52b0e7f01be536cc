package doctor

import "slices"

// blindSpots report attacks on this FreeSWITCH that fsban cannot see.
func (s *system) blindSpots(opts *Options) []Finding {
	var all []Finding
	blind := func(check, title, seen, why, change string) {
		all = append(all, Finding{Check: check, Severity: Note, Title: "fsban does not count " + title, Seen: seen, Why: why, Change: change})
	}
	var oracles, silent []string
	for _, p := range s.profiles {
		if p.params == nil || p.isLocal() {
			continue
		}
		if s.authenticates(p, "messages") || p.on("manage-presence", false) && s.authenticates(p, "subscriptions") {
			oracles = append(oracles, word(p.name))
		}
		if p.on("auth-calls", false) && p.on("auth-calls-acl-only", false) {
			silent = append(silent, word(p.name))
		}
	}
	if len(oracles) > 0 {
		blind("blind-oracle", "passwords guessed with SUBSCRIBE or MESSAGE",
			capital(profilesOf(oracles))+": FreeSWITCH requires a password for these requests, and does not report a wrong one.",
			"An attacker can use one challenge for any number of guesses, and none of them leads to a ban.",
			"Give users random passwords of 12 characters or more. If no phone watches another one (busy lamp fields), set manage-presence = false.")
	}
	for _, e := range s.entries(s.door) {
		if !slices.Contains(opts.Contexts, e.context) {
			blind("blind-context", "calls without a password into context "+word(e.context),
				capital(profilesOf(words(e.profiles)))+": calls need no login there, so none fails.",
				"Scanners try one number after another until one leads to an outbound line. Only the calls themselves show them.",
				"Add the context to calls.contexts in fsban's configuration: then each of these calls counts as an attempt.")
		}
	}
	if len(silent) > 0 {
		blind("blind-acl", "calls that auth-calls-acl-only refuses", capital(profilesOf(silent))+": auth-calls and auth-calls-acl-only are on.",
			"FreeSWITCH reports these refusals at debug level only, so their senders are not banned.",
			"Nothing, as long as the access list is right: the calls are refused.")
	}
	if slices.Contains(opts.Denied, opts.Required) {
		all = append(all, Finding{
			Check: "login", Severity: Critical, Title: "fsban's login receives no failed logins", Seen: "FreeSWITCH refuses it " +
				list(words(opts.Denied)) + ".",
			Why:    "fsban counts the event " + word(opts.Required) + ". Without it no address is banned.",
			Change: "Add the events to esl-allowed-events of the login (freeswitch.user) in FreeSWITCH's directory.",
		})
	} else if len(opts.Denied) > 0 {
		blind("blind-login", "attempts in events that its login does not receive", "FreeSWITCH refuses it "+list(words(opts.Denied))+".",
			"Attempts that only these events report are not counted.",
			"Add them to esl-allowed-events, and log to esl-allowed-log, of the login in FreeSWITCH's directory.")
	}
	if s.modules["mod_verto"] {
		blind("blind-verto", "logins over verto", "mod_verto is loaded.",
			"mod_verto reports its logins in events of its own, which fsban does not read: guessing passwords there leads to no ban.",
			"Unload mod_verto if no browser uses it; otherwise bind it to the addresses that need it (verto.conf.xml).")
	}
	blind("blind-scans", "attacks that FreeSWITCH does not report",
		"OPTIONS scans, malformed packets, calls above sessions-per-second, requests above max-recv-requests-per-second.",
		"They produce no event, so they lead to no ban. They cause load, but no logins and no calls.",
		"Keep max-recv-requests-per-second and sessions-per-second close to your own peak.")
	return all
}

// unseenFindings report the subjects that could not be examined, by cause.
func (s *system) unseenFindings() []Finding {
	var causes, denied []string
	by := make(map[string][]string)
	for _, u := range s.unseen {
		if u.denied != "" {
			denied = append(denied, u.denied)
		}
		if !slices.Contains(causes, u.why) {
			causes = append(causes, u.why)
		}
		by[u.why] = append(by[u.why], u.subject)
	}
	var all []Finding
	for _, cause := range causes {
		subjects := by[cause]
		f := Finding{Check: "unseen", Severity: Note, Title: "Not examined: " + subjects[0], Seen: "Not examined: " + list(subjects) + ".",
			Why: capital(cause) + ".", Change: "Run fsban doctor again once that is corrected: faults there are not in this report."}
		if n := len(subjects) - 1; n > 0 {
			f.Title += " and " + plural(n, "one more subject", "more subjects")
		}
		if cause == "" {
			f.Why = "FreeSWITCH does not let this login run " + list(denied) + ", so faults there are not in this report."
			f.Change = "Run doctor with the event socket's own password (freeswitch.user empty), or add these commands to esl-allowed-api of the " +
				"login. The daemon does not need them."
		}
		all = append(all, f)
	}
	if s.directory && len(s.users) == 0 {
		all = append(all, Finding{
			Check: "unseen", Severity: Note, Title: "No password was examined",
			Seen: "The directory that FreeSWITCH shows has no users, and no registered user could be looked up.",
			Why: "Weak passwords are not in this report. Extensions from redis, a database or xml_curl can be examined only while they are " +
				"registered.",
			Change: "Run doctor again while phones are registered.",
		})
	}
	return all
}
