package policy

import (
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"
)

func TestScannerAgents(t *testing.T) {
	re := regexp.MustCompile(ScannerAgents)
	for _, agent := range []string{
		"friendly-scanner", "Friendly-Scanner", "friendly-request", "sipvicious", "sipcli/v1.8", "sip-scan", "sipscan 1.0", "sipsak 0.9.6",
		"sundayddr", "iWar", "VaxSIPUserAgent/3.1", "VaxIPUserAgent", "pplsip", "sipptk", "SIVuS", "smap 0.6", "siparmyknife",
	} {
		if !re.MatchString(agent) {
			t.Errorf("%q is not taken for a scanner", agent)
		}
	}
	for _, agent := range []string{
		"", "eyeBeam release 3015c stamp 27107", "Yealink SIP-T46U 108.86.0.20", "Grandstream GXP2170 1.0.11.64", "PolycomVVX-VVX_411-UA/6.4.0",
		"Cisco/SPA504G-7.6.2c", "snomD785/10.1.175.16", "MicroSIP/3.21.3", "Zoiper v2.10.20", "Linphone-Desktop/5.2.6", "Fanvil X4U 2.12.4",
		"FreeSWITCH-mod_sofia/1.10.12", "Asterisk PBX 20.5.0", "PortSIP VoIP SDK", "CSipSimple_x", "Telephone 1.6", "iWarp phone", "smapper",
		"My sipvicious friend", "not a friendly-scanner",
	} {
		if re.MatchString(agent) {
			t.Errorf("%q is taken for a scanner", agent)
		}
	}
}

func TestEachDefaultRuleBansOnItsMaxRetry(t *testing.T) {
	type burst struct {
		kind  Kind
		users int
		agent string
		gap   time.Duration
	}
	for rule, b := range map[string]burst{
		"auth": {AuthFailure, 1, "phone", time.Minute}, "enumeration": {AuthFailure, 9, "phone", 3 * time.Minute}, "slow": {AuthFailure, 1, "phone", 30 * time.Minute},
		"scanner": {ACLReject, 1, "friendly-scanner", 29 * time.Second}, "acl": {ACLReject, 1, "phone", 30 * time.Second}, "toll": {CallReject, 1, "phone", 2 * time.Minute},
		"challenge": {Challenge, 99, "phone", 900 * time.Millisecond},
	} {
		w := newWorld(t, NeverBan{}, Options{})
		want := DefaultRules()[slices.IndexFunc(DefaultRules(), func(r Rule) bool { return r.Name == rule })]
		for i := 1; i <= want.MaxRetry; i++ {
			w.attemptAs(b.kind, stranger, extension(i%b.users), b.agent)
			if i == want.MaxRetry-1 && len(w.bans) > 0 {
				t.Errorf("%s: banned already on attempt %d", rule, i)
			}
			w.pass(b.gap)
		}
		w.pass(10 * time.Second)
		if len(w.bans) != 1 || w.bans[0].Rule.Name != rule || w.bans[0].Until.Sub(w.bans[0].Since) != want.BanTime || w.bans[0].Count != want.MaxRetry {
			t.Errorf("%s: bans %+v", rule, w.bans)
		}
	}
}

func TestOfSeveralRulesTheStrongestBans(t *testing.T) {
	rule := func(name string, d time.Duration) Rule {
		return Rule{Name: name, Kinds: []Kind{AuthFailure}, FindTime: time.Minute, MaxRetry: 3, BanTime: d}
	}
	e := NewEngine([]Rule{rule("hour", time.Hour), rule("forever", Forever), rule("day", 24*time.Hour), rule("forever too", Forever)}, NeverBan{}, Options{})
	e.Observe(failure(guesser, 0))
	e.Observe(failure(guesser, 0))
	d := e.Observe(failure(guesser, 0))
	if d.Verdict != BanNow || d.Rule.Name != "forever" || !d.Until.IsZero() {
		t.Errorf("%v by %s until %v", d.Verdict, d.Rule.Name, d.Until)
	}
	if d := e.Observe(failure(guesser, time.Millisecond)); d.Verdict != Counted || d.Count != 1 {
		t.Errorf("after the ban: %+v", d)
	}
}

