package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"fsban/doctor/fsxml"
)

// A system is the state of a FreeSWITCH, as its answers show it.
type system struct {
	version   string // 1.11.3-dev
	clock     time.Time
	skew      time.Duration // FreeSWITCH's clock minus ours
	zone      string        // +0800
	modules   map[string]bool
	socket    *fsxml.Element // settings; nil: not seen
	rpc       *fsxml.Element
	core      *fsxml.Element
	lists     map[string]*fsxml.Element // acl.conf, by name
	open      map[string]bool           // lists that let strangers in
	profiles  []*profile
	gateways  map[string]bool
	hasWays   bool           // gateways was seen
	plan      *fsxml.Element // the dialplan; nil: not seen
	domains   []*fsxml.Element
	directory bool // it was seen
	users     []*user
	agents    []string // registered gateways: user (agent)

	globals map[string]string // of vars.xml and of FreeSWITCH itself; never shown

	unseen []unseen
}

// unseen is a subject that could not be examined, and the reason.
type unseen struct {
	subject string
	why     string
	denied  string // the command that this login may not run, if that is why
}

// Arguments of xml_locate.
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
	seen     *system
}

func look(ctx context.Context, api API, patience time.Duration) *system {
	l := &looker{ctx: ctx, api: api, patience: patience, seen: &system{
		modules: make(map[string]bool), lists: make(map[string]*fsxml.Element), open: make(map[string]bool), gateways: make(map[string]bool),
		globals: make(map[string]string),
	}}
	// In the order of the replies' sizes: one that is too large ends the connection.
	l.lookAtCore()
	l.lookAtProfiles()
	l.lookAtLists()
	l.lookAtDialplan()
	l.lookAtDirectory()
	return l.seen
}

// ask runs a command. A failure is noted as unseen, unless the name of the subject is empty.
func (l *looker) ask(subject, name, arguments string) (string, bool) {
	ctx, cancel := context.WithTimeout(l.ctx, l.patience)
	defer cancel()
	reply, err := l.api.API(ctx, name, arguments)
	text := strings.TrimSpace(string(reply))
	var why string
	switch {
	case err != nil && strings.Contains(err.Error(), "permission denied"):
		if subject != "" {
			l.seen.unseen = append(l.seen.unseen, unseen{subject: subject, denied: name})
		}
		return "", false
	case l.ctx.Err() != nil:
		why = "the time for all of it was over"
	case errors.Is(err, context.DeadlineExceeded):
		why = fmt.Sprintf("no answer to %s within %v", name, l.patience)
	case err != nil:
		why = fmt.Sprintf("%s: %s", name, sanitize(err.Error()))
	case strings.HasPrefix(text, "-ERR") || text == "can't find anything" || strings.HasPrefix(text, "Invalid "):
		why = fmt.Sprintf("FreeSWITCH answered %s with %s", name, word(firstLine(text)))
	default:
		return text, true
	}
	l.note(subject, why)
	return "", false
}

func (l *looker) note(subject, why string) {
	if subject != "" && len(l.seen.unseen) < 100 {
		l.seen.unseen = append(l.seen.unseen, unseen{subject: subject, why: why})
	}
}

// askXML runs a command that answers with XML.
func (l *looker) askXML(subject, name, arguments string) *fsxml.Element {
	text, ok := l.ask(subject, name, arguments)
	if !ok {
		return nil
	}
	root, err := fsxml.Parse([]byte(text))
	if err != nil {
		if root != nil {
			subject = "all of " + subject
		}
		l.note(subject, "FreeSWITCH's reply: "+sanitize(err.Error()))
	}
	return root
}

func (l *looker) lookAtCore() {
	if text, ok := l.ask("", "version", ""); ok {
		l.seen.version = versionIn(text)
	} else if text, ok := l.ask("the version of FreeSWITCH", "status", ""); ok {
		l.seen.version = versionIn(text)
	}
	before := time.Now()
	if text, ok := l.ask("the clock of FreeSWITCH", "strmicroepoch", ""); ok {
		after := time.Now()
		if micro, err := strconv.ParseInt(text, 10, 64); err == nil {
			l.seen.clock = time.UnixMicro(micro)
			l.seen.skew = l.seen.clock.Sub(before.Add(after.Sub(before) / 2))
		}
		l.seen.zone, _ = l.ask("", "strftime", "%z")
	}
	for i, m := range []string{"mod_cti", "mod_verto", "mod_xml_rpc", "mod_xml_curl"} {
		subject := ""
		if i == 0 {
			subject = "which modules are loaded"
		}
		text, ok := l.ask(subject, "module_exists", m)
		l.seen.modules[m] = ok && text == "true"
	}
	if text, ok := l.ask("the global variables", "global_getvar", ""); ok {
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
			l.seen.globals[name] = value
		}
	}
	l.seen.socket = l.askXML("event_socket.conf", "xml_locate", configuration+"event_socket.conf").Child("settings")
	if l.seen.modules["mod_xml_rpc"] {
		l.seen.rpc = l.askXML("xml_rpc.conf", "xml_locate", configuration+"xml_rpc.conf").Child("settings")
	}
	l.seen.core = l.askXML("switch.conf", "xml_locate", configuration+"switch.conf").Child("settings")
}

// maxLists bounds how many access lists are tried.
const maxLists = 50

// strangers are documentation addresses: a list that lets them in lets in every address.
var strangers = []string{"198.51.100.77", "203.0.113.177", "2001:db8:5:7::9"}

// lookAtLists finds out which of the lists that are in use let strangers in.
func (l *looker) lookAtLists() {
	for _, list := range l.askXML("acl.conf", "xml_locate", configuration+"acl.conf").Child("network-lists").Children("list") {
		l.seen.lists[list.Attribute("name")] = list
	}
	var names []string
	for _, p := range l.seen.profiles {
		for _, use := range append(p.inboundLists(), p.lists("apply-register-acl")...) {
			names = append(names, listName(use))
		}
	}
	names = append(names, params(l.seen.socket)["apply-inbound-acl"]...)
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names[:min(len(names), maxLists)] {
		l.seen.open[name] = l.letsStrangersIn(name)
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

// opensItself judges a list by acl.conf, for a login that may not run the acl command.
func (l *looker) opensItself(name string) bool {
	list, ok := l.seen.lists[name]
	if !ok {
		return name == "any_v4.auto" || name == "any_v6.auto" || strings.HasPrefix(name, "wan") || name == "0.0.0.0/0" || name == "::/0"
	}
	if list.Attribute("default") == "allow" {
		return true
	}
	for _, n := range list.Children("node") {
		if cidr := n.Attribute("cidr"); n.Attribute("type") == "allow" && (strings.HasSuffix(cidr, "/0")) {
			return true
		}
	}
	return false
}

func (l *looker) lookAtDialplan() {
	l.seen.plan = l.askXML("the dialplan", "xml_locate", dialplanOf)
}

// params returns the values of the params below e, by name, in order.
func params(e *fsxml.Element) map[string][]string {
	found := make(map[string][]string)
	if e == nil {
		return found
	}
	for _, p := range e.Kids {
		if name := p.Attribute("name"); name != "" && (p.Name == "param" || p.Name == "variable") {
			found[name] = append(found[name], p.Attribute("value"))
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
