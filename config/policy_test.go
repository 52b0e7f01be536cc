package config

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"fsban/policy"
)

// The defaults are those of package policy: each number is in one place.
func TestDefaultsAreThoseOfThePolicy(t *testing.T) {
	p := Default().Policy
	got, want := reflect.ValueOf(p.Options()), reflect.ValueOf(policy.DefaultOptions())
	unset := []string{"MaxHits", "KeepEvidence", "MaxWaiting", "Seed", "MaxOffenders", "StuckSilence", "MaxStuck", "MaxUsers", "MaxHeld", "NAT64Prefixes", "Records"}
	for i := range got.NumField() {
		switch name := got.Type().Field(i).Name; {
		case slices.Contains(unset, name) && !got.Field(i).IsZero():
			t.Errorf("%s is %v, without a setting", name, got.Field(i))
		case !slices.Contains(unset, name) && (got.Field(i).IsZero() || !got.Field(i).Equal(want.Field(i))):
			t.Errorf("%s is %v, want %v", name, got.Field(i), want.Field(i))
		}
	}
	if got, want := p.Rules(), policy.DefaultRules(); !reflect.DeepEqual(got, want) {
		t.Errorf("rules\n%+v, want\n%+v", got, want)
	}
	if got := p.LongestFindTime(); got != day {
		t.Errorf("longest findtime %v, want that of slow", got)
	}
}

func TestOptionsMatchTheFile(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		want func(*policy.Options)
	}{
		"memory":           {"max_tracked: 5000", func(o *policy.Options) { o.MaxTracked = 5000 }},
		"networks":         {"ipv4_prefix: 24\n  ipv6_prefix: 56", func(o *policy.Options) { o.IPv4Prefix, o.IPv6Prefix = 24, 56 }},
		"wide networks":    {"ipv6_widest: 56", func(o *policy.Options) { o.IPv6Widest = 56 }},
		"no growth":        {"escalation: {factor: 1}", func(o *policy.Options) { o.Factor = 1 }},
		"growth by a half": {"escalation: {factor: 1.5, max_bantime: 1w, forget_after: 2w}", func(o *policy.Options) { o.Factor, o.MaxBanTime, o.OffenceFor = 1.5, 7*day, 14*day }},
		"no jitter":        {"escalation: {jitter: 0}", func(o *policy.Options) { o.Jitter = -1 }},
		"no known-good":    {"known_good: {expire: 0s}", func(o *policy.Options) { o.KnownFor = -1 }},
		"no stuck phones":  {"known_good: {stuck_after: 0}", func(o *policy.Options) { o.StuckAfter = -1 }},
		"offices": {"known_good: {max: 5, maxretry: 9, findtime: 1m, bantime: 1h}", func(o *policy.Options) {
			o.MaxKnown, o.OfficeMaxRetry, o.OfficeFindTime, o.OfficeBanTime = 5, 9, time.Minute, time.Hour
		}},
		"offices out for good": {"known_good: {bantime: forever}", func(o *policy.Options) { o.OfficeBanTime = policy.Forever }},
		"no suspicion":         {"suspicious_login: {after: 0}", func(o *policy.Options) { o.SuspiciousAfter = -1 }},
		"suspicion": {"suspicious_login: {after: 1, findtime: 2h, trust_after: 3h}", func(o *policy.Options) {
			o.SuspiciousAfter, o.SuspiciousFindTime, o.TrustAfter = 1, 2*time.Hour, 3*time.Hour
		}},
		"no distributed attacks": {"distributed_attack: {after: 0}", func(o *policy.Options) { o.DistributedAfter = -1 }},
		"distributed attacks":    {"distributed_attack: {after: 64, findtime: 1d}", func(o *policy.Options) { o.DistributedAfter, o.DistributedFindTime = 64, day }},
		"no outage guard":        {"outage_guard: {enabled: false}", func(o *policy.Options) { o.OutageMin = -1 }},
		"an outage guard": {"outage_guard: {min: 3, share: .5, window: 2m, hold: 5m}", func(o *policy.Options) {
			o.OutageMin, o.OutageShare, o.OutageWindow, o.OutageHold = 3, 0.5, 2*time.Minute, 5*time.Minute
		}},
		"no ban-rate guard": {"ban_rate: 0", func(o *policy.Options) { o.BanRate = -1 }},
		"translators": {"nat64_prefixes: [2001:db8:64::/96, 64:ff9b:1:7::/64]", func(o *policy.Options) {
			o.NAT64Prefixes = []netip.Prefix{netip.MustParsePrefix("2001:db8:64::/96"), netip.MustParsePrefix("64:ff9b:1:7::/64")}
		}},
		"no grace":   {"unban_grace: 0s", func(o *policy.Options) { o.Grace = -1 }},
		"challenges": {"challenge_wait: 10s", func(o *policy.Options) { o.ChallengeWait = 10 * time.Second }},
	} {
		t.Run(name, func(t *testing.T) {
			p := Default().Policy
			want := p.Options()
			test.want(&want)
			c, err := Parse("config.yaml", []byte("policy:\n  "+test.file+"\n"))
			if got := c.Policy.Options(); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, %v, want\n%+v", got, err, want)
			}
		})
	}
}

