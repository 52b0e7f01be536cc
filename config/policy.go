package config

import (
	"net/netip"
	"time"

	"fsban/policy"
)

// Policy configures rules, durations and the never-ban list, in fail2ban's words where it has them.
type Policy struct {
	// Defaults of rules without values of their own; rule auth has none.
	FindTime Duration `yaml:"findtime"`
	MaxRetry int      `yaml:"maxretry"`
	BanTime  Duration `yaml:"bantime"`

	IgnoreIP       IgnoreList `yaml:"ignoreip"`
	IgnoreFile     string     `yaml:"ignore_file"`
	IgnoreSelf     bool       `yaml:"ignoreself"`
	IgnoreGateways bool       `yaml:"ignore_gateways"`
	IgnoreACLs     []string   `yaml:"ignore_acls"`
	IgnoreSSH      bool       `yaml:"ignore_ssh"`
	SSHPorts       []int      `yaml:"ssh_ports"`

	IPv4Prefix int      `yaml:"ipv4_prefix"`
	IPv6Prefix int      `yaml:"ipv6_prefix"`
	IPv6Widest int      `yaml:"ipv6_widest"`
	NAT64      []string `yaml:"nat64_prefixes"` // of the operator's own translators
	MaxTracked int      `yaml:"max_tracked"`

	Ruleset Ruleset `yaml:"rules"`

	Escalation        Escalation        `yaml:"escalation"`
	KnownGood         KnownGood         `yaml:"known_good"`
	SuspiciousLogin   SuspiciousLogin   `yaml:"suspicious_login"`
	DistributedAttack DistributedAttack `yaml:"distributed_attack"`
	OutageGuard       OutageGuard       `yaml:"outage_guard"`
	BanRate           int               `yaml:"ban_rate"` // 0: no guard
	ChallengeWait     Duration          `yaml:"challenge_wait"`
	UnbanGrace        Duration          `yaml:"unban_grace"` // 0: none
}

// Escalation says how bans grow from one offence to the next.
type Escalation struct {
	Factor     float64  `yaml:"factor"` // 1: they do not
	MaxBanTime Duration `yaml:"max_bantime"`

	UnprovenBanTime    Duration `yaml:"unproven_bantime"` // longest first ban without proof
	UnprovenMaxBanTime Duration `yaml:"unproven_max_bantime"`

	ForgetAfter Duration `yaml:"forget_after"`
	Jitter      float64  `yaml:"jitter"`
}

// KnownGood configures the treatment of addresses with successful logins.
type KnownGood struct {
	Expire Duration `yaml:"expire"` // 0: no address is known-good
	Max    int      `yaml:"max"`

	MaxPerAccount int `yaml:"max_per_account"`

	MaxRetry   int      `yaml:"maxretry"`
	FindTime   Duration `yaml:"findtime"`
	BanTime    Duration `yaml:"bantime"`
	BanRate    int      `yaml:"ban_rate"`    // within FindTime; 0: no limit
	StuckAfter int      `yaml:"stuck_after"` // 0: no reports
}

// SuspiciousLogin says which logins are reported.
type SuspiciousLogin struct {
	After      int      `yaml:"after"` // 0: none
	FindTime   Duration `yaml:"findtime"`
	TrustAfter Duration `yaml:"trust_after"`
}

// DistributedAttack says when many addresses that fail on one user are reported.
type DistributedAttack struct {
	After    int      `yaml:"after"` // 0: never
	FindTime Duration `yaml:"findtime"`
}

// OutageGuard says when failures of known-good addresses are taken for the fault of a back end.
type OutageGuard struct {
	Enabled bool    `yaml:"enabled"`
	Min     int     `yaml:"min"`
	Share   float64 `yaml:"share"`

	KnownFor Duration `yaml:"known_for"` // 0: any known-good address counts

	Window Duration `yaml:"window"`
	Hold   Duration `yaml:"hold"`
}

