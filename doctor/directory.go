package doctor

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"fsban/doctor/fsxml"
)

// A user is an entry of the directory: an extension, a trunk, or a login to the event socket.
type user struct {
	id, domain, group string
	params, variables map[string][]string
	cidr              string
	gateways          bool // it has gateways of its own
}

// param returns a parameter of a user, of its group or of its domain.
func (u *user) param(name string) string { return last(u.params[name]) }

func (u *user) variable(name string) string { return last(u.variables[name]) }

// hasSecret reports whether a login as the user with a password is possible.
func (u *user) hasSecret() bool { return u.param("password") != "" || u.param("a1-hash") != "" }

// maxLookups bounds how many registered users are looked up one by one.
const maxLookups = 300

func (l *looker) lookAtDirectory() {
	var registered []string
	for _, p := range l.seen.profiles {
		registered = append(registered, l.lookAtRegistrations(p)...)
	}
	root := l.askXML("the directory", "xml_locate", directoryOf)
	l.seen.directory = root != nil
	seen := make(map[string]bool)
	for _, d := range root.Children("domain") {
		l.seen.domains = append(l.seen.domains, d)
		l.addUsers(d, "", d.Children("user"), nil, nil)
		l.addUsers(d, "", d.Child("users").Children("user"), nil, nil)
		for _, g := range d.Child("groups").Children("group") {
			l.addUsers(d, g.Attribute("name"), g.Child("users").Children("user"), g.Child("params"), g.Child("variables"))
		}
	}
	for _, u := range l.seen.users {
		seen[u.id+"@"+u.domain] = true
	}
	// Registered users that are not in the static directory come from another source: redis, a database, xml_curl.
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
		subject := ""
		if lookups == 1 {
			subject = "registered users that are not in the static directory"
		}
		text, ok := l.ask(subject, "find_user_xml", "id "+id+" "+domain)
		if !ok {
			continue
		}
		if u, err := fsxml.Parse([]byte(text)); err == nil && u.Name == "user" {
			l.seen.users = append(l.seen.users, newUser(u, domain, "", nil, nil))
		}
	}
}

// plainName is a name that can stand in a command.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_.:+*#-]{1,64}$`)

func (l *looker) addUsers(domain *fsxml.Element, group string, users []*fsxml.Element, groupParams, groupVariables *fsxml.Element) {
	for _, e := range users {
		if e.Attribute("type") == "pointer" || e.Attribute("id") == "" {
			continue
		}
		l.seen.users = append(l.seen.users, newUser(e, domain.Attribute("name"), group,
			[]*fsxml.Element{domain.Child("params"), groupParams}, []*fsxml.Element{domain.Child("variables"), groupVariables}))
	}
}

// newUser reads a user; settings that it lacks are inherited.
func newUser(e *fsxml.Element, domain, group string, paramsAbove, variablesAbove []*fsxml.Element) *user {
	u := &user{id: e.Attribute("id"), domain: domain, group: group, cidr: e.Attribute("cidr"), gateways: e.Child("gateways").
		Child("gateway") != nil}
	u.params = inherited(append(paramsAbove, e.Child("params")))
	u.variables = inherited(append(variablesAbove, e.Child("variables")))
	return u
}

func inherited(levels []*fsxml.Element) map[string][]string {
	merged := make(map[string][]string)
	for _, level := range levels {
		maps.Copy(merged, params(level))
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

// userFlaws are the names of users by the flaw of their directory entry.
type userFlaws struct {
	weak     map[flaw][]string
	sockets  []string // weak password for the event socket
	empty    []string // allow-empty-password
	without  []string // of those: no password at all
	pins     []string // voicemail PIN that is the number
	networks []string // let in by address, without a password
	trunks   []string // gateways that do not call into public
}

// add sorts a user into the flaws of its entry.
func (f *userFlaws) add(s *system, u *user, name string) {
	worst := strong
	if p := u.param("password"); p != "" {
		worst = s.weakness(u, p)
	} else if h := u.param("a1-hash"); h != "" {
		worst = s.hashWeakness(u, h)
	}
	if worst != strong {
		f.weak[worst] = append(f.weak[worst], name)
	}
	if p := u.param("esl-password"); p != "" && (s.weakness(u, p) != strong || strings.EqualFold(p, cluecon)) {
		f.sockets = append(f.sockets, name)
	}
	if fsxml.IsTrue(u.param("allow-empty-password")) {
		f.empty = append(f.empty, name)
		if !u.hasSecret() {
			f.without = append(f.without, name)
		}
	}
	if p := u.param("vm-password"); p != "" && (p == u.id || p == freshPassword) {
		f.pins = append(f.pins, name)
	}
	if u.cidr != "" {
		f.networks = append(f.networks, name+" from "+word(u.cidr))
	}
	if s.isTrunk(u) && u.hasSecret() && u.variable("user_context") != public {
		f.trunks = append(f.trunks, name)
	}
}

// directoryFindings judges the users of the directory.
func (s *system) directoryFindings() []Finding {
	f := userFlaws{weak: make(map[flaw][]string)}
	names := s.namer()
	for _, u := range s.users {
		f.add(s, u, names(u))
	}
	all := passwordFindings(f.weak)
	add := func(users []string, finding Finding) {
		if len(users) > 0 {
			all = append(all, finding)
		}
	}
	seen := "for " + nameUsers(f.empty) + "."
	if len(f.without) > 0 {
		seen += " No password at all: " + nameUsers(f.without) + "."
	}
	add(f.empty, Finding{
		Check: "empty-password", Severity: Critical,
		Title: "allow-empty-password is on",
		Seen:  seen,
		Why: "Anybody who knows the number registers as this extension and calls at its expense. If a database or redis loses the password, " +
			"the extension is open, and no failed login shows it.",
		Change: "Remove allow-empty-password from the directory (domain, group and user), and give each user a password.",
	})
	add(f.sockets, Finding{
		Check: "esl-password", Severity: Warning,
		Title:  "Logins to the event socket have weak passwords",
		Seen:   nameUsers(f.sockets) + ".",
		Why:    "Anybody who reaches the event socket can guess such a login, and run the commands of its esl-allowed-api.",
		Change: "Give each of them a long random esl-password in the directory.",
	})
	add(f.trunks, Finding{
		Check: "trunk-context", Severity: Warning,
		Title:  "Gateways that register here call into a context of extensions",
		Seen:   nameUsers(f.trunks) + ": gateways by their name, their own gateways or their User-Agent.",
		Why:    "A caller from the telephone network reaches the context of your extensions through such a gateway, with its outbound lines.",
		Change: "Set the variable user_context to public for them in the directory.",
	})
	add(f.networks, Finding{
		Check: "user-cidr", Severity: Note,
		Title:  "Some users call without a password from their networks",
		Seen:   list(f.networks) + ": attribute cidr, for access lists with their domain.",
		Why:    "A UDP source address can be forged, and fsban cannot count these calls as logins.",
		Change: "Keep it only for your own networks; otherwise remove the attribute cidr from the directory.",
	})
	add(f.pins, Finding{
		Check: "voicemail-pin", Severity: Note,
		Title:  "Voicemail PINs are the numbers themselves",
		Seen:   nameUsers(f.pins) + ".",
		Why:    "Anybody who reaches the voicemail menu can hear the messages.",
		Change: "Set vm-password in the directory, or let users choose a PIN.",
	})
	return all
}

// isTrunk reports whether a user looks like a gateway that registers here.
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
