package policy

import (
	"testing"
	"time"
)

// The clock was an hour ahead, and is put right in the middle of everything.
func TestAClockThatIsSetBackStopsNothing(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: 5, OutageMin: 1, OutageKnownFor: -1})
	w.pass(time.Hour)
	flood(w, 30)
	floodOf(w, 0, 8)
	w.attempt(AuthSuccess, office, "1000")
	w.attempt(AuthFailure, office, "1000")
	w.e.Forget(w.e.Prefix(guesser), w.now)
	if g := w.e.Guards(); !g[RateGuard].Active || !g[OutageGuard].Active || g[RateGuard].Held != 3 {
		t.Fatalf("%+v", g)
	}
	w.now = start
	w.pass(time.Second)
	if s := w.e.Stats(); s.Waiting != 30 || !w.e.Why(guesser).Excused {
		t.Errorf("stats %+v", s)
	}
	floodOf(w, 100, 2)
	if h := w.e.Guards()[RateGuard].Held; len(w.bans) != 5 || h != 5 {
		t.Errorf("%d bans, want 5; %d held, want 5", len(w.bans), h)
	}
	w.pass(3 * time.Minute)
	if g := w.e.Guards(); g[RateGuard].Active || g[OutageGuard].Active || len(w.bans) != 10 {
		t.Errorf("%+v, %d bans", g, len(w.bans))
	}
	flood(w, 60)
	w.pass(10 * time.Second)
	if !w.banned(stranger) {
		t.Error("challenges that nobody answers do not count any more")
	}
}

func TestAnAttemptFromTheFutureStopsNothing(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	w.e.Observe(Attempt{Addr: guesser, At: w.now.Add(100 * 365 * 24 * time.Hour), Kind: AuthFailure})
	w.pass(time.Second)
	flood(w, 60)
	w.pass(10 * time.Second)
	if !w.banned(stranger) {
		t.Error("not banned")
	}
}
