package fail2ban

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"fsban/config"
	"fsban/policy"
)

// A Plan is the translation of some jails.
type Plan struct {
	Jails    []string  `json:"jails"` // translated; the first makes the rule
	Items    []Item    `json:"items"`
	Settings []Setting `json:"-"`

	made  bool // the first jail makes the rule auth
	grows bool // bans grow in fsban and not in the jail
}

// An Item is the verdict on one option of a jail.
type Item struct {
	Jail    string  `json:"jail"`
	Option  string  `json:"option,omitempty"` // none: something is wrong with the jail
	Value   string  `json:"value,omitempty"`
	From    string  `json:"from,omitempty"`
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"`
	Look    bool    `json:"look,omitempty"` // a value, or a part of it, could not be read: an operator must look at it
}

// NeedsLook reports whether some value could not be read.
func (p *Plan) NeedsLook() bool {
	return slices.ContainsFunc(p.Items, func(i Item) bool { return i.Look })
}

// A Verdict compares the meaning of an option in fail2ban and fsban.
type Verdict string

// Same needs no setting: fsban does it by default. Changed differs from fail2ban, as its text explains.
const (
	Taken    Verdict = "taken"
	Same     Verdict = "same"
	Changed  Verdict = "changed"
	NotTaken Verdict = "not taken"
)

// Subjects of jails that fsban guards too.
const (
	modCTI     = "mod_cti's log"
	freeSWITCH = "FreeSWITCH"
)

// Guards returns the subject of a jail, if fsban guards it too: modCTI, freeSWITCH, or "".
func (j *Jail) Guards() string {
	paths := strings.Join(j.LogPaths(), "\n")
	switch {
	case strings.Contains(paths, "cti_fail2ban"), slices.ContainsFunc(j.FailRegex, isModCTI):
		return modCTI
	case strings.Contains(strings.ToLower(j.Filter+paths), "freeswitch"):
		return freeSWITCH
	}
	return ""
}

// isModCTI reports whether an expression is the one for mod_cti's lines: ^ip\[<HOST>\].*.
func isModCTI(regex string) bool { return strings.HasPrefix(regex, `^ip\[<HOST>\]`) }

// onlyChallenges reports whether a jail counts challenges and no failures; both, whether it counts both.
func (j *Jail) onlyChallenges() bool {
	return j.mentions("challenge") && !j.mentions("failure") && !j.mentions("find user")
}

func (j *Jail) both() bool { return j.mentions("challenge") && j.mentions("failure") }

func (j *Jail) mentions(word string) bool {
	return slices.ContainsFunc(j.FailRegex, func(r string) bool { return strings.Contains(r, word) })
}

// Translate translates jails. There is one rule for failed logins: that of mod_cti's jail, or else of the first
// one that does not count challenges alone.
func Translate(jails []*Jail) Plan {
	rank := func(j *Jail) int {
		switch {
		case j.onlyChallenges():
			return 2
		case j.Guards() == modCTI:
			return 0
		}
		return 1
	}
	jails = slices.Clone(jails)
	slices.SortStableFunc(jails, func(a, b *Jail) int { return rank(a) - rank(b) })
	t := translator{defaults: config.Default()}
	t.never = t.defaults.Policy.IgnorePrefixes()
	for _, j := range jails {
		t.plan.Jails = append(t.plan.Jails, j.Name)
	}
	for i, j := range jails {
		t.jail = j
		for _, p := range j.Problems {
			t.look("", Option{}, NotTaken, "%s", p)
		}
		isRule := i == 0 && !j.onlyChallenges()
		t.unreadable(isRule)
		if isRule {
			t.plan.made = true
			t.rule()
		} else {
			t.otherRule(jails[0])
		}
		t.ignoreIP()
		if j.onlyChallenges() {
			continue
		}
		t.log()
		t.regexes()
		t.actions()
		t.rest()
	}
	t.neverBan()
	return t.plan
}

// A translator makes a Plan, jail by jail.
type translator struct {
	plan     Plan
	jail     *Jail
	defaults config.Config
	never    []netip.Prefix
	hosts    []string // of ignoreip, by name
	comments []string // on ignoreip
	odd      bool     // ignoreip had words that fsban does not take
	logged   bool     // cti_log.path is set
}

func (t *translator) item(option string, o Option, v Verdict, format string, args ...any) {
	i := Item{Jail: t.jail.Name, Option: option, Value: o.Text, Verdict: v, Text: fmt.Sprintf(format, args...)}
	if o.Text != "" {
		i.From = o.From.String()
	}
	t.plan.Items = append(t.plan.Items, i)
}

