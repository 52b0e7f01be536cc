package policy

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var search = flag.Uint64("search", 1, "play so many times the usual number of random sequences")

// sequences returns how many random sequences a test plays: few with -short, more with -search.
func sequences(usual, short uint64) uint64 {
	if testing.Short() {
		return short
	}
	return usual * *search
}

// choices are where a random sequence comes from: each returns a number from 0 up to n.
type choices func(n int) int

func (c choices) seconds(least, most int) time.Duration {
	return time.Duration(least+c(most-least+1)) * time.Second
}

// randomRules returns rules with small windows, so that few attempts show much.
func randomRules(c choices) []Rule {
	if c(3) == 0 {
		rules := DefaultRules()
		for i := range rules {
			rules[i].MaxRetry = 1 + c(7)
		}
		return rules
	}
	rules := make([]Rule, 1+c(5))
	for i := range rules {
		r := Rule{
			Name: fmt.Sprintf("rule%d", i), FindTime: c.seconds(1, 50), MaxRetry: 1 + c(8), BanTime: c.seconds(1, 600), DistinctUsers: c(3) == 0,
		}
		for k := range NumKinds {
			if k != AuthSuccess && c(2) == 0 {
				r.Kinds = append(r.Kinds, k)
			}
		}
		if c(5) == 0 {
			r.BanTime = Forever
		}
		if c(4) == 0 {
			r.UserAgent = regexp.MustCompile(`^scan`)
		}
		if c(4) == 0 {
			r.Unproven = true
		}
		if c(4) == 0 {
			r.Profiles = []string{"internal", "other"}
		}
		rules[i] = r
	}
	return rules
}

func randomOptions(c choices) Options {
	return Options{
		OutageMin: -1, BanRate: -1, Jitter: -1, KeepEvidence: 64,
		ChallengeWait: c.seconds(1, 5), MaxBanTime: c.seconds(300, 3000), UnprovenBanTime: c.seconds(10, 30), UnprovenMaxBanTime: c.seconds(30, 100), OffenceFor: c.seconds(100, 2000), Grace: c.seconds(1, 20),
		KnownFor: c.seconds(20, 300), OfficeMaxRetry: 3 + c(10), OfficeFindTime: c.seconds(5, 60), OfficeBanTime: c.seconds(100, 200),
		StuckAfter: 2 + c(3), StuckSilence: c.seconds(10, 100),
		SuspiciousAfter: 1 + c(4), SuspiciousFindTime: c.seconds(10, 60), TrustAfter: c.seconds(10, 100),
		DistributedAfter: 2 + c(3), DistributedFindTime: c.seconds(5, 60),
	}
}

func randomAttempt(c choices, at time.Time) Attempt {
	kinds := []Kind{
		AuthFailure, AuthFailure, AuthFailure, AuthFailure, AuthFailure, AuthFailure, Challenge, Challenge, AuthSuccess, AuthSuccess, Violation, ACLReject,
		CallReject, Scan, Malformed, Flood, Exploit,
	}
	a := Attempt{
		Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(c(5))}), At: at, Kind: kinds[c(len(kinds))],
		User: []string{"", "1000", "1001", "1002", "1003", "1004"}[c(6)], Domain: []string{"", "a.example"}[c(2)],
		Proof:     []Proof{UnknownProof, UnknownProof, UnknownProof, NonceProof, TCPProof, NoProof, NoProof}[c(7)],
		UserAgent: []string{"", "phone", "scanner", "sipcli/v1.8"}[c(4)], Profile: []string{"internal", "external"}[c(2)],
	}
	if c(10) == 0 {
		a.Addr = netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 1+c(3)))
	}
	return a
}

