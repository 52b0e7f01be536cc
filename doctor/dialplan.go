package doctor

import (
	"slices"
	"strings"
)

// The bounds of a walk through the dialplan.
const (
	maxHops   = 12         // transfers, one after the other
	maxWalk   = 20_000     // extensions looked at
	maxLines  = 50         // lines found
	maxEffort = 20_000_000 // steps of patterns
)

// A dialplan is FreeSWITCH's XML dialplan: the extensions of each context, in their order.
type dialplan map[string][]*element

func newDialplan(section *element) dialplan {
	plan := make(dialplan)
	section.all(func(e *element) {
		if e.name == "context" {
			name := e.attribute("name")
			plan[name] = append(plan[name], e.children("extension")...)
		}
	})
	return plan
}

// A line is a way out of this FreeSWITCH that a call can take.
type line struct {
	context, extension string
	condition          string // on the number, as it stands in the dialplan; may be empty
	target             string // sofia/gateway/NAME, sofia/PROFILE: without the number and without variables
	gateway            string // the gateway's name, if it is one
	chosen             bool   // the caller chooses the number, or a part of it
	unknown            bool   // a variable does
	prefixes           []string
	path               []string // the contexts on the way, the first one included
}

// A walker follows calls through the dialplan, for one kind of caller.
type walker struct {
	plan     dialplan
	known    bool                // the caller has logged in
	values   map[string][]string // what the directory sets for those who log in, by variable
	globals  map[string]string   // what every call has, unless something else sets it
	domains  []string            // our own
	patterns map[string]*pattern

	set      variables       // what the dialplan set from what the caller chose
	fixed    map[string]bool // what else the dialplan set
	seen     map[string]bool
	looked   int
	steps    int
	lines    []line
	programs map[string]bool // "context/extension (application)": what calls are handed to and cannot be read
	missing  map[string]bool // contexts that are not there
	cut      bool            // a bound was reached
}

func newWalker(plan dialplan, domains []string) *walker {
	return &walker{
		plan: plan, domains: domains, patterns: make(map[string]*pattern), set: make(variables), fixed: make(map[string]bool),
		seen: make(map[string]bool), programs: make(map[string]bool), missing: make(map[string]bool),
	}
}

func (w *walker) pattern(expression string) *pattern {
	p := w.patterns[expression]
	if p == nil {
		p = newPattern(expression)
		w.patterns[expression] = p
	}
	return p
}

// start follows every number that can be dialled into a context.
func (w *walker) start(context string) {
	w.walk(context, numbers{}.and(w.pattern(".")), nil)
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
		at := &visit{walker: w, context: context, extension: e.attribute("name"), path: path}
		at.conditions(e, n, match{numbers: n})
		if !isTrue(e.attribute("continue")) || at.ended {
			n = w.taken(e, n)
		}
	}
}

// taken returns the numbers that an extension leaves to those after it. Only an extension that asks for the number alone
// takes some away for certain.
func (w *walker) taken(e *element, n numbers) numbers {
	conditions := e.children("condition")
	if len(conditions) != 1 || len(conditions[0].children("condition")) > 0 || conditions[0].attribute("regex") != "" {
		return n
	}
	switch c := conditions[0]; {
	case isAbsolute(c):
		return n.without(w.pattern(everything))
	case isNumber(c.attribute("field")) && !isTimed(c):
		return n.without(w.pattern(expressionOf(c)))
	}
	return n
}

// A visit is a walk at one extension.
type visit struct {
	*walker
	context, extension string
	condition          string
	path               []string
	ended              bool // an application ended the call, or let only some in
}

// conditions follows some numbers through the conditions of an extension, or of a condition that has some.
func (at *visit) conditions(e *element, n numbers, captured match) {
	for _, c := range e.children("condition") {
		passes, fails, m := at.test(c, n, captured)
		if passes {
			at.actions(c.children("action"), m)
			at.conditions(c, m.numbers, m)
		}
		if fails {
			at.actions(c.children("anti-action"), match{numbers: n})
		}
		switch strings.ToLower(c.attribute("break")) {
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

// test says whether some of the numbers can pass a condition, whether some can fail it, and what is known of those that
// pass.
func (at *visit) test(c *element, n numbers, captured match) (passes, fails bool, m match) {
	switch rule := strings.ToLower(c.attribute("regex")); {
	case rule == "all":
		m = match{numbers: n}
		for _, r := range c.children("regex") {
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
		// One of several: whichever it is, the numbers may be any that one of them lets through.
		for _, r := range c.children("regex") {
			ok, _, next := at.compare(r, n)
			passes = passes || ok
			if ok && next.by != nil {
				m.by = next.by
			}
		}
		if len(c.children("regex")) > 1 {
			m.by = nil
		}
		m.numbers = n
		return passes, true, m
	case isAbsolute(c):
		return true, false, match{numbers: n}
	case c.attribute("field") == "":
		return true, true, match{numbers: n, by: captured.by} // a time of day
	}
	return at.compare(c, n)
}

// compare tests a field against an expression.
func (at *visit) compare(c *element, n numbers) (passes, fails bool, m match) {
	field, expression := c.attribute("field"), expressionOf(c)
	if field == "" {
		return true, true, match{numbers: n}
	}
	p := at.pattern(expression)
	if isNumber(field) {
		at.condition = expression
		m = match{numbers: n.and(p), by: p}
		return m.numbers.any(&at.steps), p.text != "" && p.text != everything && p.text != "^(.*)$", m
	}
	return at.couldBe(field, p), true, match{numbers: n}
}

// couldBe says whether a field that is not the number can have a value that matches, for this kind of caller.
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
			return numbers{}.and(p).and(at.pattern("^" + quote(v) + "$")).any(&at.steps)
		})
	}
	_, wasSet := at.set[name]
	switch {
	case wasSet, at.fixed[name]:
		return true
	case name == "network_addr", name == "sip_network_ip", name == "sip_received_ip":
		return at.known || matches("198.51.100.77", "203.0.113.177", "2001:db8:5:7::9")
	case name == "acl":
		return at.known || matches("false")
	case name == "sip_authorized", name == "sip_auth_username", name == "sip_acl_authed_by", name == "sip_acl_token", name == "user_name":
		return at.known || matches("")
	}
	if values, ok := at.values[name]; ok {
		// A login sets it; without one the global variable of that name holds, if there is one.
		return matches(at.globals[name]) || at.known && matches(values...)
	}
	return true
}

// expressionOf returns a condition's expression, which may also stand inside it.
func expressionOf(c *element) string {
	if inner := c.child("expression"); inner != nil {
		return strings.TrimSpace(inner.text)
	}
	return c.attribute("expression")
}

func isNumber(field string) bool {
	return field == "destination_number" || field == "${destination_number}"
}

// isAbsolute says that a condition always passes.
func isAbsolute(c *element) bool {
	return c.attribute("field") == "" && c.attribute("regex") == "" && !isTimed(c)
}

// isTimed says that a condition holds at some times only.
func isTimed(c *element) bool {
	for name := range c.attr {
		switch name {
		case "field", "expression", "break", "regex", "require-nested":
		default:
			return true
		}
	}
	return false
}

// isTrue reads a value as FreeSWITCH's switch_true does.
func isTrue(value string) bool {
	switch strings.ToLower(value) {
	case "yes", "on", "true", "t", "enabled", "active", "allow":
		return true
	}
	digits := strings.Trim(value, "0123456789") == ""
	return digits && strings.Trim(value, "0") != ""
}
