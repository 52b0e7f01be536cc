package policy

import (
	"hash/maphash"
	"regexp"
	"slices"
	"time"
)

// Forever as a bantime bans until an operator unbans.
const Forever time.Duration = -1

// MaxRules is the number of rules that an Engine accepts; it ignores rules beyond it.
const MaxRules = numBits - 2

// A Rule bans an address after MaxRetry attempts of its kinds within FindTime, for BanTime. The terms have the same meaning as
// in fail2ban.
//
// A challenge is no offence: ordinary phones get one all day. So a challenge counts only when no credentials followed it;
// a rule that asks for a user agent counts it at once.
//
// An attempt with NoProof may be forged. Only rules with Unproven count it; a kind that is Forgeable counts for every rule. A ban that
// needs such an attempt is short: Options.UnprovenBanTime.
type Rule struct {
	Name          string
	Kinds         []Kind
	FindTime      time.Duration  // more than zero; counted in milliseconds
	MaxRetry      int            // at least 1: the ban falls on attempt number MaxRetry
	BanTime       time.Duration  // more than zero, or Forever
	DistinctUsers bool           // count the users that were claimed, not the attempts
	UserAgent     *regexp.Regexp // count only matching user agents; nil: all
	Profiles      []string       // count only attempts at these profiles; empty: at any
	Unproven      bool           // count only attempts with NoProof
}

// ScannerAgents matches user agents of known scanners: the tools sipvicious
// (friendly-scanner, and friendly-request in copies of it), SIPPTS (pplsip, sipptk), sipsak, sipcli, SiVuS, smap,
// siparmyknife and iWar, the worm Sundayddr, and the VaxVoIP kit under the name that it has out of the box. Names that
// real phones bear (eyeBeam, PortSIP) are not in it, however often scanners borrow them.
const ScannerAgents = `(?i)^(friendly-scanner|friendly-request|sipvicious|sip-?scan|sipcli|sipsak|sundayddr|` +
	`iwar|vaxs?ipuseragent|pplsip|sipptk|sivus|smap|siparmyknife)\b`

// DefaultRules returns the rules that hold where nothing else is configured.
func DefaultRules() []Rule {
	const minute, day = time.Minute, 24 * time.Hour
	return []Rule{
		{Name: "auth", Kinds: []Kind{AuthFailure, Violation}, FindTime: 5 * minute, MaxRetry: 5, BanTime: day},
		{Name: "enumeration", Kinds: []Kind{AuthFailure}, DistinctUsers: true, FindTime: 10 * minute, MaxRetry: 4, BanTime: 3 * day},
		{Name: "slow", Kinds: []Kind{AuthFailure}, FindTime: day, MaxRetry: 30, BanTime: 3 * day},
		{
			Name: "scanner", Kinds: []Kind{AuthFailure, Challenge, Violation, ACLReject, CallReject, Scan},
			UserAgent: regexp.MustCompile(ScannerAgents), FindTime: minute, MaxRetry: 3, BanTime: 3 * day,
		},
		{Name: "acl", Kinds: []Kind{ACLReject}, FindTime: 5 * minute, MaxRetry: 10, BanTime: day},
		{Name: "toll", Kinds: []Kind{CallReject}, FindTime: 10 * minute, MaxRetry: 5, BanTime: day},
		{Name: "challenge", Kinds: []Kind{Challenge}, FindTime: minute, MaxRetry: 60, BanTime: time.Hour},
		{Name: "unproven", Kinds: []Kind{AuthFailure}, Unproven: true, FindTime: 5 * minute, MaxRetry: 30, BanTime: 10 * minute},
		{Name: "scan", Kinds: []Kind{Scan}, FindTime: minute, MaxRetry: 10, BanTime: 10 * minute},
		{Name: "malformed", Kinds: []Kind{Malformed}, FindTime: minute, MaxRetry: 20, BanTime: 10 * minute},
		{Name: "flood", Kinds: []Kind{Flood}, FindTime: minute, MaxRetry: 3, BanTime: 10 * minute},
		{Name: "exploit", Kinds: []Kind{Exploit}, FindTime: minute, MaxRetry: 1, BanTime: day},
	}
}

// until returns the end of a ban of d that starts at t: the zero time if it is permanent.
func until(t time.Time, d time.Duration) time.Time {
	if d == Forever {
		return time.Time{}
	}
	return t.Add(d)
}

// longer reports whether a ban of a lasts longer than one of b.
func longer(a, b time.Duration) bool { return b != Forever && (a == Forever || a > b) }

// sameCounting reports whether r and other count the same attempts in the same way.
func (r *Rule) sameCounting(other *Rule) bool {
	text := func(re *regexp.Regexp) string {
		if re == nil {
			return ""
		}
		return re.String()
	}
	return r.Name == other.Name && r.DistinctUsers == other.DistinctUsers && r.Unproven == other.Unproven &&
		slices.Equal(r.Kinds, other.Kinds) && (r.UserAgent == nil) == (other.UserAgent == nil) &&
		text(r.UserAgent) == text(other.UserAgent) && slices.Equal(r.Profiles, other.Profiles)
}

