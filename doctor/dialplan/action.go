package dialplan

import (
	"slices"
	"strings"

	"fsban/doctor/fsxml"
)

// actions follows the actions of a condition for the numbers that pass it.
func (at *visit) actions(list []*fsxml.Element, m match) {
	for _, a := range list {
		data := a.Attribute("data")
		if text := strings.TrimSpace(a.Text); text != "" {
			data = text
		}
		if at.action(a.Attribute("application"), data, m, 0) {
			at.ended = true
			return
		}
	}
}

// maxNested bounds applications within applications.
const maxNested = 4

// programs are applications that hand a call to something that is not in the dialplan. mod_cti's begin with cti_.
var programs = []string{
	"lua", "javascript", "python", "python3", "perl", "java", "managed", "socket", "httapi", "ivr", "erlang", "kazoo", "lcr", "enum", "rayo",
	"cti",
}

// action follows one application, and reports whether the call ends with it, except for callers that are let in.
func (at *visit) action(application, data string, m match, nested int) (ended bool) {
	if nested > maxNested {
		return false
	}
	data = strings.TrimSpace(data)
	switch application {
	case "hangup", "respond", "redirect", "deflect":
		return true
	case "check_acl":
		return !at.w.caller.LoggedIn
	case "set", "export", "set_profile_var", "multiset", "push", "unshift":
		at.assign(data, m)
	case "set_user":
		for name := range at.w.caller.Values { // as if that user had logged in
			at.w.fixed[name] = true
		}
	case "bridge", "att_xfer":
		at.dial(data, m)
	case "transfer", "execute_extension":
		words := strings.Fields(data)
		if len(words) > 0 && (words[0] == "-bleg" || words[0] == "-both") {
			words = words[1:]
		}
		at.transfer(words, m, nested)
	case "sched_transfer":
		if words := strings.Fields(data); len(words) > 1 {
			at.transfer(words[1:], m, nested)
		}
	case "limit_execute":
		if words := strings.Fields(data); len(words) > 4 {
			return at.action(words[4], strings.Join(words[5:], " "), m, nested+1)
		}
	case "bind_meta_app":
		// KEY LEGS FLAGS APP::DATA; a caller from outside is leg a.
		if words := strings.Fields(data); len(words) > 3 && strings.Contains(words[1], "a") {
			app, rest, _ := strings.Cut(strings.Join(words[3:], " "), "::")
			at.action(app, rest, m, nested+1) // an application on a key does not end the call
		}
	case "conference":
		if parts := strings.SplitN(data, ":", 3); len(parts) == 3 && parts[0] == "bridge" {
			at.dial(parts[2], m)
		}
	default:
		family, _, _ := strings.Cut(application, "_")
		if slices.Contains(programs, application) || family == "cti" {
			at.program(application)
		}
	}
	return false
}

// program notes that a call is handed to a program. Its arguments are not kept: they may be a
// secret.
func (at *visit) program(application string) {
	if len(at.w.programs) < maxLines {
		at.w.programs[Program{at.context, at.extension, application}] = true
	}
}

// assign notes the possible values of a variable. A variable that is set twice can have any value.
func (at *visit) assign(data string, m match) {
	data = strings.TrimPrefix(data, "nolocal:")
	name, value, ok := strings.Cut(data, "=")
	if !ok {
		return
	}
	n, chosen, _ := m.expand(value, at.w.set, at.w.pattern)
	_, again := at.w.set[name]
	switch {
	case again || chosen && at.w.fixed[name]:
		at.w.set[name] = numbers{}.and(at.w.pattern(everything))
	case chosen:
		at.w.set[name] = n
	default:
		at.w.fixed[name] = true
	}
}

// transfer follows a call to another number: NUMBER [DIALPLAN [CONTEXT]].
func (at *visit) transfer(words []string, m match, nested int) {
	if len(words) == 0 {
		return
	}
	plan, context := "XML", at.context
	if len(words) > 1 {
		plan = words[1]
	}
	if len(words) > 2 {
		context = words[2]
	}
	switch {
	case plan == "inline":
		for app := range strings.SplitSeq(strings.Trim(words[0], "'"), ",") {
			name, data, _ := strings.Cut(app, ":")
			if at.action(name, data, m, nested+1) {
				return
			}
		}
	case !strings.EqualFold(plan, "XML"):
		at.program("transfer to another dialplan")
	case strings.Contains(context, "$"):
		at.program("transfer to a context that a variable names")
	default:
		n, _, _ := m.expand(words[0], at.w.set, at.w.pattern)
		at.w.walk(context, n, at.path)
	}
}

