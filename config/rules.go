package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"fsban/internal/guess"
	"fsban/policy"
)

// A Ruleset is the rules in their order: the default ones, and then those that a file adds. No two have the same name.
type Ruleset []Rule

// A Rule is one of policy.rules.
type Rule struct {
	Name string // its key there
	RuleSettings
}

// RuleSettings are the settings of a rule in a file. Nil settings are inherited from the policy.
type RuleSettings struct {
	Enabled       bool          `yaml:"enabled"`
	Kinds         []policy.Kind `yaml:"kinds"`
	FindTime      *Duration     `yaml:"findtime"`
	MaxRetry      *int          `yaml:"maxretry"`
	BanTime       *Duration     `yaml:"bantime"`
	DistinctUsers bool          `yaml:"distinct_users"`
	UserAgent     string        `yaml:"user_agent"` // empty: any
	Profiles      []string      `yaml:"profiles"`   // empty: any
	Unproven      bool          `yaml:"unproven"`   // count only attempts that a tap saw and nothing proves
}

// policyRule is the default rule that takes findtime, maxretry and bantime from the policy.
const policyRule = "auth"

// setDefaultRules sets the rules to policy.DefaultRules, and the policy's values for all rules to those of rule auth.
func (p *Policy) setDefaultRules() {
	for _, r := range policy.DefaultRules() {
		rule := newRule(r.Name)
		rule.Kinds, rule.DistinctUsers, rule.Unproven = r.Kinds, r.DistinctUsers, r.Unproven
		rule.Profiles = append(rule.Profiles, r.Profiles...)
		if r.UserAgent != nil {
			rule.UserAgent = r.UserAgent.String()
		}
		if r.Name == policyRule {
			p.FindTime, p.MaxRetry, p.BanTime = Duration(r.FindTime), r.MaxRetry, Duration(r.BanTime)
		} else {
			rule.FindTime, rule.MaxRetry, rule.BanTime = new(Duration(r.FindTime)), new(r.MaxRetry), new(Duration(r.BanTime))
		}
		p.Ruleset = append(p.Ruleset, rule)
	}
}

// newRule returns a rule with the defaults of a new rule.
func newRule(name string) Rule {
	return Rule{name, RuleSettings{Enabled: true, Profiles: []string{}}}
}

// Named returns the rule of that name, which may be changed, or nil.
func (rs Ruleset) Named(name string) *Rule {
	if i := slices.IndexFunc(rs, func(r Rule) bool { return r.Name == name }); i >= 0 {
		return &rs[i]
	}
	return nil
}

// Rules returns the rules that are enabled, in order, as policy.NewEngine takes them. Parse has checked them.
func (p *Policy) Rules() []policy.Rule {
	var rules []policy.Rule
	for i := range p.Ruleset {
		if r := &p.Ruleset[i]; r.Enabled {
			rules = append(rules, r.rule(p))
		}
	}
	return rules
}

func (r *Rule) rule(p *Policy) policy.Rule {
	rule := policy.Rule{
		Name:          r.Name,
		Kinds:         slices.Clone(r.Kinds),
		FindTime:      time.Duration(or(r.FindTime, p.FindTime)),
		MaxRetry:      or(r.MaxRetry, p.MaxRetry),
		BanTime:       time.Duration(or(r.BanTime, p.BanTime)),
		DistinctUsers: r.DistinctUsers,
		Unproven:      r.Unproven,
		Profiles:      append([]string(nil), r.Profiles...),
	}
	if r.UserAgent != "" {
		rule.UserAgent = regexp.MustCompile(r.UserAgent)
	}
	return rule
}

func or[T any](own *T, of T) T {
	if own != nil {
		return *own
	}
	return of
}

// LongestFindTime returns how far back an attempt can count: the longest findtime of the rules that are enabled and, if there
// are any, of known_good, suspicious_login and distributed_attack where these are on. It is 0 without a rule.
func (p *Policy) LongestFindTime() time.Duration {
	var longest Duration
	for i := range p.Ruleset {
		if r := &p.Ruleset[i]; r.Enabled {
			longest = max(longest, or(r.FindTime, p.FindTime))
		}
	}
	if longest == 0 {
		return 0
	}
	if p.KnownGood.Expire > 0 {
		longest = max(longest, p.KnownGood.FindTime)
		if p.SuspiciousLogin.After > 0 {
			longest = max(longest, p.SuspiciousLogin.FindTime)
		}
	}
	if p.DistributedAttack.After > 0 {
		longest = max(longest, p.DistributedAttack.FindTime)
	}
	return time.Duration(longest)
}

