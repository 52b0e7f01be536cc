package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// floodOf has n addresses banned at once, or held.
func floodOf(w *world, first, n int) {
	for i := first; i < first+n; i++ {
		for range 5 {
			w.attempt(AuthFailure, address(i), fmt.Sprint(i))
		}
	}
}

func TestTheBanRateGuardLetsSoManyPassInAnyMinute(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: 10})
	floodOf(w, 0, 10)
	if len(w.bans) != 10 || len(w.reports) != 0 {
		t.Fatalf("%d bans, reports %+v", len(w.bans), w.reports)
	}
	floodOf(w, 10, 1)
	w.pass(59 * time.Second)
	floodOf(w, 11, 1)
	if len(w.bans) != 10 || w.held != 2 {
		t.Fatalf("%d bans, %d held within a minute", len(w.bans), w.held)
	}
	w.pass(time.Second)
	floodOf(w, 11, 1)
	if len(w.bans) != 11 || w.bans[10].Guard != NoGuard || len(w.e.Held()) != 1 {
		t.Errorf("%d bans, held %+v", len(w.bans), w.e.Held())
	}
	w.pass(57 * time.Second)
	if !w.e.Guards()[RateGuard].Active {
		t.Error("ended less than a minute after the last one was held")
	}
	w.pass(3 * time.Second)
	if g := w.e.Guards()[RateGuard]; g.Active || g.Held != 0 || len(w.bans) != 12 || !g.Since.IsZero() {
		t.Errorf("guard %+v, %d bans", g, len(w.bans))
	}
	if w.bans[11].Guard != RateGuard || w.bans[11].Offence != 1 || w.bans[11].Until.Sub(start) != 24*time.Hour {
		t.Errorf("%+v", w.bans[11])
	}
}

func TestAHeldAddressThatGoesOnDoesNotKeepTheGuardUp(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: 1})
	floodOf(w, 0, 3)
	for range 130 {
		floodOf(w, 0, 3)
		w.pass(time.Second)
	}
	if w.e.Guards()[RateGuard].Active || len(w.e.Held()) != 0 {
		t.Errorf("guard %+v, held %+v", w.e.Guards()[RateGuard], w.e.Held())
	}
}

func TestHeldBansThatAreNotMade(t *testing.T) {
	hold := func(t *testing.T) *world {
		w := newWorld(t, NeverBan{}, Options{BanRate: 1})
		floodOf(w, 0, 3)
		if len(w.e.Held()) != 2 {
			t.Fatalf("held %+v", w.e.Held())
		}
		return w
	}
	prefix := netip.PrefixFrom(address(1), 32)
	for name, excuse := range map[string]func(*world){
		"it has become known-good":     func(w *world) { w.attempt(AuthSuccess, address(1), "new") },
		"it is never banned now":       func(w *world) { w.e.SetNeverBan(NewNeverBan(NeverEntries("allowed by anna", prefix))) },
		"the operator discards it":     func(w *world) { w.e.Discard(prefix) },
		"the operator unbans it":       func(w *world) { w.e.Forget(prefix, w.now) },
		"its network is unbanned":      func(w *world) { w.e.Forget(netip.PrefixFrom(address(1), 24), w.now) },
		"it would be over by now":      func(w *world) { w.now = w.now.Add(25 * time.Hour) },
		"it is banned in the meantime": func(w *world) { w.pass(30 * time.Second); floodOf(w, 9, 1); w.pass(31 * time.Second); floodOf(w, 1, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			w := hold(t)
			excuse(w)
			w.pass(5 * time.Minute)
			released := slices.ContainsFunc(w.bans, func(d Decision) bool { return d.Prefix == prefix && d.Guard == RateGuard })
			if released || len(w.e.Held()) != 0 {
				t.Errorf("bans %+v, held %+v", w.bans, w.e.Held())
			}
		})
	}
}

func TestTheOperatorReleasesHeldBans(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: 1})
	floodOf(w, 0, 5)
	prefix := netip.PrefixFrom(address(2), 32)
	if s := w.e.Why(address(2)); s.Held == nil || s.Held.Rule.Name != "auth" || len(s.Held.Evidence) != 5 {
		t.Errorf("why %+v", s)
	}
	w.pass(time.Second)
	if d, ok := w.e.Release(prefix, w.now); !ok || d.Verdict != BanNow || d.Prefix != prefix || !d.Since.Equal(w.now) || d.Until.Sub(start) != 24*time.Hour {
		t.Errorf("%t %+v", ok, d)
	}
	if _, ok := w.e.Release(prefix, w.now); ok {
		t.Error("released twice")
	}
	if list := w.e.ReleaseAll(w.now); len(list) != 3 || w.e.Stats().Offenders != 5 || len(w.e.Held()) != 0 {
		t.Errorf("%d released, %d offenders", len(list), w.e.Stats().Offenders)
	}
	if w.e.Discard(prefix) || w.e.DiscardAll() != 0 {
		t.Error("something was left")
	}
}

