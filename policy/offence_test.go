package policy

import (
	"net/netip"
	"testing"
	"time"
)

// offend has addr fail until it is banned, and waits until the ban is over.
func offend(w *world, addr netip.Addr) Decision {
	w.t.Helper()
	for range 5 {
		if d := w.attempt(AuthFailure, addr, "1000"); d.Verdict == BanNow {
			w.now = d.Until
			return d
		}
	}
	w.t.Fatal("not banned")
	return Decision{}
}

func TestEachOffenceDoublesTheBan(t *testing.T) {
	const day = 24 * time.Hour
	w := newWorld(t, NeverBan{}, Options{})
	for i, days := range []int{1, 2, 4, 8, 16, 30, 30, 30} {
		d := offend(w, stranger)
		least, most := time.Duration(days)*day, min(time.Duration(days)*day*11/10, 30*day)
		if i == 0 {
			most = least // the first ban has the rule's length
		}
		if length := d.Until.Sub(d.Since); length < least || length > most || d.Offence != i+1 {
			t.Errorf("offence %d (number %d) lasts %v, want %v to %v", i+1, d.Offence, length, least, most)
		}
	}
	w.now = w.now.Add(90*day - time.Second)
	if d := offend(w, stranger); d.Offence != 9 {
		t.Errorf("after 90 days less a second: number %d", d.Offence)
	}
	w.now = w.now.Add(90 * day)
	if d := offend(w, stranger); d.Offence != 1 || d.Until.Sub(d.Since) != day {
		t.Errorf("after 90 days: %+v", d)
	}
}

func TestTheSameSeedGivesTheSameBans(t *testing.T) {
	length := func(seed uint64, addr netip.Addr) time.Duration {
		w := newWorld(t, NeverBan{}, Options{Seed: seed})
		offend(w, addr)
		d := offend(w, addr)
		return d.Until.Sub(d.Since)
	}
	first := length(1, stranger)
	if again := length(1, stranger); again != first {
		t.Errorf("the jitter is not the same: %v and %v", first, again)
	}
	if first == length(2, stranger) || first == length(1, guesser) {
		t.Error("the jitter does not depend on seed and prefix")
	}
}

func TestABanLongerThanTheLimitStaysAsItIs(t *testing.T) {
	for _, d := range []time.Duration{60 * 24 * time.Hour, Forever} {
		rules := jail()
		rules[0].BanTime = d
		e := NewEngine(rules, NeverBan{}, Options{})
		for n := 1; n < 4; n++ {
			if got := e.escalate(keyOf(netip.PrefixFrom(stranger, 32)), d, n, e.opts.MaxBanTime); got != d {
				t.Errorf("offence %d of %v: %v", n, d, got)
			}
		}
	}
}

func TestWhoIsBannedWhileABanIsInForceHasNotOffendedAgain(t *testing.T) {
	e := NewEngine(jail(), NeverBan{}, Options{})
	bans := 0
	for i := range 15 {
		if d := e.Observe(failure(stranger, time.Duration(i)*time.Second)); d.Verdict == BanNow {
			if bans++; d.Offence != 1 || d.Until.Sub(d.Since) != 24*time.Hour {
				t.Errorf("%+v", d)
			}
		}
	}
	if bans != 3 {
		t.Errorf("%d bans", bans)
	}
}

func TestUnbanTakesTheNewestOffenceBack(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	offend(w, stranger)
	d := offend(w, stranger)
	w.now = d.Since.Add(time.Hour)
	if left, changed := w.e.Forget(d.Prefix, w.now); !changed || left.Count != 1 || left.Prefix != d.Prefix {
		t.Errorf("left %+v, changed %t", left, changed)
	}
	if left, changed := w.e.Forget(d.Prefix, w.now); changed || left.Count != 1 {
		t.Errorf("a second time: left %+v, changed %t", left, changed)
	}
	w.pass(2 * time.Minute)
	if again := offend(w, stranger); again.Offence != 2 {
		t.Errorf("number %d after the second was taken back", again.Offence)
	}
	if left, changed := w.e.Forget(d.Prefix, w.now); changed || left.Count != 2 {
		t.Errorf("when the ban is over: left %+v, changed %t", left, changed)
	}
	if left, changed := w.e.Forget(netip.MustParsePrefix("192.0.2.0/24"), w.now); changed || left.Count != 0 {
		t.Errorf("of somebody else: left %+v, changed %t", left, changed)
	}
}

func TestNothingCountsInTheGraceAfterAnUnban(t *testing.T) {
	for _, unban := range []string{"198.51.100.9/32", "198.51.100.0/24"} {
		w := newWorld(t, NeverBan{}, Options{})
		d := offend(w, stranger)
		w.now = d.Since.Add(time.Second)
		w.e.Forget(netip.MustParsePrefix(unban), w.now)
		if !w.e.Why(stranger).Excused {
			t.Error("why does not tell of the grace")
		}
		for range 59 {
			if d := w.attempt(AuthFailure, stranger, "1000"); d.Verdict != Excused {
				t.Fatalf("in the grace: %+v", d)
			}
			w.pass(time.Second)
		}
		if d := w.attempt(AuthFailure, guesser, "1000"); d.Verdict != Counted {
			t.Errorf("somebody else: %v", d.Verdict)
		}
		w.pass(time.Second)
		for i := 1; i <= 5; i++ {
			if d := w.attempt(AuthFailure, stranger, "1000"); (d.Verdict == BanNow) != (i == 5) {
				t.Errorf("attempt %d after the grace: %v", i, d.Verdict)
			}
		}
	}
}