// look adds an item that an operator must look at.
func (t *translator) look(option string, o Option, v Verdict, format string, args ...any) {
	t.item(option, o, v, format, args...)
	t.plan.Items[len(t.plan.Items)-1].Look = true
}

// ruleOptions are reported by rule, with the setting that they would make.
var ruleOptions = []string{"findtime", "maxretry", "bantime"}

// unreadable reports options with values that fail2ban refuses. rule, ignoreIP and log report their own.
func (t *translator) unreadable(isRule bool) {
	for _, name := range slices.Sorted(maps.Keys(t.jail.broken)) {
		if b := t.jail.broken[name]; !slices.Contains(partial, name) && (!isRule || !slices.Contains(ruleOptions, name)) {
			t.look(name, b.Option, NotTaken, "%v", errors.Unwrap(b.err))
		}
	}
}

// set makes a setting of an option, unless that is fsban's default. why describes a change of the value, if any.
func (t *translator) set(name string, o Option, key, value, byDefault, why string) {
	verdict := Taken
	if why != "" {
		verdict = Changed
		why = "; " + why
	}
	if value == byDefault {
		if verdict == Taken {
			verdict = Same
		}
		t.item(name, o, verdict, "%s %s, fsban's default%s", key, value, why)
		return
	}
	t.item(name, o, verdict, "%s %s%s", key, value, why)
	t.setting(key, value, t.origin(name, o)+why)
}

// setting adds a setting with a comment.
func (t *translator) setting(key, value string, comments ...string) {
	t.plan.Settings = append(t.plan.Settings, Setting{Key: key, Value: value, Comments: comments})
}

func (t *translator) origin(name string, o Option) string {
	return fmt.Sprintf("%s = %s (%v)", name, o.Text, o.From)
}

// The limits of fsban's settings, as in package config.
const (
	maxFindTime = 365 * 24 * time.Hour
	maxBanTime  = 3650 * 24 * time.Hour
	maxMaxRetry = 1000
	maxHosts    = 1000
)

// rule makes the policy of the jail.
func (t *translator) rule() {
	p := &t.defaults.Policy
	if seconds, o, err := t.jail.Seconds("findtime", builtinFindTime); err != nil || seconds <= 0 {
		t.unusable("findtime", o, err, "policy.findtime", p.FindTime.String())
	} else {
		d, why := bounded(seconds, time.Second, maxFindTime)
		t.set("findtime", o, "policy.findtime", d.String(), p.FindTime.String(), why)
	}
	t.maxRetry()
	switch seconds, o, err := t.jail.Seconds("bantime", builtinBanTime); {
	case err == nil && math.Trunc(seconds) == -1:
		t.set("bantime", o, "policy.bantime", config.Duration(policy.Forever).String(), p.BanTime.String(), "")
	case err != nil || math.Trunc(seconds) <= 0:
		t.unusable("bantime", o, err, "policy.bantime", p.BanTime.String())
	default:
		d, why := bounded(math.Trunc(seconds), time.Second, maxBanTime)
		t.set("bantime", o, "policy.bantime", d.String(), p.BanTime.String(), why)
	}
	t.escalation()
	if o, ok := t.jail.Option("ignoreself"); ok {
		t.set("ignoreself", o, "policy.ignoreself", strconv.FormatBool(parseBool(o.Text)), strconv.FormatBool(p.IgnoreSelf), "")
	}
}

// maxRetry makes policy.maxretry.
func (t *translator) maxRetry() {
	p := &t.defaults.Policy
	n, o, err := t.jail.MaxRetry()
	if err != nil {
		t.unusable("maxretry", o, err, "policy.maxretry", strconv.Itoa(p.MaxRetry))
		return
	}
	var why []string
	if t.jail.both() && n > 1 {
		n = n/2 + n%2
		why = append(why, "its filter counts a failed login twice, as challenge and as failure, and fsban once")
	}
	if bounded := min(max(n, 1), maxMaxRetry); bounded != n {
		n = bounded
		why = append(why, fmt.Sprintf("fsban takes 1 to %d", maxMaxRetry))
	}
	t.set("maxretry", o, "policy.maxretry", strconv.Itoa(n), strconv.Itoa(p.MaxRetry), strings.Join(why, "; "))
}

// unusable reports an option without a usable value.
func (t *translator) unusable(name string, o Option, err error, key, byDefault string) {
	why := "it bans nobody"
	if err != nil {
		why = err.Error()
	}
	t.look(name, o, NotTaken, "%s; %s stays %s", why, key, byDefault)
}