// dial follows a dial string: endpoints, in turn or at once, each with variables before it.
func (at *visit) dial(data string, m match) {
	for _, endpoint := range endpoints(data) {
		kind, rest, _ := strings.Cut(endpoint, "/")
		switch kind {
		case "sofia":
			profile, to, _ := strings.Cut(rest, "/")
			if profile == "gateway" {
				name, number, _ := strings.Cut(to, "/")
				at.line("sofia/gateway/"+name, name, number, m)
				continue
			}
			user, host, hasHost := strings.Cut(to, "@")
			if strings.Contains(to, "%") || hasHost && at.isOurs(host) {
				continue // a phone of our own
			}
			at.line("sofia/"+profile, "", user, m)
		case "loopback":
			// loopback/NUMBER[/CONTEXT[/DIALPLAN]]
			parts := strings.Split(rest, "/")
			if strings.HasPrefix(parts[0], "app=") {
				continue
			}
			words := []string{parts[0], "XML", at.context}
			if len(parts) > 1 {
				words[2] = parts[1]
			}
			if len(parts) > 2 {
				words[1] = parts[2]
			}
			at.transfer(words, m, 0)
		case "freetdm", "openzap", "dahdi", "khomp", "gsmopen", "dongle", "h323", "opal", "lcr", "enum", "iax":
			number := rest
			if i := strings.LastIndexByte(rest, '/'); i >= 0 {
				number = rest[i+1:]
			}
			at.line(kind, "", number, m)
		}
	}
}

// isOurs reports whether the host of an address is this FreeSWITCH itself.
func (at *visit) isOurs(host string) bool {
	host, _, _ = strings.Cut(host, ";")
	return host == "${domain_name}" || host == "${domain}" || host == "${dialed_domain}" || slices.Contains(at.w.caller.Domains, host)
}

// abroad are the prefixes of an international number, with an expression for whole numbers. 011 is one only if
// more follows than a national number has.
var abroad = []struct{ prefix, expression string }{
	{"00", `^00\d{8,}$`}, {"+", `^\+\d{7,}$`}, {"011", `^011\d{10,}$`},
}

// line notes a way out.
func (at *visit) line(target, gateway, number string, m match) {
	if len(at.w.lines) == maxLines {
		at.w.cut = true
		return
	}
	number, _, _ = strings.Cut(number, "@")
	n, chosen, unknown := m.expand(number, at.w.set, at.w.pattern)
	if !n.any(&at.w.steps) {
		return
	}
	l := Line{
		Context: at.context, Extension: at.extension, Condition: at.condition, Target: target, Gateway: gateway,
		Chosen: chosen, Variable: unknown, Path: at.path,
	}
	for _, a := range abroad {
		if chosen && n.and(at.w.pattern(a.expression)).any(&at.w.steps) {
			l.Prefixes = append(l.Prefixes, a.prefix)
		}
	}
	same := func(o Line) bool {
		return o.Context == l.Context && o.Extension == l.Extension && o.Condition == l.Condition && o.Target == l.Target && o.Chosen == l.Chosen
	}
	if !slices.ContainsFunc(at.w.lines, same) {
		at.w.lines = append(at.w.lines, l)
	}
}

// endpoints cuts a dial string into its endpoints, without the variables in {}, [] and <> before them.
func endpoints(data string) []string {
	var all []string
	depth, start := 0, 0
	cut := func(end int) {
		if e := strings.TrimSpace(withoutVariables(data[start:end])); e != "" {
			all = append(all, e)
		}
	}
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '{' || c == '[' || c == '<' || c == '(':
			depth++
		case c == '}' || c == ']' || c == '>' || c == ')':
			depth = max(0, depth-1)
		case depth == 0 && (c == ',' || c == '|'):
			cut(i)
			start = i + 1
		case depth == 0 && strings.HasPrefix(data[i:], ":_:"):
			cut(i)
			i += 2
			start = i + 1
		}
	}
	cut(len(data))
	return all
}

// withoutVariables takes the variables off the front of an endpoint.
func withoutVariables(s string) string {
	for {
		s = strings.TrimSpace(s)
		if s == "" {
			return s
		}
		i := strings.IndexByte("{[<", s[0])
		if i < 0 {
			return s
		}
		depth, end := 0, -1
		for j := range len(s) {
			switch s[j] {
			case "{[<"[i]:
				depth++
			case "}]>"[i]:
				depth--
			}
			if depth == 0 {
				end = j
				break
			}
		}
		if end < 0 {
			return ""
		}
		s = s[end+1:]
	}
}