// play applies the same steps to engine and model, and returns the first difference: "" if there is none. Results are counted
// in seen.
func play(c choices, steps int, seen map[string]int) string {
	rules, o := randomRules(c), randomOptions(c)
	list := never("ignoreip", "192.0.2.4/32")
	e, m := NewEngine(rules, list, o), newModel(rules, list, o)
	at, pace := start, 1+c(4000)
	var ready []string
	for i := range steps {
		at = at.Add(time.Duration(c(pace)*1000+c(1000)) * time.Microsecond)
		late := time.Duration(c(2)*c(4000)) * time.Millisecond
		var got, want string
		what := c(100)
		if what < 12 {
			ready = append(ready, m.advance(ms(at))...)
			var said []string
			for _, d := range e.Advance(at) {
				said = append(said, text(&d))
			}
			got, want = fmt.Sprint(said), fmt.Sprint(ready)
			ready = nil
		}
		switch {
		case what < 2 && got == want: // Forget drops decisions that it overtakes: there are none now
			a := randomAttempt(c, at)
			p := m.prefix(a.Addr)
			m.forget(p, ms(at))
			e.Forget(p, at)
			got, want = fmt.Sprint(e.trackers.get(keyOf(p)) == nil), "true"
		case what < 12:
		default:
			a := randomAttempt(c, at.Add(-late))
			var foretold *Decision
			if a.Kind != AuthSuccess && i%8 == 0 {
				e.advanceTo(ms(a.At))
				next := e.predict(a)
				foretold = &next
			}
			d := e.Observe(a)
			if foretold != nil {
				if msg := asForetold(foretold, &d); msg != "" {
					return fmt.Sprintf("step %d of %+v: %s", i, o, msg)
				}
			}
			var due []string
			want, due = m.observe(a)
			ready = append(ready, due...)
			got = text(&d)
			if p := m.prefix(a.Addr); d.Prefix != p {
				return fmt.Sprintf("step %d: prefix %v, the model has %v", i, d.Prefix, p)
			}
		}
		for word := range strings.FieldsSeq(want) {
			seen[strings.TrimLeft(word, "[")]++
		}
		if strings.Contains(want, "number 3") {
			seen["third offence"]++
		}
		if got != want {
			return fmt.Sprintf("step %d of %+v: %s, the model says %s", i, o, got, want)
		}
		if i%10 != 9 {
			continue
		}
		if msg := agree(e, m); msg != "" {
			return fmt.Sprintf("step %d: %s", i, msg)
		}
	}
	return ""
}

// agree compares the records of the addresses.
func agree(e *Engine, m *model) string {
	for i := range 6 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)
		if i == 5 {
			p = netip.MustParsePrefix("2001:db8::/64")
		}
		if got, want := e.isKnown(keyOf(p)), m.trusts(p); got != want {
			return fmt.Sprintf("%v known-good: %t, the model says %t", p, got, want)
		}
		past := m.records[p]
		if past.until != 0 && m.now >= past.until+m.o.OffenceFor.Milliseconds() {
			past = mRecord{}
		}
		if o, _ := e.Offence(p); o.Count != past.full || o.Unproven != past.short {
			return fmt.Sprintf("%v has the record %+v, the model says %+v", p, o, past)
		}
	}
	return ""
}

func TestTheEngineDecidesAsASlowAndObviousModel(t *testing.T) {
	t.Parallel()
	sequences := sequences(800, 40)
	seen := make(map[string]int)
	for seed := range sequences {
		r := rand.New(rand.NewPCG(seed, 0))
		if difference := play(r.IntN, 250, seen); difference != "" {
			t.Fatalf("seed %d: %s", seed, difference)
		}
	}
	if testing.Short() {
		return // too few to show everything
	}
	for _, word := range []string{
		"pass", "counted", "ban", "spared", "spared_ban", "excused", "suspicious", "distributed", "stuck", "third offence",
		"auth", "enumeration", "slow", "scanner", "acl", "toll", "challenge", "office",
		"forged", "unproven", "scan", "malformed", "flood", "exploit",
	} {
		if seen[word] < 10 {
			t.Errorf("%q was seen %d times in %d sequences: they show too little", word, seen[word], sequences)
		}
	}
}

func FuzzTheEngineDecidesAsTheModel(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		data := make([]byte, 500)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		next := func(n int) int {
			if len(data) == 0 || n < 2 {
				return 0
			}
			b := int(data[0])
			data = data[1:]
			if n > 256 && len(data) > 0 {
				b, data = b<<8|int(data[0]), data[1:]
			}
			return b % n
		}
		steps := min(len(data)/8, 300)
		if difference := play(next, steps, make(map[string]int)); difference != "" {
			t.Fatal(difference)
		}
	})
}

// Attempts in the order of their times lead to the same state, live or replayed later.
func TestAJournalReplayedGivesTheSameState(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 0))
	at := start
	var journal []Attempt
	for range 5000 {
		at = at.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
		journal = append(journal, randomAttempt(r.IntN, at))
	}
	live, replayed := NewEngine(DefaultRules(), NeverBan{}, Options{Seed: 5}), NewEngine(DefaultRules(), NeverBan{}, Options{Seed: 5})
	tick := start
	var first, second []string
	for _, a := range journal {
		for ; tick.Before(a.At); tick = tick.Add(time.Second) {
			for _, d := range live.Advance(tick) {
				first = append(first, text(&d))
			}
		}
		d := live.Observe(a)
		first = append(first, text(&d))
	}
	for _, a := range journal {
		d := replayed.Observe(a)
		second = append(second, text(&d))
	}
	for _, d := range replayed.Advance(at) {
		second = append(second, text(&d))
	}
	slices.Sort(first) // a replay returns the results of unanswered challenges at its end
	slices.Sort(second)
	if !slices.Equal(first, second) {
		t.Error("the decisions differ")
	}
	for i := range 5 {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		if a, b := fmt.Sprintf("%+v", live.Why(addr).Offence), fmt.Sprintf("%+v", replayed.Why(addr).Offence); a != b {
			t.Errorf("%v: %s and %s", addr, a, b)
		}
	}
}