func TestGracesAreBounded(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for i := range maxGraces + 10 {
		w.e.Forget(netip.PrefixFrom(address(i), 32), w.now)
	}
	for i := range 2 * maxOthers {
		w.e.Forget(netip.PrefixFrom(address(i<<8), 24), w.now)
	}
	if g := &w.e.graces; g.exact.length != maxGraces || len(g.others) != maxOthers {
		t.Errorf("%d and %d graces", g.exact.length, len(g.others))
	}
	w.pass(time.Minute)
	if g := &w.e.graces; g.exact.length != 0 || len(g.others) != 0 {
		t.Errorf("%d and %d graces are left", g.exact.length, len(g.others))
	}
}

func TestOffencesAreBoundedSavedAndRestored(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{MaxOffenders: 3, BanRate: -1})
	for i := range 5 {
		offend(w, address(i))
	}
	w.now = start
	var saved []Offence
	for i := range 5 {
		if o, ok := w.e.Offence(netip.PrefixFrom(address(i), 32)); ok {
			saved = append(saved, o)
		}
	}
	if s := w.e.Stats(); s.Offenders != 3 || s.OffendersForgotten != 2 || len(saved) != 3 || saved[0].Prefix.Addr() != address(2) || saved[0].Count != 1 {
		t.Fatalf("stats %+v, saved %+v", s, saved)
	}
	saved = append(saved, Offence{Prefix: netip.PrefixFrom(stranger, 32), Count: 2, Since: start})
	restored := newWorld(t, NeverBan{}, Options{})
	for _, o := range saved {
		restored.e.SetOffence(o)
	}
	for _, want := range saved {
		if got, ok := restored.e.Offence(want.Prefix); !ok || got.Count != want.Count || !got.Since.Equal(want.Since) || !got.Until.Equal(want.Until) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	restored.now = saved[0].Until
	if d := offend(restored, saved[0].Prefix.Addr()); d.Offence != 2 {
		t.Errorf("number %d", d.Offence)
	}
}

func TestAnOffenceIsForgottenAfterOffenceFor(t *testing.T) {
	const day = 24 * time.Hour
	w := newWorld(t, NeverBan{}, Options{Records: true})
	d := offend(w, stranger)
	w.e.Unsaved()
	w.now = d.Until.Add(90*day - 2*time.Second)
	w.pass(time.Second)
	if _, ok := w.e.Offence(d.Prefix); !ok || w.e.Stats().Offenders != 1 {
		t.Error("forgotten too early")
	}
	if _, changed := w.e.Unsaved(); len(changed) != 0 {
		t.Errorf("changed %+v", changed)
	}
	w.pass(time.Second)
	if _, ok := w.e.Offence(d.Prefix); ok || w.e.Stats().Offenders != 0 {
		t.Errorf("still in the list: %+v", w.e.Stats())
	}
	if _, changed := w.e.Unsaved(); len(changed) != 1 || changed[0].Prefix != d.Prefix || changed[0].Value != nil {
		t.Errorf("the record is not to be deleted from disk: %+v", changed)
	}
}

// A restart must not give attackers another minute's allowance of bans, nor hold one ban more than the rate says.
func TestBansFromBeforeARestartCountForTheBanRate(t *testing.T) {
	before := newWorld(t, NeverBan{}, Options{BanRate: 5})
	floodOf(before, 0, 4)
	if len(before.bans) != 4 {
		t.Fatalf("%d bans", len(before.bans))
	}
	restart := func(bans []Decision) *world {
		w := newWorld(t, NeverBan{}, Options{BanRate: 5})
		for _, d := range bans {
			o, ok := before.e.Offence(d.Prefix)
			if !ok {
				t.Fatalf("no record of %v", d.Prefix)
			}
			w.e.SetOffence(o)
		}
		w.now = before.now
		w.pass(time.Second)
		return w
	}
	w := restart(before.bans)
	if g := w.e.Guards()[RateGuard]; g.Current != 4 {
		t.Errorf("%d bans in the last minute, want 4", g.Current)
	}
	floodOf(w, 100, 2)
	if len(w.bans) != 1 || w.held != 1 {
		t.Errorf("%d bans and %d held, want one of each", len(w.bans), w.held)
	}
	t.Run("for one minute", func(t *testing.T) {
		w := restart(before.bans)
		w.pass(time.Minute)
		floodOf(w, 100, 6)
		if len(w.bans) != 5 || w.held != 1 {
			t.Errorf("%d bans and %d held, want 5 and 1", len(w.bans), w.held)
		}
	})
	t.Run("a record from another node does not", func(t *testing.T) {
		w := restart(nil)
		for _, d := range before.bans {
			o, _ := before.e.Offence(d.Prefix)
			w.e.SetOffence(o)
		}
		floodOf(w, 100, 6)
		if len(w.bans) != 5 || w.held != 1 {
			t.Errorf("%d bans and %d held, want 5 and 1", len(w.bans), w.held)
		}
	})
}
