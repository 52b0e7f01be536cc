package policy

import (
	"testing"
	"time"
)

// A scanner's name cuts off no customers. Each of 6,000 known-good offices gets three forged packets, 5 a second in all: before, all 6,000
// were banned for 72 hours within an hour.
func TestForgedPacketsDoNotCutOffManyOffices(t *testing.T) {
	const offices = 6000
	for name, c := range map[string]struct {
		kind  Kind
		times int // packets for each office
		most  int // bans within the hour
	}{
		"a name alone":                                   {Challenge, 3, 0},
		"a name and a forged failure":                    {AuthFailure, 3, 130},
		"a name and forged failures that go on":          {AuthFailure, 6, 260},
		"a name and forged failures, five times as many": {AuthFailure, 15, 260},
		"refused calls":                                  {CallReject, 5, 130},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, NeverBan{}, Options{OutageMin: -1}) // the outage guard would hold them, too
			for i := range offices {
				w.attempt(AuthSuccess, address(i), extension(i))
			}
			for i := range offices {
				for range c.times {
					w.attemptAs(c.kind, address(i), "100", "friendly-scanner")
				}
				w.pass(time.Hour / offices)
			}
			made := len(w.bans)
			w.pass(time.Hour)
			t.Logf("%d of %d offices are banned within the hour, %d held; %d banned an hour later", made, offices, w.held, len(w.bans))
			if made > c.most {
				t.Errorf("%d bans, want %d at most", made, c.most)
			}
			if s := w.e.Stats(); int(s.KnownBans) != len(w.bans) {
				t.Errorf("%d bans of known-good addresses are counted, %d were made", s.KnownBans, len(w.bans))
			}
			if g := w.e.Guards()[KnownGoodGuard]; c.most > 0 && (made == 0 || g.Limit != 10) {
				t.Errorf("%d bans, guard %+v", made, g)
			}
		})
	}
}

// A misused office goes on, so its ban is made although many forged ones were held before.
func TestAMisusedOfficeIsBannedBehindForgedBans(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{OutageMin: -1})
	for i := range 300 {
		w.attempt(AuthSuccess, address(i), extension(i))
	}
	w.attempt(AuthSuccess, office, "1000")
	for i := range 300 {
		for user := range 4 {
			w.attempt(AuthFailure, address(i), extension(1000+user))
		}
	}
	guesses := 0
	for ; !w.banned(office) && guesses < 100; guesses++ {
		w.attempt(AuthFailure, office, extension(guesses%20))
		w.pass(time.Second)
	}
	t.Logf("banned after %d guesses at 20 users", guesses)
	if !w.banned(office) || guesses > 10 {
		t.Errorf("%d guesses, banned: %t", guesses, w.banned(office))
	}
	w.pass(30 * time.Minute)
	if len(w.bans) != 11 || len(w.e.Held()) != 0 {
		t.Errorf("%d bans were made, and %d are held: those that do not go on are dropped", len(w.bans), len(w.e.Held()))
	}
}
