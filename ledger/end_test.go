package ledger

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"fsban/policy"
)

func TestTheBansNearestToTheirEnd(t *testing.T) {
	l := open(t, statePath(t), start)
	for i, d := range []time.Duration{5 * time.Hour, policy.Forever, time.Hour, 3 * time.Hour, 2 * time.Hour} {
		l.Add(ban(fmt.Sprintf("192.0.2.%d/32", i), d))
	}
	l.Add(ban("2001:db8::/64", time.Minute))
	operators := ban("192.0.2.9/32", time.Minute)
	operators.Rule = "operator"
	l.Add(operators)
	mayGo := func(b *Ban) bool { return b.Rule != "operator" }
	for n, want := range map[int]string{0: "[]", 2: "[192.0.2.2/32 192.0.2.4/32]", 9: "[192.0.2.2/32 192.0.2.4/32 192.0.2.3/32 192.0.2.0/32 192.0.2.1/32]"} {
		got := []netip.Prefix{}
		for _, b := range l.First(true, n, mayGo, EndsBefore) {
			got = append(got, b.Prefix)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%d: %v, want %s", n, got, want)
		}
	}
}

func TestAnotherEndKeepsTheEvidence(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	l.Add(ban("192.0.2.7/32", time.Hour))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix("192.0.2.7/32")
	for _, amend := range []struct {
		prefix      netip.Prefix
		seen, until time.Time
		want        bool
	}{
		{p, start.Add(time.Hour), start.Add(5 * time.Hour), true},
		{p, start.Add(time.Hour), start.Add(2 * time.Hour), false},         // it does not end then any more
		{netip.MustParsePrefix("192.0.2.8/32"), time.Time{}, start, false}, // not banned
	} {
		if got := l.Amend(amend.prefix, amend.seen, amend.until); got != amend.want {
			t.Errorf("amended %v: %t", amend.prefix, got)
		}
	}
	flush(t, l)
	l = open(t, path, start)
	b, err := l.Load(p)
	if err != nil || !b.Until.Equal(start.Add(5*time.Hour)) || len(b.Evidence) != 2 || prefixes(l) != "192.0.2.7/32" {
		t.Errorf("%+v, %v, %s", b, err, prefixes(l))
	}
}

// Bans are added, replaced and removed in any order. Exactly the bans that are over end, and the heap of ends does not
// outgrow the bans.
func TestEndsComeInTheirOrder(t *testing.T) {
	l := open(t, statePath(t), start)
	rng := rand.New(rand.NewPCG(1, 2))
	want := make(map[netip.Prefix]time.Time)
	counted := func(by time.Time) (n int) {
		for _, until := range want {
			if !until.IsZero() && !until.After(by) {
				n++
			}
		}
		return n
	}
	ended := 0
	for now := start; now.Before(start.Add(3 * time.Minute)); now = now.Add(time.Second) {
		for range 100 {
			b := ban(fmt.Sprintf("192.0.2.%d/32", rng.IntN(200)), policy.Forever)
			switch rng.IntN(8) {
			case 0:
				l.End(b.Prefix, Ending{})
				delete(want, b.Prefix)
				continue
			case 1: // without end
			default:
				b.Until = now.Add(time.Duration(rng.IntN(60_000)) * time.Millisecond)
			}
			l.Add(b)
			want[b.Prefix] = b.Until
		}
		if rng.IntN(10) == 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		soon, later := now.Add(3*time.Second), now.Add(13*time.Second)
		if all, bySoon, byLater := l.Tally(soon, later); all != len(want) || bySoon != counted(soon) || byLater != counted(later) {
			t.Fatalf("%d bans, %d end soon, %d later; want %d, %d, %d", all, bySoon, byLater, len(want), counted(soon), counted(later))
		}
		due := counted(now)
		over := l.Expire(now)
		for _, b := range over {
			if until, there := want[b.Prefix]; !there || until.IsZero() || until.After(now) {
				t.Fatalf("%v ended at %v: banned until %v", b.Prefix, now, until)
			}
			delete(want, b.Prefix)
		}
		if len(over) != due || counted(now) != 0 {
			t.Fatalf("%d bans ended, of %d", len(over), due)
		}
		ended += due
		if len(l.ends) > 2*len(l.bans)+164 {
			t.Fatalf("%d ends of %d bans", len(l.ends), len(l.bans))
		}
	}
	if ended < 100 {
		t.Errorf("only %d bans ended", ended)
	}
}

// The kernel's end of a ban, seen before an operator banned anew, must not become the end of the operator's ban.
func TestAnAmendmentNeverReplacesANewerBan(t *testing.T) {
	l := open(t, statePath(t), start)
	for i := range 2000 {
		p := fmt.Sprintf("10.0.%d.%d/32", i/256, i%256)
		l.Add(ban(p, time.Hour))
		if i%10 == 0 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		seen, _ := l.Get(netip.MustParsePrefix(p))
		operators := ban(p, 24*time.Hour)
		operators.Rule = "operator"
		var both sync.WaitGroup
		both.Go(func() { l.Add(operators) })
		both.Go(func() { l.Amend(seen.Prefix, seen.Until, start.Add(time.Minute)) })
		both.Wait()
		if b, _ := l.Get(seen.Prefix); b.Rule != "operator" || !b.Until.Equal(operators.Until) {
			t.Fatalf("of %d: %+v", i, b)
		}
	}
}

// Edits keep the evidence, in memory or on disk, with concurrent edits and flushes.
func TestEditsKeepTheEvidence(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	p := netip.MustParsePrefix("192.0.2.7/32")
	l.Add(ban("192.0.2.7/32", time.Hour))
	var both sync.WaitGroup
	both.Go(func() {
		for i := range 500 {
			l.Sign(p, "a", int64(i))
		}
	})
	both.Go(func() {
		for i := range 500 {
			b, _ := l.Get(p)
			l.Amend(p, b.Until, b.Until.Add(time.Second))
			if i%50 == 0 {
				_ = l.Flush()
			}
		}
	})
	both.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b, err := open(t, path, start).Load(p)
	if err != nil || len(b.Evidence) != 2 || b.Stamp != 499 || !b.Until.Equal(start.Add(time.Hour+500*time.Second)) {
		t.Errorf("%+v, %v", b, err)
	}
}
