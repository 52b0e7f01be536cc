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
		if d := w.try(AuthFailure, addr, "1000"); d.Verdict == BanNow {
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
			most = least // the first ban is what the rule says
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
			if got := e.grown(keyOf(netip.PrefixFrom(stranger, 32)), d, n); got != d {
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
			if d := w.try(AuthFailure, stranger, "1000"); d.Verdict != Excused {
				t.Fatalf("in the grace: %+v", d)
			}
			w.pass(time.Second)
		}
		if d := w.try(AuthFailure, guesser, "1000"); d.Verdict != Counted {
			t.Errorf("somebody else: %v", d.Verdict)
		}
		w.pass(time.Second)
		for i := 1; i <= 5; i++ {
			if d := w.try(AuthFailure, stranger, "1000"); (d.Verdict == BanNow) != (i == 5) {
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
	if g := &w.e.graces; g.counted.length != maxGraces || len(g.others) != maxOthers {
		t.Errorf("%d and %d graces", g.counted.length, len(g.others))
	}
	w.pass(time.Minute)
	if g := &w.e.graces; g.counted.length != 0 || len(g.others) != 0 {
		t.Errorf("%d and %d graces are left", g.counted.length, len(g.others))
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
