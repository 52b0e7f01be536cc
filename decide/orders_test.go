package decide

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"fsban/decide/book"
	"fsban/ledger"
	"fsban/policy"
)

// Bans that an operator releases, that an outage lifts, and that a start makes are decisions; a discarded one is none.
func TestAllDecisionsAreRecorded(t *testing.T) {
	v := verdicts{of: make(map[policy.Verdict]int)}
	n := newNight(t, func(o *Options) { o.Recorder, o.Settings.Policy.BanRate = v, 1 })
	fail := func(first, count int) {
		for i := range count {
			for user := range 5 {
				n.try(policy.AuthFailure, nth(first+i), string(rune('a'+user)))
			}
		}
	}
	expect := func(what string, bans, held int) {
		t.Helper()
		if v.of[policy.BanNow] != bans || v.of[policy.Held] != held {
			t.Errorf("%s: %v, want %d bans and %d held", what, v.of, bans, held)
		}
	}
	order := func(f func() (int, error)) {
		t.Helper()
		go func() { (<-n.requests)() }()
		if count, err := f(); err != nil || count != 1 {
			t.Fatalf("%d, %v", count, err)
		}
	}
	fail(100, 5)
	expect("under the guard", 1, 4)
	order(func() (int, error) { return n.Release(t.Context(), netip.PrefixFrom(nth(101), 32), "anna") })
	expect("released by an operator", 2, 4)
	for i, by := range []string{"", "anna"} {
		if b, _ := n.ledger.Get(netip.PrefixFrom(nth(100+i), 32)); b.By != by || b.Rule != "enumeration" {
			t.Errorf("ban %+v, want one by %q", b, by)
		}
	}
	order(func() (int, error) { return n.Discard(t.Context(), netip.PrefixFrom(nth(102), 32), "anna") })
	expect("discarded", 2, 4)
	n.stop()
	n.now = n.now.Add(5 * time.Minute)
	n.open()
	bans := 0
	for i := range 5 {
		if n.banned(nth(100 + i)) {
			bans++
		}
	}
	if bans < 3 {
		t.Fatalf("%d banned: the start has made no ban", bans)
	}
	expect("made by the start", bans, 4)
	n.pass(3 * time.Minute)
	expect("released by time", 4, 4)
}

func TestALiftIsRecorded(t *testing.T) {
	v := verdicts{of: make(map[policy.Verdict]int)}
	n := newNight(t, func(o *Options) { o.Recorder = v })
	for i := range 20 {
		n.try(policy.AuthSuccess, nth(i), fmt.Sprint("home", i))
	}
	n.pass(15 * time.Minute) // younger ones do not count for an outage
	n.try(policy.AuthSuccess, attacker, "1000")
	for i := range 4 {
		n.try(policy.AuthFailure, attacker, string(rune('a'+i)))
	}
	if !n.banned(attacker) {
		t.Fatal("not banned")
	}
	for i := range 20 {
		n.try(policy.AuthFailure, nth(i), fmt.Sprint("home", i))
	}
	n.pass(2 * time.Second)
	if n.banned(attacker) || v.of[policy.Lift] != 1 {
		t.Errorf("%v, want one lift", v.of)
	}
}

// A repeated order changes only the values that it gives.
func TestARepeatedLocalOrderStaysLocal(t *testing.T) {
	for name, c := range map[string]struct{ first, second, want bool }{
		"local, repeated without":  {true, false, true},
		"local, repeated as local": {true, true, true},
		"of the fleet":             {false, false, false},
		"of the fleet, then local": {false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNight(t, nil)
			p := netip.PrefixFrom(attacker, 32)
			do := func(f func() error) {
				t.Helper()
				go func() { (<-n.requests)() }()
				if err := f(); err != nil {
					t.Fatal(err)
				}
			}
			var b ledger.Ban
			var a book.Allowance
			for i, local := range []bool{c.first, c.second} {
				reason := []string{"first", "second"}[i]
				do(func() (err error) {
					b, err = n.Ban(t.Context(), BanOrder{Prefix: p, Default: time.Hour, By: "anna", Reason: reason, Local: local})
					return err
				})
			}
			for i, local := range []bool{c.first, c.second} {
				reason := []string{"first", "second"}[i]
				do(func() (err error) {
					a, _, err = n.Allow(t.Context(), AllowOrder{Prefix: netip.PrefixFrom(office, 32), By: "anna", Reason: reason, Local: local})
					return err
				})
			}
			if b.Local != c.want || b.Reason != "second" || a.Local != c.want || a.Reason != "second" {
				t.Errorf("ban %+v, allowance %+v: want local %v", b, a, c.want)
			}
		})
	}
}
