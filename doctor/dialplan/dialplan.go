// Package dialplan finds the ways out of a FreeSWITCH by symbolic evaluation of its XML dialplan: it follows sets of
// numbers, not single calls, through conditions, transfers and applications.
package dialplan

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"fsban/doctor/fsxml"
)

// The bounds of a walk through the dialplan.
const (
	maxHops   = 12         // transfers, one after the other
	maxWalk   = 20_000     // extensions looked at
	maxLines  = 50         // lines found
	maxEffort = 20_000_000 // steps of patterns
)

// A plan holds the extensions of each context, in their order.
type plan map[string][]*fsxml.Element

// A Caller is a kind of caller.
type Caller struct {
	LoggedIn bool
	Values   map[string][]string // of variables that the directory sets for logged-in users
	Globals  map[string]string   // of variables that every call has, unless something else sets them
	Domains  []string            // of this FreeSWITCH
}

// A Result holds the ways out of this FreeSWITCH that were found.
type Result struct {
	Lines    []Line
	Programs []Program
	Missing  []string // contexts that do not exist, sorted
	Cut      bool     // a bound was reached: the result is incomplete
}

// A Line is a way out of this FreeSWITCH that a call can take.
type Line struct {
	Context, Extension string
	Condition          string   // on the number, as written in the dialplan; may be empty
	Target             string   // sofia/gateway/NAME, sofia/PROFILE: without the number and without variables
	Gateway            string   // name of the gateway, or empty
	Chosen             bool     // the caller chooses the number or a part of it
	Variable           bool     // a variable holds the number
	Prefixes           []string // of international numbers that the caller can choose: 00, +, 011
	Path               []string // the contexts on the way, the first one included
}

// A Program is an application that hands calls to something outside the dialplan.
type Program struct{ Context, Extension, Application string }

// Walk follows every number that c can dial into a context through the dialplan, a section of FreeSWITCH's XML. It evaluates
// conditions on sets of numbers, never on single ones. All work is bounded; a bound that is reached sets Cut.
func Walk(section *fsxml.Element, context string, c Caller) Result {
	w := newWalker(section, c)
	w.walk(context, numbers{}.and(w.pattern(".")), nil)
	return Result{
		Lines: w.lines, Cut: w.cut, Missing: slices.Sorted(maps.Keys(w.missing)),
		Programs: slices.SortedFunc(maps.Keys(w.programs), func(a, b Program) int {
			return cmp.Or(cmp.Compare(a.Context, b.Context), cmp.Compare(a.Extension, b.Extension), cmp.Compare(a.Application, b.Application))
		}),
	}
}

// A walker follows calls through the dialplan.
type walker struct {
	plan     plan
	caller   Caller
	patterns map[string]*pattern // by expression

	set    variables       // variables that the dialplan set from the caller's choice
	fixed  map[string]bool // other variables that the dialplan set
	seen   map[string]bool // contexts with their numbers
	looked int             // extensions
	steps  int             // of patterns

	lines    []Line
	programs map[Program]bool
	missing  map[string]bool
	cut      bool
}

func newWalker(section *fsxml.Element, c Caller) *walker {
	w := &walker{
		plan: make(plan), caller: c, patterns: make(map[string]*pattern), set: make(variables), fixed: make(map[string]bool),
		seen: make(map[string]bool), programs: make(map[Program]bool), missing: make(map[string]bool),
	}
	section.All(func(e *fsxml.Element) {
		if e.Name == "context" {
			name := e.Attribute("name")
			w.plan[name] = append(w.plan[name], e.Children("extension")...)
		}
	})
	return w
}

func (w *walker) pattern(expression string) *pattern {
	p := w.patterns[expression]
	if p == nil {
		p = newPattern(expression)
		w.patterns[expression] = p
	}
	return p
}

// walk follows some numbers through a context.
func (w *walker) walk(context string, n numbers, path []string) {
	extensions, ok := w.plan[context]
	if !ok {
		w.missing[context] = true
		return
	}
	key := context + "\n" + n.key()
	if w.seen[key] {
		return
	}
	w.seen[key] = true
	if len(path) == maxHops {
		w.cut = true
		return
	}
	path = append(slices.Clone(path), context)
	checked := -1 // how much was taken from n when it was last known to have a number
	for _, e := range extensions {
		if w.looked++; w.looked > maxWalk || w.steps > maxEffort {
			w.cut = true
			return
		}
		if len(n.mustNot) != checked && !n.any(&w.steps) {
			return
		}
		checked = len(n.mustNot)
		at := &visit{w: w, context: context, extension: e.Attribute("name"), path: path}
		at.conditions(e, n, match{numbers: n})
		if !fsxml.IsTrue(e.Attribute("continue")) || at.ended {
			n = w.taken(e, n)
		}
	}
}

// taken returns the numbers that an extension leaves to those after it. Only an extension that asks for the number alone
// takes some away for certain.
func (w *walker) taken(e *fsxml.Element, n numbers) numbers {
	conditions := e.Children("condition")
	if len(conditions) != 1 || len(conditions[0].Children("condition")) > 0 || conditions[0].Attribute("regex") != "" {
		return n
	}
	switch c := conditions[0]; {
	case isAbsolute(c):
		return n.without(w.pattern(everything))
	case isNumber(c.Attribute("field")) && !isTimed(c):
		return n.without(w.pattern(expressionOf(c)))
	}
	return n
}

