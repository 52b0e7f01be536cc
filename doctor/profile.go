package doctor

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"fsban/doctor/fsxml"
)

// A profile is one of sofia's: a SIP port with its requirements.
type profile struct {
	name          string
	params        map[string][]string // nil: its configuration was not seen
	context       string
	dialplan      string
	aliases       bool // a domain of ours is its own
	registrations int
	browsers      int // of those registrations
}

// The bounds of the questions about profiles.
const (
	maxProfiles      = 100
	maxRegistrations = 5000 // beyond them they are not listed
)

func (l *looker) lookAtProfiles() {
	running := make(map[string]bool)
	status := l.askXML("which profiles run", "sofia", "xmlstatus")
	for _, p := range status.Children("profile") {
		running[p.ChildText("name")] = true
	}
	ways := l.askXML("the gateways", "sofia", "xmlstatus gateway")
	l.seen.hasWays = ways != nil
	ways.All(func(e *fsxml.Element) {
		if e.Name == "gateway" {
			l.seen.gateways[e.ChildText("name")] = true
		}
	})
	for _, p := range l.askXML("sofia.conf", "xml_locate", configuration+"sofia.conf").Child("profiles").Children("profile") {
		name := p.Attribute("name")
		for _, g := range p.Child("gateways").Children("gateway") {
			l.seen.gateways[g.Attribute("name")] = true
		}
		if status != nil && !running[name] || len(l.seen.profiles) == maxProfiles {
			continue
		}
		delete(running, name)
		found := &profile{name: name, params: params(p.Child("settings")), dialplan: "XML", context: "default"}
		if c := found.value("context"); c != "" {
			found.context = c
		}
		if d := found.value("dialplan"); d != "" {
			found.dialplan = d
		}
		for _, d := range p.Child("domains").Children("domain") {
			found.aliases = found.aliases || fsxml.IsTrue(d.Attribute("alias"))
		}
		l.seen.profiles = append(l.seen.profiles, found)
	}
	for name := range running {
		if len(l.seen.profiles) < maxProfiles {
			l.seen.profiles = append(l.seen.profiles, &profile{name: name})
		}
	}
	if status != nil {
		for _, p := range l.seen.profiles {
			l.lookAtProfile(p)
		}
	}
}

// lookAtProfile asks a running profile about itself.
func (l *looker) lookAtProfile(p *profile) {
	if strings.ContainsAny(p.name, " \t\r\n") {
		return
	}
	info := l.askXML("profile "+word(p.name)+" as it runs", "sofia", "xmlstatus profile "+p.name).Child("profile-info")
	if p.params == nil {
		l.note("the settings of profile "+word(p.name), "it runs, and is not in sofia.conf as FreeSWITCH shows it")
		p.context, p.dialplan = info.ChildText("context"), info.ChildText("dialplan")
	}
	p.registrations, _ = strconv.Atoi(info.ChildText("registrations"))
}

// value returns the last value of a parameter.
func (p *profile) value(name string) string { return last(p.params[name]) }

// on reports whether a switch of the profile is on. unset is FreeSWITCH's default.
func (p *profile) on(name string, unset bool) bool {
	if len(p.params[name]) == 0 {
		return unset
	}
	return fsxml.IsTrue(p.value(name))
}

// lists returns the access lists of a parameter; "none" takes back those before it.
func (p *profile) lists(name string) []string {
	var lists []string
	for _, v := range p.params[name] {
		if v == "none" {
			lists = nil
		} else if v != "" {
			lists = append(lists, v)
		}
	}
	return lists
}

// inboundLists returns the access lists for calls.
func (p *profile) inboundLists() []string { return p.lists("apply-inbound-acl") }

// listName is the name of a list in apply-inbound-acl: LIST[:CONTEXT IF LISTED[:CONTEXT IF NOT]].
func listName(use string) string {
	name, _, _ := strings.Cut(use, ":")
	return name
}

