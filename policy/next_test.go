package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// asForetold returns the difference between a forecast and the decision of Observe: "" if there is none.
func asForetold(foretold, observed *Decision) string {
	d := *observed
	d.Evidence, d.Reports = nil, nil
	if !reflect.DeepEqual(*foretold, d) {
		return fmt.Sprintf("foretold %+v, then came %+v", *foretold, d)
	}
	return ""
}

// A guarded history has guards that act, addresses that count together, and rules that change.
type guarded struct {
	c     choices
	rules []Rule
	o     Options
	list  NeverBan
	at    time.Time
}

func newGuarded(c choices) *guarded {
	g := &guarded{c: c, rules: randomRules(c), o: randomOptions(c), list: never("ignoreip", "192.0.2.4/32", "2001:db8:0:2::7/128"), at: start}
	g.o.Seed, g.o.Jitter, g.o.KnownFor = uint64(c(1000)), 0, time.Hour
	g.o.OutageKnownFor = []time.Duration{-1, 10 * time.Second}[g.c(2)]
	g.o.OutageMin, g.o.OutageWindow, g.o.OutageHold, g.o.BanRate, g.o.MaxHeld = 2+c(3), g.c.seconds(20, 100), g.c.seconds(10, 100), []int{-1, 1 + c(3)}[c(2)], 1+c(4)
	g.o.IPv4Prefix = []int{32, 32, 30}[c(3)]
	return g
}

func (g *guarded) addr() netip.Addr {
	if g.c(6) == 0 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::%x", 1+g.c(2), 6+g.c(2)))
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(g.c(9))})
}

// step performs one operation on each engine, and returns their decisions.
func (g *guarded) step(engines ...*Engine) [][]Decision {
	g.at = g.at.Add(time.Duration(g.c(3000)) * time.Millisecond)
	a := randomAttempt(g.c, g.at.Add(-time.Duration(g.c(2)*g.c(4000))*time.Millisecond))
	a.Addr = g.addr()
	what, rules := g.c(200), g.rules
	if what == 2 {
		rules = randomRules(g.c)
	}
	var list [][]Decision
	for _, e := range engines {
		var said []Decision
		switch {
		case what < 2:
			e.Forget(e.Prefix(a.Addr), g.at)
		case what == 2:
			e.SetRules(rules, g.o)
		case what == 3:
			e.SetKnownGood(KnownGood{Prefix: netip.PrefixFrom(a.Addr, a.Addr.BitLen()), Since: g.at, Last: g.at})
		case what == 4:
			e.SetOffence(Offence{Prefix: e.Prefix(a.Addr), Count: 2, Since: g.at.Add(-time.Hour), Until: g.at.Add(-time.Minute)})
		case what < 25:
			said = e.Advance(g.at)
		default:
			said = []Decision{e.Observe(a)}
			said[0].Reports = append([]Report(nil), said[0].Reports...)
		}
		list = append(list, said)
	}
	g.rules = rules
	return list
}

func TestTheNextFailureIsWhatWasForetold(t *testing.T) {
	t.Parallel()
	sequences := sequences(150, 15)
	seen := make(map[string]int)
	for seed := range sequences {
		c := choices(rand.New(rand.NewPCG(seed, 1)).IntN)
		g := newGuarded(c)
		e := NewEngine(g.rules, g.list, g.o)
		for i := range 300 {
			g.step(e)
			addr := g.addr()
			w := e.Why(addr)
			last, tried := lastFailure(w.Evidence)
			if tried != (w.Next != nil) {
				t.Fatalf("seed %d, step %d: %+v", seed, i, w)
			}
			foretold := &w.NextNewUser
			if tried && c(2) == 0 {
				foretold = w.Next
			} else {
				last.User = fmt.Sprint("user number ", i)
			}
			last.Addr, last.At, last.Kind = addr, e.time(), AuthFailure
			d := e.Observe(last)
			if msg := asForetold(foretold, &d); msg != "" {
				t.Fatalf("seed %d, step %d: %s", seed, i, msg)
			}
			seen[d.Verdict.String()]++
			seen["by "+d.Guard.String()]++
			if d.Verdict != Pass && d.Verdict != Excused {
				seen[d.Prefix.String()]++
			}
			if d.KnownGood {
				seen["known-good"]++
			}
			if d.Offence > 2 {
				seen["third offence"]++
			}
			if w.Next != nil && w.Next.Rule != w.NextNewUser.Rule {
				seen["another rule"]++
			}
			for _, r := range d.Reports {
				if r, ok := r.(GuardChange); ok && r.Guard == OutageGuard && d.Verdict == Held {
					seen["held by its own outage"]++
				}
			}
		}
	}
	if testing.Short() {
		return // too few to show everything
	}
	for _, word := range []string{
		"pass", "counted", "ban", "spared", "spared_ban", "excused", "held", "by outage", "by ban_rate", "known-good", "third offence", "another rule",
		"held by its own outage", "2001:db8:0:1::/64", "2001:db8:0:2::6/128", "2001:db8:0:2::7/128", "192.0.2.0/30", "192.0.2.5/32",
	} {
		if seen[word] < 10 {
			t.Errorf("%q was seen %d times: the sequences show too little", word, seen[word])
		}
	}
}

// Of two engines that see the same, one is asked all the time.
func TestToBeAskedChangesNothing(t *testing.T) {
	t.Parallel()
	for seed := range sequences(30, 10) {
		g := newGuarded(rand.New(rand.NewPCG(seed, 2)).IntN)
		asked, quiet := NewEngine(g.rules, g.list, g.o), NewEngine(g.rules, g.list, g.o)
		quiet.seed = asked.seed
		for i := range 300 {
			said := g.step(asked, quiet)
			if !reflect.DeepEqual(said[0], said[1]) {
				t.Fatalf("seed %d, step %d: %+v, unasked %+v", seed, i, said[0], said[1])
			}
			asked.Why(netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 9)}))
			if i%4 == 0 {
				asked.Why(netip.MustParseAddr("2001:db8:0:1::6"))
			}
			if a, q := asked.Stats(), quiet.Stats(); a != q {
				t.Fatalf("seed %d, step %d: %+v, unasked %+v", seed, i, a, q)
			}
		}
		before := fmt.Sprintf("%+v", *asked)
		w := asked.Why(g.addr())
		if after := fmt.Sprintf("%+v", *asked); before != after {
			t.Fatalf("seed %d: asked about %v it changed", seed, w.Prefix)
		}
		if a, q := asked.Held(), quiet.Held(); !reflect.DeepEqual(a, q) {
			t.Errorf("seed %d: held %+v, unasked %+v", seed, a, q)
		}
	}
}

func BenchmarkWhy(b *testing.B) {
	e := NewEngine(DefaultRules(), never("ignoreip", "127.0.0.0/8"), Options{})
	attempt := knownFails(e, 1000)
	for i := range 10_000 {
		attempt(i)
	}
	b.ReportAllocs()
	for i := range b.N {
		e.Why(address(i % 1000))
	}
}