// bounded turns seconds into a duration that fsban takes.
func bounded(seconds float64, least, most time.Duration) (config.Duration, string) {
	switch {
	case seconds > most.Seconds():
		return config.Duration(most), fmt.Sprintf("fsban takes at most %v", config.Duration(most))
	case seconds < least.Seconds():
		return config.Duration(least), fmt.Sprintf("fsban takes at least %v", config.Duration(least))
	}
	return config.Duration(time.Duration(math.Round(seconds*1000)) * time.Millisecond), ""
}

// otherRule reports the policy of a jail that does not make the rule.
func (t *translator) otherRule(first *Jail) {
	for _, name := range []string{"findtime", "maxretry", "bantime", "bantime.increment", "ignoreself"} {
		o, ok := t.jail.Option(name)
		if o2, ok2 := first.Option(name); !ok || first != t.jail && ok2 && o2.Text == o.Text {
			continue
		}
		if t.jail.onlyChallenges() {
			t.item(name, o, NotTaken, "this jail counts challenges, which every phone gets; fsban counts those that nobody answers: "+
				"policy.rules.challenge")
		} else {
			t.item(name, o, NotTaken, "the rule for failed logins is made of jail [%s]; others can be written into policy.rules", first.Name)
		}
	}
}

// ignoreIP collects the addresses that are never banned, of all jails. Words that cannot be read are reported, the others
// are taken.
func (t *translator) ignoreIP() {
	o, ok := t.jail.Option("ignoreip")
	words := t.jail.ignoreWords()
	if !ok || len(words) == 0 || slices.Contains(t.comments, t.origin("ignoreip", o)) {
		return
	}
	var odd []string
	for _, word := range words {
		entry := config.Policy{IgnoreIP: config.IgnoreList{word.text}}
		hosts := entry.IgnoreHosts()
		if p, err := parseNetwork(word.text); err == nil {
			t.never = with(t.never, p)
		} else if len(hosts) == 1 && !word.hash && len(with(t.hosts, hosts[0])) <= maxHosts {
			t.hosts = with(t.hosts, hosts[0])
		} else {
			odd = append(odd, word.text)
		}
	}
	t.comments = append(t.comments, t.origin("ignoreip", o))
	switch known := t.defaults.Policy.IgnoreIP; {
	case len(odd) > 0:
		why := fmt.Sprintf("not taken: %s; fsban takes addresses, networks and %d host names: write those that are meant", strings.Join(odd, " "),
			maxHosts)
		if b, broken := t.jail.broken["ignoreip"]; broken {
			why += fmt.Sprintf(" (%v)", errors.Unwrap(b.err))
		}
		t.look("ignoreip", o, Changed, "%s", why)
		t.odd = true
		for part := range slices.Chunk(odd, 10) { // a comment is bounded
			t.comments = append(t.comments, "not taken: "+strings.Join(part, " "))
		}
		t.comments = append(t.comments, fmt.Sprintf("fsban takes addresses, networks and %d host names: write those that are meant", maxHosts))
	case len(t.never)+len(t.hosts) == len(known):
		t.item("ignoreip", o, Same, "never banned by default too")
	default:
		t.item("ignoreip", o, Taken, "policy.ignoreip, and loopback as by default")
	}
}