// defaultPolicy returns the defaults of package policy.
func defaultPolicy() Policy {
	o := policy.DefaultOptions()
	p := Policy{
		IgnoreIP:       IgnoreList{"127.0.0.0/8", "::1/128"},
		IgnoreSelf:     true,
		IgnoreGateways: true,
		IgnoreACLs:     []string{},
		IgnoreSSH:      true,
		SSHPorts:       []int{22},
		IPv4Prefix:     o.IPv4Prefix,
		IPv6Prefix:     o.IPv6Prefix,
		IPv6Widest:     o.IPv6Widest,
		NAT64:          []string{},
		MaxTracked:     o.MaxTracked,
		Escalation: Escalation{
			Factor: o.Factor, MaxBanTime: Duration(o.MaxBanTime), ForgetAfter: Duration(o.OffenceFor), Jitter: o.Jitter,
			UnprovenBanTime: Duration(o.UnprovenBanTime), UnprovenMaxBanTime: Duration(o.UnprovenMaxBanTime),
		},
		KnownGood: KnownGood{
			Expire: Duration(o.KnownFor), Max: o.MaxKnown, MaxPerAccount: o.MaxPerAccount,
			MaxRetry: o.OfficeMaxRetry, FindTime: Duration(o.OfficeFindTime),
			BanTime: Duration(o.OfficeBanTime), BanRate: o.KnownGoodBanRate, StuckAfter: o.StuckAfter,
		},
		SuspiciousLogin: SuspiciousLogin{
			After: o.SuspiciousAfter, FindTime: Duration(o.SuspiciousFindTime), TrustAfter: Duration(o.TrustAfter),
		},
		DistributedAttack: DistributedAttack{After: o.DistributedAfter, FindTime: Duration(o.DistributedFindTime)},
		OutageGuard: OutageGuard{
			Enabled: true, Min: o.OutageMin, Share: o.OutageShare, KnownFor: Duration(o.OutageKnownFor),
			Window: Duration(o.OutageWindow), Hold: Duration(o.OutageHold),
		},
		BanRate:       o.BanRate,
		ChallengeWait: Duration(o.ChallengeWait),
		UnbanGrace:    Duration(o.Grace),
	}
	p.setDefaultRules()
	return p
}

// Options returns the options of a policy.Engine. Seed and options without a setting are zero.
func (p *Policy) Options() policy.Options {
	o := policy.Options{
		MaxTracked: p.MaxTracked, IPv4Prefix: p.IPv4Prefix, IPv6Prefix: p.IPv6Prefix, IPv6Widest: p.IPv6Widest, NAT64Prefixes: p.NAT64Prefixes(),
		ChallengeWait: time.Duration(p.ChallengeWait),
		Factor:        p.Escalation.Factor, MaxBanTime: time.Duration(p.Escalation.MaxBanTime),
		OffenceFor: time.Duration(p.Escalation.ForgetAfter), Jitter: zeroIsOff(p.Escalation.Jitter),
		UnprovenBanTime: time.Duration(p.Escalation.UnprovenBanTime), UnprovenMaxBanTime: time.Duration(p.Escalation.UnprovenMaxBanTime),
		Grace:    zeroIsOff(time.Duration(p.UnbanGrace)),
		KnownFor: zeroIsOff(time.Duration(p.KnownGood.Expire)), MaxKnown: p.KnownGood.Max,
		MaxPerAccount:  p.KnownGood.MaxPerAccount,
		OfficeMaxRetry: p.KnownGood.MaxRetry, OfficeFindTime: time.Duration(p.KnownGood.FindTime),
		OfficeBanTime: time.Duration(p.KnownGood.BanTime), KnownGoodBanRate: zeroIsOff(p.KnownGood.BanRate),
		StuckAfter:      zeroIsOff(p.KnownGood.StuckAfter),
		SuspiciousAfter: zeroIsOff(p.SuspiciousLogin.After), SuspiciousFindTime: time.Duration(p.SuspiciousLogin.FindTime),
		TrustAfter:       time.Duration(p.SuspiciousLogin.TrustAfter),
		DistributedAfter: zeroIsOff(p.DistributedAttack.After), DistributedFindTime: time.Duration(p.DistributedAttack.FindTime),
		OutageMin: p.OutageGuard.Min, OutageShare: p.OutageGuard.Share, OutageKnownFor: zeroIsOff(time.Duration(p.OutageGuard.KnownFor)),
		OutageWindow: time.Duration(p.OutageGuard.Window), OutageHold: time.Duration(p.OutageGuard.Hold),
		BanRate: zeroIsOff(p.BanRate),
	}
	if !p.OutageGuard.Enabled {
		o.OutageMin = -1
	}
	return o
}

// NAT64Prefixes returns the prefixes of policy.nat64_prefixes, which Parse has checked.
func (p *Policy) NAT64Prefixes() []netip.Prefix {
	var list []netip.Prefix
	for _, s := range p.NAT64 {
		if prefix, err := netip.ParsePrefix(s); err == nil {
			list = append(list, prefix)
		}
	}
	return list
}

