package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// relative is a decision without the clock's reading.
func relative(d *Decision) string {
	rule := ""
	if d.Rule != nil {
		rule = d.Rule.Name
	}
	return fmt.Sprint(d.Verdict, d.Prefix, rule, d.Count, d.Guard, d.KnownGood, d.Offence, d.Until.IsZero(), d.Until.Sub(d.Since), len(d.Reports))
}

// Two engines see the same history. The clock of the second is stepped to and fro.
func TestAStepOfTheClockChangesNoDecision(t *testing.T) {
	t.Parallel()
	sequences := sequences(300, 40)
	verdicts := make(map[Verdict]int)
	for seed := range sequences {
		r := rand.New(rand.NewPCG(seed, 15))
		g := newGuarded(r.IntN)
		steady, stepped := NewEngine(g.rules, g.list, g.o), NewEngine(g.rules, g.list, g.o)
		var by time.Duration
		for i := range 300 {
			if r.IntN(40) == 0 { // whole hours: known-good addresses are counted by the hour
				step := time.Duration(r.IntN(49)-24) * time.Hour
				stepped.StepClock(step)
				by += step
			}
			at := g.at.Add(time.Duration(g.c(3000)) * time.Millisecond)
			g.at = at
			a := randomAttempt(g.c, at.Add(-time.Duration(g.c(2)*g.c(4000))*time.Millisecond))
			a.Addr = g.addr()
			what := r.IntN(100)
			decide := func(e *Engine, by time.Duration) (list []string) {
				var said []Decision
				switch {
				case what < 2:
					e.Forget(e.Prefix(a.Addr), at.Add(by))
				case what < 20:
					said = e.Advance(at.Add(by))
				default:
					a := a
					a.At = a.At.Add(by)
					said = []Decision{e.Observe(a)}
				}
				for j := range said {
					verdicts[said[j].Verdict]++
					list = append(list, relative(&said[j]))
				}
				return list
			}
			if got, want := decide(stepped, by), decide(steady, 0); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d, clock %v off: %v, want %v", seed, i, by, got, want)
			}
		}
	}
	for _, v := range []Verdict{Counted, BanNow, Held, Excused, SparedBan, Lift} {
		if verdicts[v] == 0 {
			t.Errorf("no decision is %v: the sequences show too little", v)
		}
	}
}

// The clock was ahead (a hardware clock in local time), and is put right. Only Advance notices, or a process that starts.
func TestAfterTheClockIsSetBackEverythingCountsAtOnce(t *testing.T) {
	const ahead = 2 * time.Hour
	for _, tc := range []struct {
		name string
		back func(*testing.T, *world)
	}{
		{"while it runs", func(_ *testing.T, w *world) {
			w.pass(time.Second)
			w.now = w.now.Add(-ahead)
			w.pass(time.Second)
		}},
		{"step by step", func(_ *testing.T, w *world) {
			for range 24 {
				w.pass(time.Second)
				w.now = w.now.Add(-ahead / 24)
				w.pass(time.Second)
			}
		}},
		{"while it is stopped", func(t *testing.T, w *world) {
			var records []KnownGood
			for g := range w.e.AllKnownGood() {
				records = append(records, g)
			}
			offence, _ := w.e.Offence(netip.PrefixFrom(stranger, 32))
			next := newWorld(t, NeverBan{}, Options{})
			for _, g := range records {
				next.e.SetKnownGood(g)
			}
			next.e.SetOffence(offence)
			for i := range 4 {
				next.e.Replay(failure(guesser, time.Duration(i)*time.Second))
			}
			next.now = w.now.Add(-ahead)
			*w = *next
			w.pass(time.Second)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, NeverBan{}, Options{})
			w.attempt(AuthSuccess, office, "1000")
			for range 5 {
				w.attempt(AuthFailure, stranger, "1000")
			}
			for range 4 {
				w.attempt(AuthFailure, guesser, "1000")
				w.pass(time.Second)
			}
			before := w.now
			tc.back(t, w)
			if w.now.After(before) {
				t.Fatal("the clock was not set back")
			}
			if d := w.attempt(AuthFailure, guesser, "1000"); d.Verdict != BanNow || d.Count != 5 {
				t.Errorf("the fifth failure within seconds: %v %d", d.Verdict, d.Count)
			}
			bansAgain(t, w)
			reportsAgain(t, w)
		})
	}
}

