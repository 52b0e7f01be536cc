package policy

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestAKnownGoodAddressIsForgottenAfterKnownFor(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	if d := w.attempt(AuthSuccess, office, "1000"); !d.KnownGood || !d.KnownGoodChanged {
		t.Errorf("the first success: %+v", d)
	}
	if d := w.attempt(AuthSuccess, office, "1001"); d.KnownGoodChanged {
		t.Error("the second success in a row is to be saved")
	}
	w.pass(time.Hour)
	if d := w.attempt(AuthSuccess, office, "1001"); !d.KnownGoodChanged {
		t.Error("the first success of the next hour is not to be saved")
	}
	w.now = w.now.Add(7*24*time.Hour - time.Second)
	if d := w.attempt(AuthFailure, office, "1000"); !d.KnownGood {
		t.Error("forgotten too early")
	}
	w.pass(time.Second)
	if d := w.attempt(AuthFailure, office, "1000"); d.KnownGood {
		t.Error("known-good for ever")
	}
	if _, ok := w.e.KnownGood(office); ok || w.e.Stats().Known != 0 || slices.Collect(w.e.AllKnownGood()) != nil {
		t.Error("still in the list")
	}
}

func TestFourUsersOfAnOfficeAreTooMany(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	w.attempt(AuthSuccess, office, "1000")
	for i := range 4 {
		for range 4 {
			w.attempt(AuthFailure, office, extension(i))
		}
	}
	if len(w.bans) != 1 || w.bans[0].Rule.Name != "enumeration" || w.bans[0].Count != 4 {
		t.Errorf("bans %+v", w.bans)
	}
}

func TestFailuresFromBeforeTheFirstSuccessCountMildly(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{SuspiciousAfter: -1})
	for range 4 {
		w.attempt(AuthFailure, office, "1000")
	}
	w.attempt(AuthSuccess, office, "1001")
	if d := w.attempt(AuthFailure, office, "1002"); d.Verdict != Counted || d.Count != 2 {
		t.Errorf("%v %d", d.Verdict, d.Count)
	}
}

func TestAScannerAtAnOfficeIsCountedInFull(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	w.attempt(AuthSuccess, office, "1000")
	for range 3 {
		w.attemptAs(AuthFailure, office, "1000", "friendly-scanner")
	}
	if len(w.bans) != 1 || w.bans[0].Rule.Name != "scanner" {
		t.Errorf("bans %+v", w.bans)
	}
}

func TestABannedOfficeCountsInFullUntilTheNextSuccess(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	w.attempt(AuthSuccess, office, "1000")
	for range 50 {
		w.attempt(AuthFailure, office, "1000")
	}
	if len(w.bans) != 1 || w.bans[0].Rule.Name != "office" || w.bans[0].Until.Sub(w.bans[0].Since) != 24*time.Hour {
		t.Fatalf("bans %+v", w.bans)
	}
	w.now = w.now.Add(25 * time.Hour)
	for range 5 {
		w.attempt(AuthFailure, office, "1000")
	}
	if len(w.bans) != 2 || w.bans[1].Rule.Name != "auth" || w.bans[1].Offence != 2 {
		t.Errorf("bans %+v", w.bans)
	}
}

func TestTheKnownAreBoundedSavedAndRestored(t *testing.T) {
	e := NewEngine(DefaultRules(), NeverBan{}, Options{MaxKnown: 3})
	v6 := netip.MustParseAddr("2001:db8::77")
	for i := range 5 { // the third and later ones are refused: those known longest stay
		if i == 2 {
			e.Observe(Attempt{Addr: v6, At: start.Add(time.Minute), Kind: AuthSuccess, User: "1000"})
		}
		e.Observe(Attempt{Addr: address(i), At: start.Add(time.Duration(i) * time.Second), Kind: AuthSuccess, User: "1000"})
	}
	saved := slices.Collect(e.AllKnownGood())
	if s := e.Stats(); s.Known != 3 || s.KnownForgotten != 3 || len(saved) != 3 || saved[0].Prefix.Addr() != address(0) || saved[2].Prefix != netip.MustParsePrefix("2001:db8::/64") {
		t.Fatalf("stats %+v, saved %+v", s, saved)
	}
	restored := NewEngine(DefaultRules(), NeverBan{}, Options{})
	for _, g := range saved {
		restored.SetKnownGood(g)
	}
	restored.SetKnownGood(KnownGood{Prefix: netip.PrefixFrom(stranger, 32), Suspected: start})
	restored.Advance(start.Add(time.Hour))
	if got := slices.Collect(restored.AllKnownGood())[:3]; !reflect.DeepEqual(got, saved) {
		t.Errorf("got %+v, want %+v", got, saved)
	}
	if g, ok := restored.KnownGood(v6); !ok || !g.Since.Equal(start.Add(time.Minute)) {
		t.Errorf("%+v", g)
	}
	if d := restored.Observe(Attempt{Addr: stranger, At: start.Add(2 * time.Hour), Kind: AuthSuccess, User: "1000"}); d.KnownGood {
		t.Error("a suspicious login is forgotten with the restart")
	}
}

func TestAKnownGoodIPv4AddressCountsAloneInAWiderPrefix(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{IPv4Prefix: 24})
	w.attempt(AuthSuccess, office, "1000")
	neighbour := netip.MustParseAddr("203.0.113.77")
	for range 4 {
		w.attempt(AuthFailure, office, "1000")
		if d := w.attempt(AuthFailure, neighbour, "1000"); d.Prefix != netip.MustParsePrefix("203.0.113.0/24") || d.Verdict != Counted {
			t.Errorf("the neighbour: %+v", d)
		}
	}
	if d := w.attempt(AuthFailure, office, "1000"); d.Prefix != netip.PrefixFrom(office, 32) || d.Verdict != Counted {
		t.Errorf("the office: %+v", d)
	}
}

func TestStuckPhonesAreBoundedAndForgotten(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{MaxStuck: 2, OfficeMaxRetry: 1000, OutageMin: -1})
	for i := range 4 {
		w.attempt(AuthSuccess, address(i), extension(i))
		for range 7 {
			w.attempt(AuthFailure, address(i), extension(i))
		}
	}
	if s := w.e.Stats(); s.Stuck != 2 || s.StuckForgotten != 2 || len(reported[StuckPhone](w)) != 4 {
		t.Errorf("stats %+v", s)
	}
	w.pass(time.Hour)
	if s := w.e.Stats(); s.Stuck != 0 || len(w.e.StuckPhones()) != 0 {
		t.Errorf("an hour later %+v", s)
	}
	for range 5 {
		w.attempt(AuthFailure, address(3), "1003")
	}
	late := Attempt{Addr: address(3), At: w.now.Add(-time.Minute), Kind: AuthFailure, User: "1003"}
	w.e.Observe(late)
	if got := w.e.StuckPhones(); len(got) != 1 || got[0].Count != 6 || !got[0].Last.Equal(w.now) {
		t.Errorf("after one that came late %+v", got)
	}
	if n := len(reported[StuckPhone](w)); n != 5 {
		t.Errorf("%d reports: a new episode is none", n)
	}
}