func (p *Policy) validateNAT64(problem report) {
	const key = "policy.nat64_prefixes"
	if len(p.NAT64) > maxNAT64 {
		problem(key, "%d prefixes: write at most %d", len(p.NAT64), maxNAT64)
	}
	var seen []netip.Prefix
	for _, s := range p.NAT64 {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			problem(key, "%.60q is not a prefix: write 2001:db8:64::/96", s)
			continue
		}
		if err := policy.CheckNAT64(prefix); err != nil {
			problem(key, "%v", err)
		}
		for _, other := range seen {
			if prefix.Overlaps(other) {
				problem(key, "%v overlaps %v: leave one of them", prefix, other)
			}
		}
		seen = append(seen, prefix)
	}
}

// zeroIsOff turns the zero that switches something off in a file into the negative value that does so in policy.Options.
func zeroIsOff[T int | float64 | time.Duration](v T) T {
	if v == 0 {
		return -1
	}
	return v
}

const (
	day = 24 * time.Hour

	maxFindTime = 365 * day
	maxBanTime  = 3650 * day
	maxMaxRetry = 1000
	maxNAT64    = 16
	maxCounted  = 64 // limit of policy.Options for the failures of a user
)

func (p *Policy) validate(problem report) {
	problem.findTime("policy.findtime", p.FindTime)
	problem.within("policy.maxretry", p.MaxRetry, 1, maxMaxRetry, "")
	problem.banTime("policy.bantime", p.BanTime)
	p.validateIgnored(problem)
	problem.within("policy.ipv4_prefix", p.IPv4Prefix, 8, 32, "")
	problem.within("policy.ipv6_prefix", p.IPv6Prefix, 16, 128, "")
	problem.within("policy.ipv6_widest", p.IPv6Widest, 32, 128, "")
	p.validateNAT64(problem)
	problem.within("policy.max_tracked", p.MaxTracked, 1000, 100_000_000, "")
	p.Ruleset.validate(problem)

	e, k, s, d, g := &p.Escalation, &p.KnownGood, &p.SuspiciousLogin, &p.DistributedAttack, &p.OutageGuard
	problem.decimal("policy.escalation.factor", e.Factor, 1, 100)
	problem.lasts("policy.escalation.max_bantime", e.MaxBanTime, time.Second, maxBanTime, "")
	problem.lasts("policy.escalation.unproven_bantime", e.UnprovenBanTime, time.Second, day, "")
	problem.lasts("policy.escalation.unproven_max_bantime", e.UnprovenMaxBanTime, time.Second, day, "")
	problem.lasts("policy.escalation.forget_after", e.ForgetAfter, time.Second, maxBanTime, "")
	problem.decimal("policy.escalation.jitter", e.Jitter, 0, 1)
	problem.lasts("policy.known_good.expire", k.Expire, time.Minute, maxBanTime, "no address to be known-good")
	problem.within("policy.known_good.max", k.Max, 1, 10_000_000, "")
	problem.within("policy.known_good.max_per_account", k.MaxPerAccount, 1, 10_000, "")
	problem.within("policy.known_good.maxretry", k.MaxRetry, 1, maxMaxRetry, "")
	problem.findTime("policy.known_good.findtime", k.FindTime)
	problem.banTime("policy.known_good.bantime", k.BanTime)
	problem.within("policy.known_good.ban_rate", k.BanRate, 1, 100_000, "no limit")
	problem.within("policy.known_good.stuck_after", k.StuckAfter, 1, maxMaxRetry, "no reports")
	problem.within("policy.suspicious_login.after", s.After, 1, maxCounted, "no reports")
	problem.findTime("policy.suspicious_login.findtime", s.FindTime)
	problem.lasts("policy.suspicious_login.trust_after", s.TrustAfter, time.Second, maxFindTime, "")
	problem.within("policy.distributed_attack.after", d.After, 2, maxCounted, "no reports")
	problem.findTime("policy.distributed_attack.findtime", d.FindTime)
	problem.within("policy.outage_guard.min", g.Min, 2, 1_000_000, "")
	problem.decimal("policy.outage_guard.share", g.Share, 0.01, 1)
	problem.lasts("policy.outage_guard.known_for", g.KnownFor, time.Second, day, "any known-good address to count")
	problem.lasts("policy.outage_guard.window", g.Window, time.Second, time.Hour, "")
	problem.lasts("policy.outage_guard.hold", g.Hold, time.Second, day, "")
	problem.within("policy.ban_rate", p.BanRate, 1, 100_000, "no limit")
	problem.lasts("policy.challenge_wait", p.ChallengeWait, time.Second, time.Minute, "")
	problem.lasts("policy.unban_grace", p.UnbanGrace, time.Second, day, "none")
}
