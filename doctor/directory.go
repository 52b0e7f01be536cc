package doctor

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A user is one of the directory: an extension, a trunk, or somebody who may log in to the event socket.
type user struct {
	id, domain, group string
	params, variables map[string][]string
	cidr              string
	gateways          bool // it has gateways of its own
}

// param returns a parameter of a user, of its group or of its domain.
func (u *user) param(name string) string { return last(u.params[name]) }

func (u *user) variable(name string) string { return last(u.variables[name]) }

// hasSecret says whether one can log in as the user with a password.
func (u *user) hasSecret() bool { return u.param("password") != "" || u.param("a1-hash") != "" }

// maxLookups bounds how many registered users are looked up one by one.
const maxLookups = 300

func (l *looker) lookAtDirectory() {
	var registered []string
	for _, p := range l.profiles {
		registered = append(registered, l.lookAtRegistrations(p)...)
	}
	root := l.askXML("the directory", "xml_locate", directoryOf)
	l.directory = root != nil
	seen := make(map[string]bool)
	for _, d := range root.children("domain") {
		l.domains = append(l.domains, d)
		l.addUsers(d, "", d.children("user"), nil, nil)
		l.addUsers(d, "", d.child("users").children("user"), nil, nil)
		for _, g := range d.child("groups").children("group") {
			l.addUsers(d, g.attribute("name"), g.child("users").children("user"), g.child("params"), g.child("variables"))
		}
	}
	for _, u := range l.users {
		seen[u.id+"@"+u.domain] = true
	}
	// Who registers and does not stand in the static directory comes from somewhere else: redis, a database, xml_curl.
	slices.Sort(registered)
	lookups := 0
	for _, name := range slices.Compact(registered) {
		id, domain, _ := strings.Cut(name, "@")
		if seen[name] || !plainName.MatchString(id) || !plainName.MatchString(domain) {
			continue
		}
		if lookups++; lookups > maxLookups {
			l.note("all registered users", fmt.Sprintf("more than %d are not in the static directory", maxLookups))
			return
		}
		what := ""
		if lookups == 1 {
			what = "registered users that are not in the static directory"
		}
		text, ok := l.ask(what, "find_user_xml", "id "+id+" "+domain)
		if !ok {
			continue
		}
		if u, err := parse([]byte(text)); err == nil && u.name == "user" {
			l.users = append(l.users, newUser(u, domain, "", nil, nil))
		}
	}
}

// plainName is a name that can stand in a command.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_.:+*#-]{1,64}$`)

func (l *looker) addUsers(domain *element, group string, users []*element, groupParams, groupVariables *element) {
	for _, e := range users {
		if e.attribute("type") == "pointer" || e.attribute("id") == "" {
			continue
		}
		l.users = append(l.users, newUser(e, domain.attribute("name"), group,
			[]*element{domain.child("params"), groupParams}, []*element{domain.child("variables"), groupVariables}))
	}
}

// newUser reads a user; what it does not say is inherited.
func newUser(e *element, domain, group string, paramsAbove, variablesAbove []*element) *user {
	u := &user{id: e.attribute("id"), domain: domain, group: group, cidr: e.attribute("cidr"), gateways: e.child("gateways").child("gateway") != nil}
	u.params = inherited(append(paramsAbove, e.child("params")))
	u.variables = inherited(append(variablesAbove, e.child("variables")))
	return u
}

func inherited(levels []*element) map[string][]string {
	merged := make(map[string][]string)
	for _, level := range levels {
		for name, values := range params(level) {
			merged[name] = values
		}
	}
	return merged
}

// contextsOfUsers are the contexts that extensions call from once they have logged in; public is not one of them.
func (s *system) contextsOfUsers() map[string]bool {
	contexts := make(map[string]bool)
	for _, u := range s.users {
		if c := u.variable("user_context"); c != "" && c != public && u.hasSecret() {
			contexts[c] = true
		}
	}
	return contexts
}