func TestCountedNamesTheRuleNearestToABan(t *testing.T) {
	e := NewEngine(DefaultRules(), NeverBan{}, Options{})
	for i, want := range []string{"enumeration", "enumeration", "enumeration"} {
		a := failure(guesser, 0)
		a.User = extension(i)
		if d := e.Observe(a); d.Rule.Name != want || d.Count != i+1 {
			t.Errorf("attempt %d: %s %d", i+1, d.Rule.Name, d.Count)
		}
	}
	if d := e.Observe(failure(netip.MustParseAddr("192.0.2.9"), 0)); d.Rule.Name != "enumeration" || d.Rule.MaxRetry != 4 {
		t.Errorf("%s", d.Rule.Name)
	}
}

func TestNewRulesKeepWhatCountsTheSame(t *testing.T) {
	e := NewEngine(DefaultRules(), NeverBan{}, Options{})
	for range 4 {
		e.Observe(failure(guesser, 0))
	}
	rules := DefaultRules()
	slices.Reverse(rules)
	auth := &rules[len(rules)-1]
	auth.FindTime, auth.MaxRetry, auth.BanTime = time.Hour, 6, time.Minute
	rules = slices.DeleteFunc(rules, func(r Rule) bool { return r.Name == "slow" })
	e.SetRules(rules, Options{})
	if len(e.Rules()) != len(rules) || e.Rules()[0].Name != "exploit" {
		t.Errorf("rules %+v", e.Rules())
	}
	counts := make(map[string]int)
	for _, c := range e.Why(guesser).Rules {
		counts[c.Rule.Name] = c.Count
	}
	if len(counts) != 2 || counts["auth"] != 4 || counts["enumeration"] != 1 {
		t.Errorf("counts %v", counts)
	}
	if got := bansAt(e, guesser, seconds(600, 601)...); !slices.Equal(got, []int{2}) {
		t.Errorf("banned on %v", got)
	}
	t.Run("a rule that counts otherwise starts from zero", func(t *testing.T) {
		bansAt(e, guesser, seconds(700, 701)...)
		rules[len(rules)-1].Kinds = []Kind{AuthFailure}
		e.SetRules(rules, Options{})
		for _, c := range e.Why(guesser).Rules {
			if c.Rule.Name == "auth" {
				t.Errorf("%+v", c)
			}
		}
	})
	t.Run("a lower maxretry bans on the next attempt", func(t *testing.T) {
		bansAt(e, guesser, seconds(800, 801, 802)...)
		rules[len(rules)-1].MaxRetry = 2
		e.SetRules(rules, Options{})
		if got := bansAt(e, guesser, seconds(803)...); len(got) != 1 {
			t.Error("not banned")
		}
	})
}

func TestNothingThatIsWrongPanics(t *testing.T) {
	many := make([]Rule, 40)
	for i := range many {
		many[i] = Rule{Kinds: []Kind{AuthFailure, 200}, Profiles: []string{""}}
	}
	for _, e := range []*Engine{
		NewEngine(nil, NeverBan{}, Options{}), NewEngine([]Rule{{}}, NeverBan{}, Options{}), NewEngine(many, NeverBan{}, Options{}),
		NewEngine(DefaultRules(), NeverBan{}, Options{IPv4Prefix: 99, IPv6Prefix: 999, MaxTracked: 1, MaxHits: 1, MaxUsers: 1, MaxWaiting: 1, MaxHeld: 1, MaxKnown: 1, KeepEvidence: 1}),
		NewEngine(DefaultRules(), NeverBan{}, Options{
			Jitter: -1, Grace: -1, KnownFor: -1, StuckAfter: -1, SuspiciousAfter: -1, DistributedAfter: -1, OutageMin: -1, BanRate: -1, OfficeBanTime: Forever,
		}),
	} {
		for _, addr := range []netip.Addr{{}, guesser, netip.MustParseAddr("fe80::1%eth0")} {
			for k := range Kind(250) {
				for i := range 5 {
					e.Observe(Attempt{Addr: addr, Kind: k, At: start.Add(time.Duration(i) * time.Second)})
					e.Observe(Attempt{Addr: addr, Kind: k})
				}
			}
			e.Why(addr)
			e.KnownGood(addr)
			e.Offence(netip.PrefixFrom(addr, 0))
		}
		e.Advance(time.Time{})
		e.Advance(start.Add(time.Hour))
		e.Forget(netip.Prefix{}, start)
		e.Forget(netip.MustParsePrefix("0.0.0.0/0"), start)
		e.Release(netip.Prefix{}, start)
		e.Discard(netip.Prefix{})
		e.SetKnownGood(KnownGood{})
		e.SetOffence(Offence{})
		e.Stats()
		e.Guards()
		if n := len(e.Rules()); n > MaxRules {
			t.Errorf("%d rules", n)
		}
	}
}