// A visit is a walk at one extension.
type visit struct {
	w                  *walker
	context, extension string
	condition          string
	path               []string
	ended              bool // an application ended the call, or let only some in
}

// conditions follows some numbers through the conditions of an extension, or of a condition that has some.
func (at *visit) conditions(e *fsxml.Element, n numbers, captured match) {
	for _, c := range e.Children("condition") {
		passes, fails, m := at.test(c, n, captured)
		if passes {
			at.actions(c.Children("action"), m)
			at.conditions(c, m.numbers, m)
		}
		if fails {
			at.actions(c.Children("anti-action"), match{numbers: n})
		}
		switch strings.ToLower(c.Attribute("break")) {
		case "always":
			return
		case "never":
		case "on-true":
			if !fails {
				return
			}
		default:
			if !passes {
				return
			}
			n, captured = m.numbers, m
		}
	}
}

// test reports whether some of the numbers can pass a condition, whether some can fail it, and the known properties of those that
// pass.
func (at *visit) test(c *fsxml.Element, n numbers, captured match) (passes, fails bool, m match) {
	switch rule := strings.ToLower(c.Attribute("regex")); {
	case rule == "all":
		m = match{numbers: n}
		for _, r := range c.Children("regex") {
			ok, _, next := at.compare(r, m.numbers)
			if !ok {
				return false, true, m
			}
			if next.by != nil {
				m.by = next.by
			}
			m.numbers = next.numbers
		}
		return true, true, m
	case rule != "":
		// One of several: the numbers may be any that one of them lets through.
		for _, r := range c.Children("regex") {
			ok, _, next := at.compare(r, n)
			passes = passes || ok
			if ok && next.by != nil {
				m.by = next.by
			}
		}
		if len(c.Children("regex")) > 1 {
			m.by = nil
		}
		m.numbers = n
		return passes, true, m
	case isAbsolute(c):
		return true, false, match{numbers: n}
	case c.Attribute("field") == "":
		return true, true, match{numbers: n, by: captured.by} // a time of day
	}
	return at.compare(c, n)
}

// compare tests a field against an expression.
func (at *visit) compare(c *fsxml.Element, n numbers) (passes, fails bool, m match) {
	field, expression := c.Attribute("field"), expressionOf(c)
	if field == "" {
		return true, true, match{numbers: n}
	}
	p := at.w.pattern(expression)
	if isNumber(field) {
		at.condition = expression
		m = match{numbers: n.and(p), by: p}
		return m.numbers.any(&at.w.steps), p.text != "" && p.text != everything && p.text != "^(.*)$", m
	}
	return at.couldBe(field, p), true, match{numbers: n}
}

// couldBe reports whether a field that is not the number can have a value that matches, for this kind of caller.
func (at *visit) couldBe(field string, p *pattern) bool {
	name, isVariable := variableName(field)
	if !isVariable {
		name = field
	}
	if !p.exact {
		return true
	}
	matches := func(values ...string) bool {
		return slices.ContainsFunc(values, func(v string) bool {
			return numbers{}.and(p).and(at.w.pattern("^" + quote(v) + "$")).any(&at.w.steps)
		})
	}
	_, wasSet := at.w.set[name]
	switch {
	case wasSet, at.w.fixed[name]:
		return true
	case name == "network_addr", name == "sip_network_ip", name == "sip_received_ip":
		return at.w.caller.LoggedIn || matches("198.51.100.77", "203.0.113.177", "2001:db8:5:7::9")
	case name == "acl":
		return at.w.caller.LoggedIn || matches("false")
	case name == "sip_authorized", name == "sip_auth_username", name == "sip_acl_authed_by", name == "sip_acl_token", name == "user_name":
		return at.w.caller.LoggedIn || matches("")
	}
	if values, ok := at.w.caller.Values[name]; ok {
		// A login sets it; without one the global variable of that name holds, if there is one.
		return matches(at.w.caller.Globals[name]) || at.w.caller.LoggedIn && matches(values...)
	}
	return true
}

// expressionOf returns a condition's expression, which may also stand inside it.
func expressionOf(c *fsxml.Element) string {
	if inner := c.Child("expression"); inner != nil {
		return strings.TrimSpace(inner.Text)
	}
	return c.Attribute("expression")
}

func isNumber(field string) bool {
	return field == "destination_number" || field == "${destination_number}"
}

// isAbsolute reports that a condition always passes.
func isAbsolute(c *fsxml.Element) bool {
	return c.Attribute("field") == "" && c.Attribute("regex") == "" && !isTimed(c)
}

// isTimed reports that a condition holds at some times only.
func isTimed(c *fsxml.Element) bool {
	for name := range c.Attr {
		switch name {
		case "field", "expression", "break", "regex", "require-nested":
		default:
			return true
		}
	}
	return false
}