// bansAgain checks that rules count and records are not in the future.
func bansAgain(t *testing.T, w *world) {
	t.Helper()
	bans := len(w.bans)
	for range 1000 {
		w.pass(10 * time.Millisecond)
		w.attempt(CallReject, address(1), "00442079460000")
	}
	if !w.banned(address(1)) {
		t.Error("1,000 refused calls, and no ban")
	}
	w.pass(time.Minute)
	for range 5 {
		w.attempt(AuthFailure, stranger, "1000")
	}
	if len(w.bans) < bans+2 || w.bans[len(w.bans)-1].Prefix.Addr() != stranger {
		t.Errorf("an address that was banned before is not banned again: %d bans", len(w.bans)-bans)
	}
	g, ok := w.e.KnownGood(office)
	if !ok || g.Last.After(w.now) || g.Since.After(w.now) {
		t.Errorf("known-good from the future: %+v %t, now %v", g, ok, w.now)
	}
	if o, _ := w.e.Offence(netip.PrefixFrom(stranger, 32)); o.Since.After(w.now) {
		t.Errorf("offence from the future: %+v, now %v", o, w.now)
	}
}

// reportsAgain checks that a distributed attack and a stuck phone are seen, and end.
func reportsAgain(t *testing.T, w *world) {
	t.Helper()
	for i := range 40 {
		w.attempt(AuthFailure, address(100+i), "2000")
	}
	for range 5 {
		w.attempt(AuthFailure, office, "1001")
	}
	if phones := w.e.StuckPhones(); len(w.e.DistributedAttacks()) != 1 || len(phones) != 1 || phones[0].Last.After(w.now) {
		t.Errorf("attacks %+v, stuck phones %+v", w.e.DistributedAttacks(), phones)
	}
	w.pass(61 * time.Minute)
	if len(w.e.DistributedAttacks()) != 0 || len(w.e.StuckPhones()) != 0 {
		t.Errorf("an hour later: %+v, %+v", w.e.DistributedAttacks(), w.e.StuckPhones())
	}
}

// A record that another node, or a damaged file, dates into the future does not move anything else.
func TestARecordFromTheFutureMovesNothingElse(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	w.pass(time.Second)
	for range 4 {
		w.attempt(AuthFailure, guesser, "1000")
	}
	future := w.now.Add(1000 * time.Hour)
	w.e.SetKnownGood(KnownGood{Prefix: netip.PrefixFrom(office, 32), Since: future, Last: future})
	w.e.SetOffence(Offence{Prefix: netip.PrefixFrom(stranger, 32), Count: 1, Since: future, Until: future.Add(time.Hour)})
	w.pass(time.Second)
	if o, ok := w.e.Offence(netip.PrefixFrom(stranger, 32)); !ok || o.Since.After(w.now) || o.Until.Sub(o.Since) != time.Hour {
		t.Errorf("offence %+v %t", o, ok)
	}
	if g, ok := w.e.KnownGood(office); !ok || g.Last.After(w.now) {
		t.Errorf("known-good %+v %t", g, ok)
	}
	if d := w.attempt(AuthFailure, guesser, "1000"); d.Verdict != BanNow {
		t.Errorf("the fifth failure: %v", d.Verdict)
	}
	w.pass(2 * time.Second)
	for range 5 {
		w.attempt(AuthFailure, stranger, "1000")
	}
	if !w.banned(stranger) {
		t.Error("not banned")
	}
}