// isLocal reports whether only this host can reach the profile.
func (p *profile) isLocal() bool {
	ip := p.value("sip-ip")
	return strings.HasPrefix(ip, "127.") || ip == "::1"
}

// door returns the context into which strangers get without a password, if there is one.
func (s *system) door(p *profile) (context string, open bool) {
	if p.params == nil || p.isLocal() {
		return "", false
	}
	lists := p.inboundLists()
	refused := ""
	for _, use := range lists {
		_, rest, _ := strings.Cut(use, ":")
		passed, failed, _ := strings.Cut(rest, ":")
		if s.open[listName(use)] {
			return cmp.Or(passed, p.context), true
		}
		refused = failed
	}
	asks, blind := p.on("auth-calls", false), p.on("accept-blind-auth", false)
	switch {
	case len(lists) == 0:
		return p.context, !asks || blind
	case !asks:
		return refused, refused != ""
	}
	return cmp.Or(refused, p.context), blind && !p.on("auth-calls-acl-only", false)
}

// sideDoor returns the context into which those on the profile's lists get without a password.
func (s *system) sideDoor(p *profile) (context string, open bool) {
	for _, use := range p.inboundLists() {
		_, rest, _ := strings.Cut(use, ":")
		passed, _, _ := strings.Cut(rest, ":")
		// The list of the extensions' own networks stands for their logins.
		if l := s.lists[listName(use)]; l == nil || len(l.Children("node")) > 0 && !isDomains(l) {
			return cmp.Or(passed, p.context), p.params != nil
		}
	}
	return "", false
}

// isDomains reports whether a list holds nothing but domains, which stand for the cidr attributes of their users.
func isDomains(list *fsxml.Element) bool {
	for _, n := range list.Children("node") {
		if n.Attribute("domain") == "" {
			return false
		}
	}
	return true
}

// servesPhones returns the signs that extensions use the profile, or "".
func (s *system) servesPhones(p *profile) string {
	var shown []string
	if p.registrations > 0 {
		shown = append(shown, plural(p.registrations, "one phone is registered", "phones are registered"))
	}
	if p.aliases {
		shown = append(shown, "the domain of the extensions is an alias of it")
	}
	for _, name := range []string{"force-register-domain", "challenge-realm", "ws-binding", "wss-binding"} {
		if p.value(name) != "" {
			shown = append(shown, name+" is set")
		}
	}
	if s.contextsOfUsers()[p.context] {
		shown = append(shown, "its context is that of extensions")
	}
	return enumerate(shown)
}

// settings is where a parameter of a profile stands.
func settingOf(profiles []string, setting string) string {
	files := make([]string, len(profiles))
	for i, p := range profiles {
		files[i] = "sip_profiles/" + p + ".xml"
	}
	return list(files) + ": " + setting
}

// gatewayAgent matches the User-Agent of gateways.
var gatewayAgent = regexp.MustCompile(`(?i)gateway|gxw|ht8|dinstar|audiocodes|mediant|synway|openvox|new rock|yeastar|trunk|goip`)

// lookAtRegistrations lists the users registered at a profile, as name@domain.
func (l *looker) lookAtRegistrations(p *profile) []string {
	if p.registrations == 0 {
		return nil
	}
	if p.registrations > maxRegistrations {
		l.note("the registrations of profile "+word(p.name), fmt.Sprintf("there are %d, more than the %d that are listed", p.registrations,
			maxRegistrations))
		return nil
	}
	var users []string
	root := l.askXML("the registrations of profile "+word(p.name), "sofia", "xmlstatus profile "+p.name+" reg")
	root.All(func(e *fsxml.Element) {
		if e.Name != "registration" {
			return
		}
		name := e.ChildText("user")
		users = append(users, name)
		if strings.Contains(strings.ToLower(e.ChildText("contact")), "transport=ws") {
			p.browsers++
		}
		if agent := e.ChildText("agent"); gatewayAgent.MatchString(agent) {
			l.seen.agents = append(l.seen.agents, name)
		}
	})
	return users
}