func TestReleasingPausesWhileTheGuardIsUpAgain(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: 2})
	floodOf(w, 0, 10)
	w.pass(90 * time.Second)
	if n := len(w.e.Held()); n != 6 {
		t.Fatalf("%d held, want 6: one when the guard ends after a minute, then one each 30 seconds", n)
	}
	floodOf(w, 100, 4)
	w.pass(59 * time.Second)
	if n := len(w.e.Held()); n != 8 {
		t.Errorf("%d held, want 8", n)
	}
}

func TestAnOutageNeedsManyKnownGoodAddresses(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{OutageMin: 3, OutageShare: 0.5, OutageWindow: time.Minute, OutageKnownFor: -1})
	for i := range 20 {
		w.attempt(AuthSuccess, address(i), fmt.Sprint(i))
	}
	for i := range 9 {
		w.attempt(AuthFailure, address(i), fmt.Sprint(i))
		w.attempt(AuthFailure, address(100+i), fmt.Sprint(i)) // strangers
	}
	if g := w.e.Guards()[OutageGuard]; g.Active || g.Current != 9 || g.Limit != 10 {
		t.Errorf("%+v", g)
	}
	w.pass(61 * time.Second)
	w.attempt(AuthFailure, address(9), "9")
	if g := w.e.Guards()[OutageGuard]; g.Active || g.Current != 1 {
		t.Errorf("a minute later %+v", g)
	}
	for i := range 10 {
		w.attempt(AuthFailure, address(i), fmt.Sprint(i))
	}
	if g := w.e.Guards()[OutageGuard]; !g.Active || !g.Since.Equal(w.now) {
		t.Errorf("%+v", g)
	}
	w.pass(119 * time.Second)
	if !w.e.Guards()[OutageGuard].Active {
		t.Error("it ended within two minutes")
	}
	w.pass(time.Second)
	if w.e.Guards()[OutageGuard].Active {
		t.Error("it does not end")
	}
}

func TestWhoWasNotSeenForAnHourIsNoPartOfTheShare(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{OutageMin: 3, OutageShare: 0.5, OutageWindow: time.Minute, OutageKnownFor: -1})
	for i := range 100 {
		w.attempt(AuthSuccess, address(i), fmt.Sprint(i))
	}
	if g := w.e.Guards()[OutageGuard]; g.Limit != 50 {
		t.Errorf("%+v", g)
	}
	w.pass(time.Hour)
	if g := w.e.Guards()[OutageGuard]; g.Limit != 50 {
		t.Errorf("in the next hour %+v", g)
	}
	w.pass(time.Hour)
	if g := w.e.Guards()[OutageGuard]; g.Limit != 3 {
		t.Errorf("in the hour after it %+v", g)
	}
}

func TestAHeldOfficeCanBeReleasedByTheOperator(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{OutageMin: 1, OutageKnownFor: -1})
	w.attempt(AuthSuccess, office, "1000")
	for i := range 4 {
		w.attempt(AuthFailure, office, extension(i))
	}
	if len(w.bans) != 0 || w.held != 1 || w.e.Held()[0].Guard != OutageGuard {
		t.Fatalf("bans %+v, held %+v", w.bans, w.e.Held())
	}
	if d, ok := w.e.Release(netip.PrefixFrom(office, 32), w.now); !ok || d.Verdict != BanNow || !d.KnownGoodChanged {
		t.Errorf("%+v", d)
	}
}

func TestAnotherBanRateCountsTheLastMinute(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: 10})
	floodOf(w, 0, 8)
	set := func(rate int) { w.e.SetRules(DefaultRules(), Options{BanRate: rate}) }
	set(9)
	floodOf(w, 10, 2)
	if len(w.bans) != 9 || w.held != 1 {
		t.Errorf("%d bans, %d held: eight were made before", len(w.bans), w.held)
	}
	set(12)
	floodOf(w, 20, 4)
	if len(w.bans) != 12 || w.held != 2 {
		t.Errorf("%d bans, %d held: nine were made before", len(w.bans), w.held)
	}
	set(2)
	w.pass(59 * time.Second)
	floodOf(w, 30, 1)
	if len(w.bans) != 12 {
		t.Errorf("%d bans: twelve were made within this minute", len(w.bans))
	}
	set(-1)
	floodOf(w, 40, 30)
	if len(w.bans) != 42 {
		t.Errorf("%d bans without a limit", len(w.bans))
	}
}
