package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"fsban/doctor/dialplan"
)

// public is the context that FreeSWITCH's own configuration has for calls from outside.
const public = "public"

// An entry is a context into which some profiles let calls.
type entry struct {
	context  string
	profiles []string
}

// entries collects the profiles that let calls in, by context. way returns the context of a profile.
func (s *system) entries(way func(*profile) (string, bool)) []entry {
	by := make(map[string][]string)
	for _, p := range s.profiles {
		if context, open := way(p); open && context != "" {
			by[context] = append(by[context], p.name)
		}
	}
	var all []entry
	for _, context := range slices.Sorted(maps.Keys(by)) {
		slices.Sort(by[context])
		all = append(all, entry{context, by[context]})
	}
	return all
}

// callFindings report the ways of calls.
func (s *system) callFindings() []Finding {
	if s.plan == nil {
		return nil
	}
	open := s.entries(s.door)
	closed := s.entries(func(p *profile) (string, bool) {
		if _, open := s.door(p); open {
			return "", false
		}
		return s.sideDoor(p)
	})
	var all []Finding
	done := make(map[string]bool)
	var programs []string
	for _, e := range open {
		r := s.follow(e.context, false)
		all = append(all, few(s.lineFindings(&r, e, done))...)
		for _, p := range r.Programs {
			programs = append(programs, fmt.Sprintf("%s/%s (%s)", word(p.Context), word(p.Extension), sanitize(p.Application)))
		}
		s.missingContexts(&r, e)
	}
	for _, e := range closed {
		if slices.ContainsFunc(open, func(o entry) bool { return o.context == e.context }) {
			continue
		}
		r := s.follow(e.context, false)
		all = append(all, s.listedFindings(&r, e)...)
		s.missingContexts(&r, e)
	}
	if len(programs) > 0 {
		all = append(all, Finding{
			Check: "public-program", Severity: Note,
			Title:  "Calls from outside are handed to programs that doctor cannot examine",
			Seen:   list(programs) + ".",
			Why:    "The dialplan does not show which numbers such a program dials, and for which callers.",
			Change: "Check that none of them lets a caller from outside choose an outbound number.",
		})
	}
	return append(all, s.abroadFindings()...)
}

// follow walks the dialplan from a context.
func (s *system) follow(context string, loggedIn bool) dialplan.Result {
	var domains []string
	for _, d := range s.domains {
		domains = append(domains, d.Attribute("name"))
	}
	r := dialplan.Walk(s.plan, context, dialplan.Caller{LoggedIn: loggedIn, Values: s.userVariables(), Globals: s.globals, Domains: domains})
	if r.Cut {
		s.unseen = append(s.unseen, unseen{subject: "the whole dialplan from context " + word(context),
			why: "it is too large to be walked to its end"})
	}
	return r
}

// userVariables are the values that the directory gives, by variable.
func (s *system) userVariables() map[string][]string {
	values := make(map[string][]string)
	for _, u := range s.users {
		for name := range u.variables {
			if v := u.variable(name); !slices.Contains(values[name], v) && len(values[name]) < maxNames {
				values[name] = append(values[name], v)
			}
		}
	}
	return values
}

// missingContexts notes the contexts that a walk did not find.
func (s *system) missingContexts(r *dialplan.Result, e entry) {
	for _, context := range r.Missing {
		subject := fmt.Sprintf("where calls to context %s go (profile %s)", word(context), list(words(e.profiles)))
		s.unseen = append(s.unseen, unseen{subject: subject, why: "the context is not in the dialplan that FreeSWITCH shows: is it served by " +
			"xml_curl or another module?"})
	}
}

// leads reports whether a line exists: its gateway does, or may.
func (s *system) leads(l *dialplan.Line) bool {
	switch {
	case l.Gateway == "" || !s.hasWays:
		return true
	case strings.Contains(l.Gateway, "$"):
		return len(s.gateways) > 0
	}
	return s.gateways[l.Gateway]
}

