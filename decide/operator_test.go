package decide

import (
	"context"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fsban/decide/book"
	"fsban/ledger"
	"fsban/policy"
)

// verdicts counts the decisions that are recorded.
type verdicts struct {
	uncounted
	of map[policy.Verdict]int
}

func (v verdicts) Decided(d policy.Verdict) { v.of[d]++ }

func TestDecisionsThatTimeMakesAreRecorded(t *testing.T) {
	v := verdicts{of: make(map[policy.Verdict]int)}
	n := newNight(t, func(o *Options) { o.Recorder, o.Settings.Policy.BanRate = v, 1 })
	for i := range 2 {
		for range 60 {
			n.try(policy.Challenge, nth(i), "1000")
		}
	}
	n.pass(10 * time.Second)
	if v.of[policy.BanNow] != 1 || v.of[policy.Held] == 0 {
		t.Errorf("after the wait for credentials: %v, want one ban and one that is held", v.of)
	}
	n.pass(3 * time.Minute)
	if !n.banned(nth(0)) || !n.banned(nth(1)) || v.of[policy.BanNow] != 2 {
		t.Errorf("after the guard: %v, want two bans", v.of)
	}
}

// An address can be banned by itself and as a part of the prefix that it counts as.
func TestAnUnbanEndsBothBansOfAnAddress(t *testing.T) {
	n := newNight(t, nil)
	address, counted := netip.MustParsePrefix("2001:db8::7/128"), netip.MustParsePrefix("2001:db8::/64")
	for _, p := range []netip.Prefix{address, counted} {
		b := ledger.Ban{Prefix: p, Since: n.now, Rule: book.RuleOperator, Source: policy.Operator}
		if err := n.book.Ban(book.Entry{Ban: b, Origin: book.ByOperator}); err != nil {
			t.Fatal(err)
		}
	}
	go func() { (<-n.requests)() }()
	if _, found, wider, err := n.Unban(t.Context(), address, book.Order{By: "anna"}); err != nil || !found || len(wider) > 0 {
		t.Errorf("found %v, wider %v, %v", found, wider, err)
	}
	if left := n.ledger.List(); len(left) > 0 {
		t.Errorf("still banned: %+v", left)
	}
}

// Records of a feature that is switched off are removed from the disk, and never restored: nothing in memory would expire them.
func TestRecordsThatAreSwitchedOffLeaveTheDisk(t *testing.T) {
	n := newNight(t, nil)
	n.try(policy.AuthSuccess, nth(1), "1000")
	n.restart()
	if got := n.ledger.Shelved(ledger.Known); got != 1 {
		t.Fatalf("%d records, want 1", got)
	}
	n.tune = func(o *Options) { o.Settings.Policy.KnownFor = -1 }
	n.restart()
	n.restart()
	if got := n.ledger.Shelved(ledger.Known); got != 0 {
		t.Errorf("%d records of known-good addresses on disk", got)
	}
}

// An operator allows addresses while they fail: once the order is answered, none of them is banned, whatever is decided meanwhile.
func TestAnAllowanceHoldsUnderAttack(t *testing.T) {
	now := time.Now()
	disk := openLedger(t, filepath.Join(t.TempDir(), "fsban.db"), now)
	t.Cleanup(func() { _ = disk.Close() })
	l := newLoop(disk, now)
	l.Restore(nil, "")
	l.SetAlive(policy.Event, true)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) })
	var offered atomic.Uint64
	const addresses = 20
	running.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if l.Offer(policy.Attempt{Addr: nth(i % addresses), At: time.Now(), Kind: policy.AuthFailure, User: "1000"}, time.Now()) {
				offered.Add(1)
			} else {
				time.Sleep(time.Millisecond) // the queue is full
			}
		}
	})
	wait := func(attempts uint64) { // until so many more are decided
		t.Helper()
		deadline := time.Now().Add(2 * time.Minute)
		for want := offered.Load() + attempts; l.Counted(policy.AuthFailure) < want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d attempts decided", l.Counted(policy.AuthFailure), want)
			}
		}
	}
	wait(10 * addresses)
	for i := range addresses {
		p := netip.PrefixFrom(nth(i), 32)
		_, still, err := l.Allow(ctx, AllowOrder{Prefix: p, By: "anna"})
		if _, banned := disk.Get(p); err != nil || len(still) > 0 || banned {
			t.Errorf("%v: banned %v, still %v, %v", p, banned, still, err)
		}
	}
	wait(10 * addresses)
	cancel()
	running.Wait()
	if v4, v6 := disk.Count(); v4+v6 > 0 {
		t.Errorf("%d bans of allowed addresses", v4+v6)
	}
}