func (s *system) directoryFindings() []Finding {
	weak := make(map[flaw][]string)
	var sockets, empty, without, pins, networks, trunks []string
	names := s.namer()
	for _, u := range s.users {
		name := names(u)
		worst := strong
		if p := u.param("password"); p != "" {
			worst = s.weakness(u, p)
		} else if h := u.param("a1-hash"); h != "" {
			worst = s.hashWeakness(u, h)
		}
		if worst != strong {
			weak[worst] = append(weak[worst], name)
		}
		if p := u.param("esl-password"); p != "" && (s.weakness(u, p) != strong || strings.EqualFold(p, cluecon)) {
			sockets = append(sockets, name)
		}
		if isTrue(u.param("allow-empty-password")) {
			empty = append(empty, name)
			if !u.hasSecret() {
				without = append(without, name)
			}
		}
		if p := u.param("vm-password"); p != "" && (p == u.id || p == freshPassword) {
			pins = append(pins, name)
		}
		if u.cidr != "" {
			networks = append(networks, name+" from "+word(u.cidr))
		}
		if s.isTrunk(u) && u.hasSecret() && u.variable("user_context") != public {
			trunks = append(trunks, name)
		}
	}
	all := passwordFindings(weak)
	if len(empty) > 0 {
		seen := "for " + nameUsers(empty) + "."
		if len(without) > 0 {
			seen += " No password at all: " + nameUsers(without) + "."
		}
		all = append(all, Finding{
			Check: "empty-password", Severity: Critical,
			Title:  "allow-empty-password is on",
			Seen:   seen,
			Why:    "Whoever knows the number registers as this extension and calls at its expense. A password that gets lost in a database or in redis opens the extension, without any sign.",
			Change: "Take allow-empty-password out of the directory (domain, group and user), and give everybody a password.",
		})
	}
	if len(sockets) > 0 {
		all = append(all, Finding{
			Check: "esl-password", Severity: Warning,
			Title:  "Logins to the event socket have weak passwords",
			Seen:   nameUsers(sockets) + ".",
			Why:    "What esl-allowed-api lets such a login do, everybody can do who reaches the event socket.",
			Change: "Give them a long random esl-password in the directory.",
		})
	}
	if len(trunks) > 0 {
		all = append(all, Finding{
			Check: "trunk-context", Severity: Warning,
			Title:  "Gateways that register here do not call into public",
			Seen:   nameUsers(trunks) + ": by name, by gateways of their own or by the device that is registered.",
			Why:    "Whoever can call such a gateway from the telephone network comes out in the context of your extensions, with their outbound lines.",
			Change: "Set the variable user_context to public for them in the directory.",
		})
	}
	if len(networks) > 0 {
		all = append(all, Finding{
			Check: "user-cidr", Severity: Note,
			Title:  "Some users call without a password, from their network",
			Seen:   list(networks) + ": attribute cidr, for access lists with their domain.",
			Why:    "Over UDP a source address proves little. fsban does not see these calls as logins.",
			Change: "Keep it only for networks that are yours; otherwise take the attribute cidr out of the directory.",
		})
	}
	if len(pins) > 0 {
		all = append(all, Finding{
			Check: "voicemail-pin", Severity: Note,
			Title:  "Voicemail PINs are the numbers themselves",
			Seen:   nameUsers(pins) + ".",
			Why:    "Whoever reaches the voicemail menu hears their messages.",
			Change: "Set vm-password in the directory, or let users choose a PIN.",
		})
	}
	return all
}

// isTrunk says whether a user looks like a gateway that registers here.
func (s *system) isTrunk(u *user) bool {
	return u.gateways || trunkName.MatchString(u.id) || trunkName.MatchString(u.group) || slices.Contains(s.agents, u.id+"@"+u.domain)
}

var trunkName = regexp.MustCompile(`(?i)(^|[^a-z])(gw|gateway|trunk|carrier)s?([^a-z]|$)`)

// namer names users: by number, with the domain where there are several.
func (s *system) namer() func(*user) string {
	domains := make(map[string]bool)
	for _, u := range s.users {
		domains[u.domain] = true
	}
	return func(u *user) string {
		if len(domains) > 1 {
			return word(u.id + "@" + u.domain)
		}
		return word(u.id)
	}
}

// nameUsers lists users, runs of numbers as one: 1000 to 1019 and brian.
func nameUsers(names []string) string {
	names = slices.Clone(names)
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	names = slices.Compact(names)
	var out []string
	for i := 0; i < len(names); {
		end := i + 1
		for end < len(names) && follows(names[end-1], names[end]) {
			end++
		}
		if end-i > 2 {
			out = append(out, names[i]+" to "+names[end-1])
		} else {
			out = append(out, names[i:end]...)
		}
		i = end
	}
	if more := len(out) - maxNames; more > 0 {
		out = append(out[:maxNames:maxNames], fmt.Sprintf("%d more", more))
	}
	return enumerate(out)
}

func follows(a, b string) bool {
	x, err := strconv.ParseUint(a, 10, 62)
	y, err2 := strconv.ParseUint(b, 10, 62)
	return err == nil && err2 == nil && len(a) == len(b) && y == x+1
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