// A ruleset is rules made ready: sets of rules are one bit each. The last of them is the office rule, which counts the
// auth_failures of known-good addresses.
type ruleset struct {
	rules      []Rule // with the office rule
	counters   counters
	byKind     [NumKinds]uint32
	office     uint32 // the office rule
	agents     uint32 // rules that ask for a user agent
	profiles   uint32 // rules that ask for a profile
	distinct   uint32 // rules that count users
	unproven   uint32 // rules that count only attempts with NoProof
	lenient    uint32 // rules that count each user's auth_failures from a known-good address as one
	agentCache agentCache
}

func newRuleset(rules []Rule, o *Options) *ruleset {
	rs := &ruleset{rules: slices.Clone(rules[:min(len(rules), MaxRules)]), agentCache: newAgentVerdicts()}
	rs.office = 1 << len(rs.rules)
	rs.counters.findTime[heldBit], rs.counters.keep[heldBit] = hourMS, 2
	rs.rules = append(rs.rules, Rule{
		Name: "office", Kinds: []Kind{AuthFailure}, FindTime: o.OfficeFindTime, MaxRetry: o.OfficeMaxRetry, BanTime: o.OfficeBanTime,
	})
	for i := range rs.rules {
		rs.prepare(i)
	}
	return rs
}

func (rs *ruleset) prepare(i int) {
	r := &rs.rules[i]
	bit := uint32(1) << i
	r.MaxRetry = max(r.MaxRetry, 1)
	rs.counters.findTime[i], rs.counters.keep[i] = r.FindTime.Milliseconds(), r.MaxRetry
	if r.UserAgent != nil {
		rs.agents |= bit
	}
	if len(r.Profiles) > 0 {
		rs.profiles |= bit
	}
	if r.DistinctUsers {
		rs.distinct |= bit
	}
	if r.Unproven {
		rs.unproven |= bit
	}
	if bit == rs.office {
		return
	}
	for _, k := range r.Kinds {
		if k < NumKinds {
			rs.byKind[k] |= bit
		}
		if k == AuthFailure && r.UserAgent == nil {
			rs.lenient |= bit
		}
	}
}

// matching returns the rules that count a at once, and those that count it if no credentials follow.
func (rs *ruleset) matching(a *Attempt) (now, later uint32) {
	m := rs.byKind[a.Kind]
	if flagsOf(a)&unproven == 0 {
		m &^= rs.unproven
	} else if !a.Kind.Forgeable() {
		m &= rs.unproven
	}
	if asked := m & rs.agents; asked != 0 {
		m &^= asked &^ rs.matchAgent(a.UserAgent)
	}
	if m&rs.profiles != 0 {
		for i := range rs.rules {
			if m&rs.profiles>>i&1 == 1 && !slices.Contains(rs.rules[i].Profiles, a.Profile) {
				m &^= 1 << i
			}
		}
	}
	if a.Kind == Challenge {
		return m & rs.agents, m &^ rs.agents
	}
	return m, 0
}

// public returns the rules as they were given.
func (rs *ruleset) public() []Rule { return rs.rules[:len(rs.rules)-1] }

// successor returns, for each rule, the bit that its hits have in next: 0 where next has no rule that counts the same.
func (rs *ruleset) successor(next *ruleset) (bit [numBits]uint32) {
	bit[heldBit] = 1 << heldBit
	for i := range rs.rules {
		for j := range next.rules {
			if rs.rules[i].sameCounting(&next.rules[j]) && (1<<i == rs.office) == (1<<j == next.office) {
				bit[i] = 1 << j
			}
		}
	}
	return bit
}

// agentCache caches the rules that user agents match. Its size is fixed, about 20 kB: a newer name replaces an older one.
type agentCache struct {
	seed  maphash.Seed
	slots []agentMatch
}

type agentMatch struct {
	agent string
	rules uint32
	known bool
}

func newAgentVerdicts() agentCache { return agentCache{seed: maphash.MakeSeed()} }

// matchAgent returns the rules with a pattern that matches a user agent.
func (rs *ruleset) matchAgent(name string) uint32 {
	if rs.agentCache.slots == nil {
		rs.agentCache.slots = make([]agentMatch, 512)
	}
	v := &rs.agentCache.slots[maphash.String(rs.agentCache.seed, name)%uint64(len(rs.agentCache.slots))]
	if v.known && v.agent == name {
		return v.rules
	}
	*v = agentMatch{agent: name, known: true}
	for i := range rs.rules {
		if re := rs.rules[i].UserAgent; re != nil && re.MatchString(name) {
			v.rules |= 1 << i
		}
	}
	return v.rules
}
