package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// public is the context that FreeSWITCH's own configuration has for calls from outside.
const public = "public"

// An entry is a context into which some profiles let calls.
type entry struct {
	context  string
	profiles []string
}

// entries collects, by context, the profiles for which way says that they let calls into one.
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

// callFindings say which calls get where.
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
		w := s.follow(e.context, false)
		all = append(all, few(s.lineFindings(w, e, done))...)
		programs = append(programs, slices.Collect(maps.Keys(w.programs))...)
		s.missingContexts(w, e)
	}
	for _, e := range closed {
		if slices.ContainsFunc(open, func(o entry) bool { return o.context == e.context }) {
			continue
		}
		w := s.follow(e.context, false)
		all = append(all, s.listedFindings(w, e)...)
		s.missingContexts(w, e)
	}
	if len(programs) > 0 {
		all = append(all, Finding{
			Check: "public-program", Severity: Note,
			Title:  "Calls from outside are handed to programs that doctor cannot read",
			Seen:   list(programs) + ".",
			Why:    "What such a program dials, and for whom, does not stand in the dialplan.",
			Change: "Make sure that none of them lets a caller from outside choose an outbound number.",
		})
	}
	return append(all, s.abroadFindings()...)
}

// follow walks the dialplan from a context.
func (s *system) follow(context string, known bool) *walker {
	var domains []string
	for _, d := range s.domains {
		domains = append(domains, d.attribute("name"))
	}
	w := newWalker(s.plan, domains)
	w.known, w.values, w.globals = known, s.userVariables(), s.globals
	w.start(context)
	if w.cut {
		s.unseen = append(s.unseen, unseen{what: "the whole dialplan from context " + word(context), why: "it is too large to be walked to its end"})
	}
	return w
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

// missingContexts notes what a walk did not find.
func (s *system) missingContexts(w *walker, e entry) {
	for _, context := range slices.Sorted(maps.Keys(w.missing)) {
		what := fmt.Sprintf("where calls to context %s go (profile %s)", word(context), list(words(e.profiles)))
		s.unseen = append(s.unseen, unseen{what: what, why: "the context is not in the dialplan that FreeSWITCH shows: is it served by xml_curl or another module?"})
	}
}

// leads says whether a line exists: its gateway does, or may.
func (s *system) leads(l *line) bool {
	switch {
	case l.gateway == "" || !s.hasWays:
		return true
	case strings.Contains(l.gateway, "$"):
		return len(s.gateways) > 0
	}
	return s.gateways[l.gateway]
}

// lineFindings are the lines that strangers reach.
func (s *system) lineFindings(w *walker, e entry, done map[string]bool) []Finding {
	var all []Finding
	from := "profile " + list(words(e.profiles))
	for i := range w.lines {
		l := &w.lines[i]
		key := l.context + "/" + l.extension + "/" + l.condition + "/" + l.target
		if done[key] {
			continue
		}
		done[key] = true
		f := Finding{
			Seen:   describe(from, l),
			Change: fmt.Sprintf("dialplan/%s.xml (or what it includes): take the bridge out of extension %s, or let only logged-in callers reach it.", word(l.context), word(l.extension)),
		}
		switch {
		case l.chosen && s.leads(l):
			f.Check, f.Severity = "public-line", Critical
			f.Title = fmt.Sprintf("Anybody can call out through %s, without a password", word(l.target))
			f.Why = "Calls to " + from + " need no password, and scanners try all day which prefix gets them out. You pay for what they dial."
			if len(l.prefixes) > 0 {
				f.Seen += " International numbers get through, with " + enumerate(l.prefixes) + " in front."
			}
		case l.chosen:
			f.Check, f.Severity = "public-line-dead", Warning
			f.Title = fmt.Sprintf("Anybody could call out through %s, if it existed", word(l.target))
			f.Why = "No such gateway exists now. On the day that somebody adds it, calls to " + from + " get out without a password."
		case l.unknown:
			f.Check, f.Severity = "public-line-variable", Warning
			f.Title = fmt.Sprintf("Calls from outside get out through %s, to a number that a variable names", word(l.target))
			f.Why = "If a caller can have a say in that variable, calls to " + from + " are outbound calls without a password."
		default:
			f.Check, f.Severity = "public-line-fixed", Note
			f.Title = fmt.Sprintf("Calls from outside go on to a fixed number through %s", word(l.target))
			f.Why = "Each of them costs you a call. The number is not the caller's choice."
			f.Change = ""
		}
		all = append(all, f)
	}
	return all
}

// maxSame bounds how many lines of one context are told one by one.
const maxSame = 10

// few keeps the worst of many findings, and says how many more there are.
func few(all []Finding) []Finding {
	if len(all) <= maxSame {
		return all
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	kept := all[:maxSame]
	kept[maxSame-1].Seen += fmt.Sprintf(" And %d more ways out like these.", len(all)-maxSame)
	return kept
}

// describe says how a call gets to a line.
func describe(from string, l *line) string {
	seen := fmt.Sprintf("%s, context %s, extension %s", from, enumerateArrows(l.path), word(l.extension))
	if l.condition != "" {
		seen += ", number " + word(l.condition)
	}
	return capital(seen) + "."
}

func enumerateArrows(path []string) string { return strings.Join(words(path), " → ") }

// listedFindings are the lines that only an access list keeps strangers from.
func (s *system) listedFindings(w *walker, e entry) []Finding {
	var seen []string
	for i := range w.lines {
		if l := &w.lines[i]; l.chosen && s.leads(l) {
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
		Title:  "Only an access list stands between strangers and an outbound line",
		Seen:   strings.Join(seen, " ") + more,
		Why:    "Calls from the listed networks get out without a password: a carrier's customer can call abroad through you, and a mistake in the list opens it to all.",
		Change: "Give the profile a context of its own, without outbound extensions (param context in sip_profiles), and keep those for logged-in callers.",
	}}
}

// abroadFindings say from where extensions can call abroad.
func (s *system) abroadFindings() []Finding {
	var seen []string
	for _, context := range slices.Sorted(maps.Keys(s.contextsOfUsers())) {
		if s.plan[context] == nil {
			continue
		}
		w := s.follow(context, true)
		for i := range w.lines {
			if l := &w.lines[i]; len(l.prefixes) > 0 && s.leads(l) {
				seen = append(seen, fmt.Sprintf("%s/%s (%s) through %s with %s", word(l.context), word(l.extension), word(l.condition), word(l.target), enumerate(l.prefixes)))
			}
		}
	}
	if len(seen) == 0 {
		return nil
	}
	return []Finding{{
		Check: "international", Severity: Warning,
		Title:  "Extensions can call abroad",
		Seen:   list(seen) + ".",
		Why:    "One guessed password, and calls to expensive numbers abroad are made with it, usually at night. What nobody needs should not be possible.",
		Change: "In the dialplan let the condition on destination_number take no 00, + or 011, or only for those who need it; have your carrier close international calls, or cap them.",
	}}
}
