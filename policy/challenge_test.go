package policy

import (
	"testing"
	"time"
)

// flood sends n challenges of different users within a second.
func flood(w *world, n int) {
	for i := range n {
		w.attempt(Challenge, stranger, extension(i))
	}
}

func TestAChallengeCountsWhenNobodyAnswersIt(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	flood(w, 60)
	w.pass(4900 * time.Millisecond)
	if len(w.bans) > 0 || w.e.Why(stranger).Waiting != 60 {
		t.Fatalf("bans %+v, %d wait", w.bans, w.e.Why(stranger).Waiting)
	}
	w.pass(time.Second)
	if len(w.bans) != 1 || w.bans[0].Rule.Name != "challenge" || !w.bans[0].Since.Equal(start.Add(5*time.Second)) || len(w.bans[0].Evidence) != 60 {
		t.Errorf("bans %+v", w.bans)
	}
}

func TestCredentialsAnswerAChallenge(t *testing.T) {
	for name, tc := range map[string]struct {
		kind Kind
		user func(i int) string
	}{
		"right ones": {AuthSuccess, extension}, "wrong ones": {AuthFailure, extension},
		"of another user: the oldest": {AuthFailure, func(int) string { return "nobody" }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, NeverBan{}, Options{KnownFor: -1})
			w.e.SetRules(DefaultRules()[6:], Options{KnownFor: -1})
			flood(w, 60)
			w.attempt(tc.kind, stranger, tc.user(30))
			w.pass(time.Minute)
			if len(w.bans) > 0 {
				t.Errorf("bans %+v", w.bans)
			}
			flood(w, 60)
			w.pass(10 * time.Second)
			if len(w.bans) != 1 {
				t.Errorf("%d bans by as many that nobody answers", len(w.bans))
			}
		})
	}
}

func TestAnAnswerThatComesTooLateIsNone(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	flood(w, 59)
	w.pass(5100 * time.Millisecond)
	w.attempt(AuthFailure, stranger, "1000")
	w.attempt(Challenge, stranger, "1000")
	w.pass(6 * time.Second)
	if len(w.bans) != 1 {
		t.Errorf("bans %+v", w.bans)
	}
}

func TestAScannersChallengeCountsAtOnce(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for range 3 {
		w.attemptAs(Challenge, stranger, "100", "friendly-scanner")
	}
	if len(w.bans) != 1 || w.bans[0].Rule.Name != "scanner" {
		t.Errorf("bans %+v", w.bans)
	}
	if n := w.e.Why(stranger).Waiting; n != 0 {
		t.Errorf("%d challenges from before the ban still wait", n)
	}
}

func TestAKnownGoodAddressNeedNotAnswer(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	flood(w, 100)
	w.e.SetKnownGood(KnownGood{Prefix: w.e.Prefix(stranger), Since: start, Last: start})
	flood(w, 100)
	w.pass(10 * time.Second)
	if len(w.bans) > 0 || w.e.Stats().Tracked > 0 {
		t.Errorf("bans %+v", w.bans)
	}
}

func TestChallengesThatWaitAreBounded(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{MaxWaiting: 100})
	for i := range 300 {
		w.attempt(Challenge, address(i), "100")
	}
	if s := w.e.Stats(); s.Waiting != 100 || s.ChallengesForgotten != 200 {
		t.Errorf("stats %+v", s)
	}
	w.pass(6 * time.Second)
	if s := w.e.Stats(); s.Waiting != 0 || s.Tracked != 100 {
		t.Errorf("stats %+v", s)
	}
	w = newWorld(t, NeverBan{}, Options{})
	flood(w, 5000)
	if n := w.e.Why(stranger).Waiting; n != maxChain {
		t.Errorf("%d challenges of one address wait", n)
	}
}

func TestUnbanForgivesChallenges(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{Grace: -1})
	flood(w, 100)
	w.e.Forget(w.e.Prefix(stranger), w.now)
	flood(w, 20)
	w.e.Forget(never("", "198.51.0.0/16").Entries()[0].Prefix, w.now)
	w.pass(10 * time.Second)
	if len(w.bans) > 0 || w.e.Stats().Tracked > 0 {
		t.Errorf("bans %+v", w.bans)
	}
}