// with returns list with v in it.
func with[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

// neverBan makes policy.ignoreip.
func (t *translator) neverBan() {
	setting := Setting{Key: "policy.ignoreip", Comments: t.comments}
	if len(t.never)+len(t.hosts) > len(t.defaults.Policy.IgnoreIP) {
		for _, p := range t.never {
			setting.List = append(setting.List, yamlString(p.String()))
		}
		for _, h := range t.hosts {
			setting.List = append(setting.List, yamlString(h))
		}
	} else if !t.odd {
		return // the list is the default one
	}
	t.plan.Settings = append(t.plan.Settings, setting)
}

// parseNetwork reads an address or network, also with a mask of addresses or in brackets.
func parseNetwork(word string) (netip.Prefix, error) {
	if len(word) > 2 && word[0] == '[' && word[len(word)-1] == ']' {
		word = word[1 : len(word)-1]
	}
	if addr, mask, ok := strings.Cut(word, "/"); ok {
		if m, err := netip.ParseAddr(mask); err == nil {
			if bits, size := net.IPMask(m.AsSlice()).Size(); size > 0 {
				word = fmt.Sprintf("%s/%d", addr, bits)
			}
		}
	}
	return config.ParsePrefix(word)
}

// log makes cti_log.path.
func (t *translator) log() {
	o, ok := t.jail.Option("logpath")
	paths := t.jail.LogPaths()
	b, broken := t.jail.broken["logpath"]
	if broken {
		paths = slices.DeleteFunc(paths, func(p string) bool { return strings.Contains(p, "%") })
		t.look("logpath", o, NotTaken, "%v", errors.Unwrap(b.err))
	}
	switch {
	case !ok || len(paths) == 0:
	case t.jail.Guards() != modCTI:
		t.item("logpath", o, NotTaken, "fsban reads no log of FreeSWITCH's: the event socket reports the failures (freeswitch.password)")
	case t.logged:
		t.item("logpath", o, NotTaken, "fsban follows one log of mod_cti's")
	case strings.ContainsAny(paths[0], "*?[") || !filepath.IsAbs(paths[0]):
		t.look("logpath", o, NotTaken, "fsban takes one file with its whole name: set cti_log.path, if it is not where fsban looks by default")
	default:
		t.logged = true
		why := ""
		if len(paths) > 1 {
			why = "fsban follows one log of mod_cti's, the others are not taken"
		}
		t.set("logpath", o, "cti_log.path", yamlString(paths[0]), "", why)
	}
}

// regexes reports the expressions of the jail.
func (t *translator) regexes() {
	o, _ := t.jail.Option("failregex")
	switch list := t.jail.FailRegex; {
	case len(list) == 0:
	case len(list) == 1 && list[0] == `^ip\[<HOST>\].*`:
		t.item("failregex", o, Same, "fsban reads mod_cti's lines by itself")
	default:
		t.item("failregex", o, Changed, "fsban has its own readers, of mod_cti's lines and of FreeSWITCH's events: compare with fsban replay")
	}
	if o, _ := t.jail.Option("ignoreregex"); len(t.jail.IgnoreRegex) > 0 {
		t.item("ignoreregex", o, NotTaken, "fsban has no expressions: put the addresses that are meant into policy.ignoreip")
	}
}

// actions reports the actions of the jail.
func (t *translator) actions() {
	o, _ := t.jail.Option("action")
	for _, a := range t.jail.Actions {
		o.Text = a.Text
		port, limited := a.Options["port"]
		protocol := a.Options["protocol"]
		switch {
		case !a.bans():
			t.item("action", o, NotTaken, "fsban runs no programs: see its metrics for alerts")
		case (strings.Contains(a.Name, "allports") || slices.Contains([]string{"all", "any", "0:65535", "1:65535", "0-65535"}, port)) &&
			protocol == "all":
			t.item("action", o, Same, "all ports and protocols are closed to whom fsban bans")
		case strings.Contains(a.Name, "allports"):
			t.item("action", o, Changed, "fsban closes all protocols, not only %s", orElse(protocol, "tcp"))
		case limited:
			t.item("action", o, Changed, "fsban closes all ports and protocols, not only %s of %s: firewall.ports narrows it", port,
				orElse(protocol, "tcp"))
		default:
			t.item("action", o, Changed, "fsban closes all ports and protocols, whatever this one closes")
		}
	}
}

// bans reports by its name whether an action blocks an address.
func (a *Action) bans() bool {
	return slices.ContainsFunc([]string{
		"iptables", "nftables", "firewallcmd", "ipset", "ufw", "shorewall", "ipfw", "apf", "route", "hostsdeny", "npf", "pf",
	}, func(s string) bool { return strings.HasPrefix(a.Name, s) })
}

// rest reports the other options of the jail.
func (t *translator) rest() {
	for _, x := range []struct{ name, unless, text string }{
		{"ignorecommand", "", "fsban runs no programs to decide: put the addresses that are meant into policy.ignoreip"},
		{"usedns", "warn no raw", "fsban takes addresses from FreeSWITCH, and looks up no name but those of ignoreip"},
		{"backend", "auto", "fsban needs no choice: it reads the event socket, and is told by the kernel when mod_cti's log grows"},
		{"logtimezone", "", "events and mod_cti's lines say their time zone"},
		{"logencoding", "auto utf-8", "fsban takes any"},
	} {
		o, ok := t.jail.Option(x.name)
		if ok && o.Text != "" && !slices.Contains(strings.Fields(x.unless), strings.ToLower(o.Text)) {
			t.item(x.name, o, NotTaken, "%s", x.text)
		}
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