// lineFindings are the lines that strangers reach.
func (s *system) lineFindings(r *dialplan.Result, e entry, done map[string]bool) []Finding {
	var all []Finding
	from := "profile " + list(words(e.profiles))
	for i := range r.Lines {
		l := &r.Lines[i]
		key := l.Context + "/" + l.Extension + "/" + l.Condition + "/" + l.Target
		if done[key] {
			continue
		}
		done[key] = true
		f := Finding{
			Seen: describe(from, l),
			Change: fmt.Sprintf("dialplan/%s.xml (or an included file): remove the bridge from extension %s, or let only logged-in "+
				"callers reach it.", word(l.Context), word(l.Extension)),
		}
		switch {
		case l.Chosen && s.leads(l):
			f.Check, f.Severity = "public-line", Critical
			f.Title = fmt.Sprintf("Anybody can call out through %s, without a password", word(l.Target))
			f.Why = "Calls to " + from + " need no password, and scanners try prefixes until one leads to an outbound line. You pay for their calls."
			if len(l.Prefixes) > 0 {
				f.Seen += " International numbers are accepted, with " + enumerate(l.Prefixes) + " in front."
			}
		case l.Chosen:
			f.Check, f.Severity = "public-line-dead", Warning
			f.Title = fmt.Sprintf("Anybody could call out through %s, if it existed", word(l.Target))
			f.Why = "No such gateway exists now. Once it is added, calls to " + from + " reach it without a password."
		case l.Variable:
			f.Check, f.Severity = "public-line-variable", Warning
			f.Title = fmt.Sprintf("Calls from outside reach the outbound line %s, with a number from a variable", word(l.Target))
			f.Why = "If a caller can influence that variable, callers of " + from + " choose the number, without a password."
		default:
			f.Check, f.Severity = "public-line-fixed", Note
			f.Title = fmt.Sprintf("Calls from outside are forwarded to a fixed number through %s", word(l.Target))
			f.Why = "You pay for each of these calls. The caller cannot choose the number."
			f.Change = "Nothing, if the number is one that you mean to call."
		}
		all = append(all, f)
	}
	return all
}

// maxSame bounds the lines of one context that are reported one by one.
const maxSame = 10

// few keeps the worst of many findings, and adds the number of the others.
func few(all []Finding) []Finding {
	if len(all) <= maxSame {
		return all
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	kept := all[:maxSame]
	kept[maxSame-1].Seen += fmt.Sprintf(" And %d more like these.", len(all)-maxSame)
	return kept
}

// describe renders the way of a call to a line.
func describe(from string, l *dialplan.Line) string {
	seen := fmt.Sprintf("%s, context %s, extension %s", from, enumerateArrows(l.Path), word(l.Extension))
	if l.Condition != "" {
		seen += ", number " + word(l.Condition)
	}
	return capital(seen) + "."
}

func enumerateArrows(path []string) string { return strings.Join(words(path), " → ") }

// listedFindings are the lines that only an access list keeps strangers from.
func (s *system) listedFindings(r *dialplan.Result, e entry) []Finding {
	var seen []string
	for i := range r.Lines {
		if l := &r.Lines[i]; l.Chosen && s.leads(l) {
			seen = append(seen, describe("profile "+list(words(e.profiles)), l))
		}
	}
	if len(seen) == 0 {
		return nil
	}
	more := ""
	if len(seen) > 5 {
		seen, more = seen[:5], fmt.Sprintf(" And %d more.", len(seen)-5)
	}
	return []Finding{{
		Check: "listed-line", Severity: Warning,
		Title: "Only an access list keeps unknown callers from an outbound line",
		Seen:  strings.Join(seen, " ") + more,
		Why: "Calls from the listed networks reach the line without a password: a carrier's customer can call abroad at your expense, and a " +
			"mistake in the list opens the line to everybody.",
		Change: "Give the profile a context of its own, without outbound extensions (param context in sip_profiles), and keep those for " +
			"logged-in callers.",
	}}
}

// abroadFindings report the contexts from which extensions can call abroad.
func (s *system) abroadFindings() []Finding {
	var seen []string
	for _, context := range slices.Sorted(maps.Keys(s.contextsOfUsers())) {
		r := s.follow(context, true)
		for i := range r.Lines {
			if l := &r.Lines[i]; len(l.Prefixes) > 0 && s.leads(l) {
				seen = append(seen, fmt.Sprintf("%s/%s (%s) through %s with %s", word(l.Context), word(l.Extension), word(l.Condition), word(l.Target),
					enumerate(l.Prefixes)))
			}
		}
	}
	if len(seen) == 0 {
		return nil
	}
	return []Finding{{
		Check: "international", Severity: Warning,
		Title: "Extensions can call abroad",
		Seen:  list(seen) + ".",
		Why:   "One guessed password is enough for calls to expensive numbers abroad, usually at night. Close routes that are not needed.",
		Change: "In the dialplan, accept 00, + and 011 in destination_number only for extensions that need them; have your carrier bar or " +
			"cap international calls.",
	}}
}
