package policy

import (
	"testing"
	"time"
)

// One account and forged packets make 60 invented addresses known-good. When these fail together, bans of known-good addresses were
// held, and the insider made 209,999 guesses at one user within six hours, without a report.
func TestAnInsiderDoesNotShieldHimselfWithAnOutage(t *testing.T) {
	for name, c := range map[string]struct {
		accounts int           // that make the addresses known-good
		pause    time.Duration // between two guesses
		most     int           // guesses until the insider is banned; 0: he is never, at this pace
	}{
		"one account":                     {1, 100 * time.Millisecond, 50},
		"accounts enough for an outage":   {60, 100 * time.Millisecond, 50},
		"the same, as fast as allowed":    {60, 6500 * time.Millisecond, 0},
		"the same, at five users in turn": {60, 100 * time.Millisecond, 250},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, NeverBan{}, Options{})
			for i := range 60 {
				w.attempt(AuthSuccess, address(i), extension(i%c.accounts))
			}
			w.attempt(AuthSuccess, office, "victim")
			w.pass(time.Hour)
			users := 1
			if c.most > 50 {
				users = 5
			}
			guesses := 0
			for at := w.now.Add(6 * time.Hour); w.now.Before(at) && !w.banned(office); guesses++ {
				if guesses%int(110*time.Second/c.pause) == 0 { // 60 failures in 110 seconds: 0.54 packets a second
					for i := range 60 {
						w.attempt(AuthFailure, address(i), extension(i%c.accounts))
					}
				}
				w.attempt(AuthFailure, office, extension(1000+guesses%users))
				w.pass(c.pause)
			}
			stuck := reported[StuckPhone](w)
			t.Logf("outage: %t; %d guesses in %v, banned: %t, reported: %d stuck phones", w.e.Guards()[OutageGuard].Active, guesses,
				w.now.Sub(start)-time.Hour, w.banned(office), len(stuck))
			if c.most > 0 && (!w.banned(office) || guesses > c.most) {
				t.Errorf("%d guesses, banned: %t; want %d at most", guesses, w.banned(office), c.most)
			}
			if len(stuck) == 0 && c.accounts > 1 {
				t.Error("nothing is reported")
			}
			if active := w.e.Guards()[OutageGuard].Active; active != (c.accounts > 1) {
				t.Errorf("outage: %t", active)
			}
		})
	}
}

// A distributed attack by strangers is reported during an outage, too.
func TestAnOutageSilencesNoReport(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for i := range 60 {
		w.attempt(AuthSuccess, address(i), extension(i))
	}
	w.pass(time.Hour)
	for i := range 60 {
		w.attempt(AuthFailure, address(i), extension(i))
	}
	if !w.e.Guards()[OutageGuard].Active {
		t.Fatal("no outage")
	}
	for i := range 30 {
		w.attempt(AuthFailure, address(1000+i), "victim")
	}
	if attacks := reported[DistributedAttack](w); len(attacks) != 1 || attacks[0].User != "victim" {
		t.Errorf("reported %+v", attacks)
	}
}

// One account logs in from 100,000 forged addresses within 33 minutes. Before, the 2,000 real offices were forgotten.
func TestOneAccountCannotFillTheKnownGoodTable(t *testing.T) {
	for name, c := range map[string]struct {
		accounts int
		most     int // known-good addresses of the attacker
	}{
		"one account":    {1, 100},
		"500 accounts":   {500, 50_000},
		"2,000 accounts": {2000, 98_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, NeverBan{}, Options{})
			for i := range 2000 {
				w.attempt(AuthSuccess, address(i), extension(i))
			}
			for i := range 200_000 {
				w.attempt(AuthSuccess, address(10_000+i), extension(100_000+i%c.accounts))
				if i%100 == 99 {
					w.pass(time.Second)
				}
			}
			kept := 0
			for i := range 2000 {
				if g, ok := w.e.KnownGood(address(i)); ok && !g.Since.IsZero() {
					kept++
				}
			}
			s := w.e.Stats()
			t.Logf("%d of 2000 offices and %d other addresses are known-good, %d were refused", kept, s.Known-kept, s.KnownForgotten)
			if kept != 2000 || s.Known-kept > c.most || s.KnownForgotten == 0 {
				t.Errorf("%d offices, %d others, %d refused", kept, s.Known-kept, s.KnownForgotten)
			}
		})
	}
}

// The account of a known-good address survives a restart.
func TestTheAccountOfAKnownGoodAddressIsRestored(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{Records: true})
	for i := range 60 {
		w.attempt(AuthSuccess, address(i), "1000")
	}
	next := newWorld(t, NeverBan{}, Options{})
	for g := range w.e.AllKnownGood() {
		next.e.SetKnownGood(g)
	}
	next.now = w.now.Add(time.Hour)
	next.pass(time.Second)
	for i := range 60 {
		next.attempt(AuthFailure, address(i), extension(i))
	}
	if g := next.e.Guards()[OutageGuard]; g.Active || g.Current != 1 {
		t.Errorf("%+v", g)
	}
}