// ruleName is the form of a rule's name, which is also a metric's label.
var ruleName = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)

// takenNames stand where a rule's name stands, for bans that no rule here has made.
var takenNames = []string{"operator", "kernel", "office", "fail2ban"}

// ruleset applies the settings of n to the rules in rs. An unknown name adds a rule.
func (p *parser) ruleset(n *yaml.Node, rs *Ruleset, path string) {
	p.pairs(n, path, func(key, name string, value *yaml.Node) {
		switch {
		case !ruleName.MatchString(name):
			p.problem(key, "not a rule's name: write 1 to 32 of a to z, 0 to 9 and _")
			return
		case slices.Contains(takenNames, name):
			p.problem(key, "fsban uses this name itself: write another")
			return
		case value.Kind == yaml.ScalarNode && !isNull(value):
			p.problem(key, "write keys and values here, or {enabled: false} to switch it off")
			return
		case rs.Named(name) == nil:
			*rs = append(*rs, newRule(name))
		}
		p.mapping(value, reflect.ValueOf(&rs.Named(name).RuleSettings).Elem(), key)
	})
}

func (rs Ruleset) validate(problem report) {
	enabled := 0
	for i := range rs {
		if rs[i].Enabled {
			enabled++
		}
		rs[i].validate(problem, "policy.rules."+rs[i].Name)
	}
	if enabled > policy.MaxRules {
		problem("policy.rules", "%d rules are enabled: leave at most %d", enabled, policy.MaxRules)
	}
}

func (r *Rule) validate(problem report, key string) {
	if r.Kinds == nil {
		var rules []string
		for _, known := range policy.DefaultRules() {
			rules = append(rules, known.Name)
		}
		if near := guess.DidYouMean(r.Name, rules); near != "" {
			problem(key, "no such rule: %s A new rule needs kinds", near)
		} else {
			problem(key, "a new rule needs kinds: write a list of %s", kindNames())
		}
	} else if len(r.Kinds) == 0 {
		problem(key+".kinds", "name at least one of %s, or set enabled: false", kindNames())
	}
	for i, k := range r.Kinds {
		if slices.Contains(r.Kinds[:i], k) {
			problem(key+".kinds", "%s stands here twice", k)
		}
	}
	if r.FindTime != nil {
		problem.findTime(key+".findtime", *r.FindTime)
	}
	if r.MaxRetry != nil {
		problem.within(key+".maxretry", *r.MaxRetry, 1, maxMaxRetry, "")
	}
	if r.BanTime != nil {
		problem.banTime(key+".bantime", *r.BanTime)
	}
	if err := checkUserAgent(r.UserAgent); err != nil {
		problem(key+".user_agent", "%v", err)
	}
	problem.names(key+".profiles", r.Profiles, "a profile of sofia")
}

func checkUserAgent(pattern string) error {
	if pattern == "" {
		return nil
	}
	re, err := regexp.Compile(pattern)
	if wrong, ok := errors.AsType[*syntax.Error](err); ok { // its own text has the pattern as it is, and that may be of several lines
		return fmt.Errorf("%.60q is not a regular expression (RE2): %s at %.60q", pattern, wrong.Code, wrong.Expr)
	} else if err != nil {
		return fmt.Errorf("%.60q is not a regular expression (RE2)", pattern)
	}
	if re.MatchString("") {
		return fmt.Errorf("%.60q fits every phone, or those that do not say what they are: write a part of a name, or \"\" for any", pattern)
	}
	return nil
}

// countable are the kinds that a rule can count.
func countable() []policy.Kind {
	return slices.DeleteFunc(policy.Kinds(), func(k policy.Kind) bool { return k == policy.AuthSuccess })
}

func kindNames() string {
	var names []string
	for _, k := range countable() {
		names = append(names, k.String())
	}
	return strings.Join(names, ", ")
}

func parseKind(s string) (policy.Kind, error) {
	for _, k := range countable() {
		if k.String() == s {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%.60q is none of %s", s, kindNames())
}