func TestRulesMatchTheFile(t *testing.T) {
	const file = "policy:\n  "
	for name, test := range map[string]struct {
		file string
		want func([]policy.Rule) []policy.Rule
	}{
		"nothing":      {"rules:", func(r []policy.Rule) []policy.Rule { return r }},
		"nothing new":  {"rules: {slow: , auth: {}}", func(r []policy.Rule) []policy.Rule { return r }},
		"one off":      {"rules: {challenge: {enabled: false}}", func(r []policy.Rule) []policy.Rule { return slices.Delete(r, 6, 7) }},
		"one changed":  {"rules: {slow: {maxretry: 100}}", func(r []policy.Rule) []policy.Rule { r[2].MaxRetry = 100; return r }},
		"auth changed": {"rules: {auth: {bantime: forever}}", func(r []policy.Rule) []policy.Rule { r[0].BanTime = policy.Forever; return r }},
		"fail2ban's three values": {"findtime: 300s\n  maxretry: 3\n  bantime: -1", func(r []policy.Rule) []policy.Rule {
			r[0].FindTime, r[0].MaxRetry, r[0].BanTime = 5*time.Minute, 3, policy.Forever
			return r
		}},
		"kinds":            {"rules: {auth: {kinds: auth_failure}}", func(r []policy.Rule) []policy.Rule { r[0].Kinds = []policy.Kind{policy.AuthFailure}; return r }},
		"any agent":        {`rules: {scanner: {user_agent: ""}}`, func(r []policy.Rule) []policy.Rule { r[3].UserAgent = nil; return r }},
		"at some profiles": {"rules: {toll: {profiles: [external, carriers]}}", func(r []policy.Rule) []policy.Rule { r[5].Profiles = []string{"external", "carriers"}; return r }},
		"several, new last": {"rules: {zebra: {kinds: [violation]}, toll: {maxretry: 1}, ant: {kinds: [challenge], findtime: 1m, maxretry: 7, bantime: 2h, distinct_users: true}}", func(r []policy.Rule) []policy.Rule {
			r[5].MaxRetry = 1
			return append(r,
				policy.Rule{Name: "zebra", Kinds: []policy.Kind{policy.Violation}, FindTime: 5 * time.Minute, MaxRetry: 5, BanTime: day},
				policy.Rule{Name: "ant", Kinds: []policy.Kind{policy.Challenge}, FindTime: time.Minute, MaxRetry: 7, BanTime: 2 * time.Hour, DistinctUsers: true})
		}},
		"a new rule takes the policy's": {"maxretry: 9\n  rules: {mine: {kinds: [violation]}}", func(r []policy.Rule) []policy.Rule {
			r[0].MaxRetry = 9
			return append(r, policy.Rule{Name: "mine", Kinds: []policy.Kind{policy.Violation}, FindTime: 5 * time.Minute, MaxRetry: 9, BanTime: day})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse("config.yaml", []byte(file+test.file+"\n"))
			if got, want := c.Policy.Rules(), test.want(policy.DefaultRules()); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, %v, want\n%+v", got, err, want)
			}
		})
	}
}

func TestLongestFindTimeIsOfEnabledRules(t *testing.T) {
	p := Default().Policy
	if p.Ruleset.Named("slow").Enabled = false; p.LongestFindTime() != time.Hour {
		t.Errorf("without slow: %v, want that of suspicious_login and distributed_attack", p.LongestFindTime())
	}
	for name, test := range map[string]struct {
		change func(*Policy)
		want   time.Duration
	}{
		"of the rules":          {func(p *Policy) { p.SuspiciousLogin.After, p.DistributedAttack.After = 0, 0 }, 10 * time.Minute},
		"of known-good":         {func(p *Policy) { p.KnownGood.FindTime = Duration(2 * day) }, 2 * day},
		"of suspicious logins":  {func(p *Policy) { p.SuspiciousLogin.FindTime = Duration(3 * day) }, 3 * day},
		"of distributed attack": {func(p *Policy) { p.DistributedAttack.FindTime = Duration(4 * day) }, 4 * day},
		"nobody is known-good": {func(p *Policy) {
			p.KnownGood.Expire, p.KnownGood.FindTime, p.SuspiciousLogin.FindTime = 0, Duration(2*day), Duration(3*day)
		}, time.Hour},
	} {
		p := p
		if test.change(&p); p.LongestFindTime() != test.want {
			t.Errorf("%s: %v, want %v", name, p.LongestFindTime(), test.want)
		}
	}
	if p.FindTime = Duration(2 * time.Hour); p.LongestFindTime() != 2*time.Hour {
		t.Errorf("with a longer findtime for auth: %v", p.LongestFindTime())
	}
	for i := range p.Ruleset {
		p.Ruleset[i].Enabled = false
	}
	if p.LongestFindTime() != 0 || p.Rules() != nil {
		t.Errorf("without rules: %v, %v", p.LongestFindTime(), p.Rules())
	}
	if p.Ruleset.Named("none") != nil {
		t.Error("there is a rule that is called none")
	}
}

// One configuration is not changed by changing another.
func TestDefaultsAreNotShared(t *testing.T) {
	c := Default()
	*c.Policy.Ruleset.Named("slow").MaxRetry = 1
	c.Policy.Ruleset.Named("auth").Kinds[0] = policy.Challenge
	c.Policy.IgnoreIP[0] = "192.0.2.1/32"
	if d := Default(); reflect.DeepEqual(c, d) || !reflect.DeepEqual(d.Policy.Rules(), policy.DefaultRules()) {
		t.Errorf("%+v", d.Policy)
	}
}
