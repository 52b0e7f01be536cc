package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A system is what FreeSWITCH showed of itself.
type system struct {
	version   string // 1.11.3-dev
	clock     time.Time
	skew      time.Duration // FreeSWITCH's clock minus ours
	zone      string        // +0800
	modules   map[string]bool
	socket    *element // settings; nil: not seen
	rpc       *element
	core      *element
	lists     map[string]*element // acl.conf, by name
	open      map[string]bool     // lists that let strangers in
	profiles  []*profile
	gateways  map[string]bool
	hasWays   bool // gateways was seen
	plan      dialplan
	domains   []*element
	directory bool // it was seen
	users     []*user
	agents    []string // registered gateways: user (agent)

	globals map[string]string // what vars.xml and FreeSWITCH itself set; never shown

	unseen []unseen
}

// unseen is what could not be looked at, and why.
type unseen struct {
	what   string
	why    string
	denied string // the command that this login may not run, if that is why
}

// What xml_locate is asked for.
const (
	configuration = "configuration configuration name "
	directoryOf   = "directory"
	dialplanOf    = "dialplan"
)

// A looker asks FreeSWITCH.
type looker struct {
	ctx      context.Context
	api      API
	patience time.Duration
	*system
}

func look(ctx context.Context, api API, patience time.Duration) *system {
	l := &looker{ctx: ctx, api: api, patience: patience, system: &system{
		modules: make(map[string]bool), lists: make(map[string]*element), open: make(map[string]bool), gateways: make(map[string]bool),
		globals: make(map[string]string),
	}}
	// In the order of the replies' sizes: one that is too large ends the connection.
	l.lookAtCore()
	l.lookAtProfiles()
	l.lookAtLists()
	l.lookAtDialplan()
	l.lookAtDirectory()
	return l.system
}

// ask runs a command. What fails is noted as unseen, unless what is empty.
func (l *looker) ask(what, name, arguments string) (string, bool) {
	ctx, cancel := context.WithTimeout(l.ctx, l.patience)
	defer cancel()
	reply, err := l.api.API(ctx, name, arguments)
	text := strings.TrimSpace(string(reply))
	var why string
	switch {
	case err != nil && strings.Contains(err.Error(), "permission denied"):
		if what != "" {
			l.unseen = append(l.unseen, unseen{what: what, denied: name})
		}
		return "", false
	case l.ctx.Err() != nil:
		why = "the time for all of it was over"
	case errors.Is(err, context.DeadlineExceeded):
		why = fmt.Sprintf("no answer to %s within %v", name, l.patience)
	case err != nil:
		why = fmt.Sprintf("%s: %s", name, tame(err.Error()))
	case strings.HasPrefix(text, "-ERR") || text == "can't find anything" || strings.HasPrefix(text, "Invalid "):
		why = fmt.Sprintf("FreeSWITCH answered %s with %s", name, word(firstLine(text)))
	default:
		return text, true
	}
	l.note(what, why)
	return "", false
}

func (l *looker) note(what, why string) {
	if what != "" && len(l.unseen) < 100 {
		l.unseen = append(l.unseen, unseen{what: what, why: why})
	}
}

// askXML runs a command that answers with XML.
func (l *looker) askXML(what, name, arguments string) *element {
	text, ok := l.ask(what, name, arguments)
	if !ok {
		return nil
	}
	root, err := parse([]byte(text))
	if err != nil {
		if root != nil {
			what = "all of " + what
		}
		l.note(what, "FreeSWITCH's reply: "+tame(err.Error()))
	}
	return root
}

func (l *looker) lookAtCore() {
	if text, ok := l.ask("", "version", ""); ok {
		l.version = versionIn(text)
	} else if text, ok := l.ask("the version of FreeSWITCH", "status", ""); ok {
		l.version = versionIn(text)
	}
	before := time.Now()
	if text, ok := l.ask("the clock of FreeSWITCH", "strmicroepoch", ""); ok {
		after := time.Now()
		if micro, err := strconv.ParseInt(text, 10, 64); err == nil {
			l.clock = time.UnixMicro(micro)
			l.skew = l.clock.Sub(before.Add(after.Sub(before) / 2))
		}
		l.zone, _ = l.ask("", "strftime", "%z")
	}
	for i, m := range []string{"mod_cti", "mod_verto", "mod_xml_rpc", "mod_xml_curl"} {
		what := ""
		if i == 0 {
			what = "which modules are loaded"
		}
		text, ok := l.ask(what, "module_exists", m)
		l.modules[m] = ok && text == "true"
	}
	if text, ok := l.ask("the global variables", "global_getvar", ""); ok {
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
			l.globals[name] = value
		}
	}
	l.socket = l.askXML("event_socket.conf", "xml_locate", configuration+"event_socket.conf").child("settings")
	if l.modules["mod_xml_rpc"] {
		l.rpc = l.askXML("xml_rpc.conf", "xml_locate", configuration+"xml_rpc.conf").child("settings")
	}
	l.core = l.askXML("switch.conf", "xml_locate", configuration+"switch.conf").child("settings")
}

// maxLists bounds how many access lists are tried.
const maxLists = 50

// strangers are addresses that belong to nobody: a list that lets them in lets in everybody.
var strangers = []string{"198.51.100.77", "203.0.113.177", "2001:db8:5:7::9"}

// lookAtLists finds out which of the lists that are in use let strangers in.
func (l *looker) lookAtLists() {
	for _, list := range l.askXML("acl.conf", "xml_locate", configuration+"acl.conf").child("network-lists").children("list") {
		l.lists[list.attribute("name")] = list
	}
	var names []string
	for _, p := range l.profiles {
		for _, use := range append(p.inboundLists(), p.lists("apply-register-acl")...) {
			names = append(names, listName(use))
		}
	}
	names = append(names, params(l.socket)["apply-inbound-acl"]...)
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names[:min(len(names), maxLists)] {
		l.open[name] = l.letsStrangersIn(name)
	}
}

func (l *looker) letsStrangersIn(name string) bool {
	if strings.ContainsAny(name, " \t\r\n") || name == "" {
		return false
	}
	let := 0
	for i, address := range strangers {
		text, ok := l.ask("", "acl", address+" "+name)
		if !ok {
			return l.opensItself(name)
		}
		if text == "true" {
			let++
		}
		if i == 1 && let == 2 || i == 2 && text == "true" {
			return true
		}
	}
	return false
}

// opensItself reads from acl.conf what the acl command would not say.
func (l *looker) opensItself(name string) bool {
	list, ok := l.lists[name]
	if !ok {
		return name == "any_v4.auto" || name == "any_v6.auto" || strings.HasPrefix(name, "wan") || name == "0.0.0.0/0" || name == "::/0"
	}
	if list.attribute("default") == "allow" {
		return true
	}
	for _, n := range list.children("node") {
		if cidr := n.attribute("cidr"); n.attribute("type") == "allow" && (strings.HasSuffix(cidr, "/0")) {
			return true
		}
	}
	return false
}

func (l *looker) lookAtDialplan() {
	if section := l.askXML("the dialplan", "xml_locate", dialplanOf); section != nil {
		l.plan = newDialplan(section)
	}
}

// params returns the values of the params below e, by name, in order.
func params(e *element) map[string][]string {
	found := make(map[string][]string)
	if e == nil {
		return found
	}
	for _, p := range e.kids {
		if name := p.attribute("name"); name != "" && (p.name == "param" || p.name == "variable") {
			found[name] = append(found[name], p.attribute("value"))
		}
	}
	return found
}

// last returns the last value, which is the one that counts.
func last(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
