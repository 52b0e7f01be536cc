package doctor

import "slices"

// blindSpots say what happens at this FreeSWITCH and stays unseen by fsban.
func (s *system) blindSpots(opts *Options) []Finding {
	var all []Finding
	blind := func(check, title, seen, why, change string) {
		all = append(all, Finding{Check: check, Severity: Note, Title: "fsban cannot see " + title, Seen: seen, Why: why, Change: change})
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
		blind("blind-oracle", "passwords that are guessed by SUBSCRIBE or MESSAGE",
			capital(profilesOf(oracles))+": FreeSWITCH asks for a password there, and reports no wrong one.",
			"One honest challenge serves any number of tries, unseen. Only long passwords help.",
			"Passwords of 12 random characters or more. Where there are no phones that watch each other: manage-presence = false.")
	}
	for _, e := range s.entries(s.door) {
		if !slices.Contains(opts.Contexts, e.context) {
			blind("blind-context", "calls without a password into context "+word(e.context),
				capital(profilesOf(words(e.profiles)))+": calls there need no login, so none fails.",
				"Scanners dial number after number until one gets them out. Only the calls themselves show it.",
				"Name the context in calls.contexts in fsban's configuration.")
		}
	}
	if len(silent) > 0 {
		blind("blind-acl", "calls that auth-calls-acl-only refuses", capital(profilesOf(silent))+".",
			"FreeSWITCH reports them at debug level only.", "")
	}
	if slices.Contains(opts.Denied, opts.Required) {
		all = append(all, Finding{
			Check: "login", Severity: Critical, Title: "fsban's login may not see failed logins", Seen: "FreeSWITCH refuses it " + list(words(opts.Denied)) + ".",
			Why: "Without " + word(opts.Required) + " there is nothing to count, and nobody is banned.", Change: "esl-allowed-events of the login in FreeSWITCH's directory.",
		})
	} else if len(opts.Denied) > 0 {
		blind("blind-login", "what its login may not see", list(words(opts.Denied))+".",
			"What these events tell is not counted.", "esl-allowed-events and esl-allowed-log of the login in FreeSWITCH's directory.")
	}
	if s.modules["mod_verto"] {
		blind("blind-verto", "logins by verto", "mod_verto is loaded.",
			"Its logins have events of their own, which fsban does not count.",
			"Unload mod_verto if no browser uses it; else bind it to the addresses that need it (verto.conf.xml).")
	}
	blind("blind-scans", "what FreeSWITCH does not report", "OPTIONS scans, malformed packets, calls above sessions-per-second, all above max-recv-requests-per-second.",
		"They leave no event. They do no harm but load.", "")
	return all
}

// unseenFindings say what could not be looked at, by cause.
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
		by[u.why] = append(by[u.why], u.what)
	}
	var all []Finding
	for _, cause := range causes {
		what := by[cause]
		f := Finding{Check: "unseen", Severity: Note, Title: "Could not look at " + what[0], Seen: "Not seen: " + list(what) + ".", Why: capital(cause) + "."}
		if n := len(what) - 1; n > 0 {
			f.Title += " and " + plural(n, "one thing more", "things more")
		}
		if cause == "" {
			f.Why = "This login may not run " + list(denied) + "."
			f.Change = "Run doctor with the event socket's own password (freeswitch.user empty), or add these commands to esl-allowed-api of the login. fsban does not need them to guard."
		}
		all = append(all, f)
	}
	if s.directory && len(s.users) == 0 {
		all = append(all, Finding{
			Check: "unseen", Severity: Note, Title: "Could not judge any password",
			Seen: "The directory that FreeSWITCH shows has no users, and of those who are registered none could be looked up.",
			Why:  "Extensions from redis, a database or xml_curl are seen while they are registered.",
		})
	}
	return all
}
