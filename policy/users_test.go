package policy

import (
	"fmt"
	"testing"
	"time"
)

func TestADistributedAttackIsReportedOnceEachEpisode(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	attack := func(n int) {
		for i := range n {
			w.attempt(AuthFailure, address(i), "1007")
		}
	}
	attack(19)
	if len(w.reports) != 0 {
		t.Fatalf("19 addresses: %+v", w.reports)
	}
	attack(30)
	w.pass(30 * time.Minute)
	attack(50)
	if got := reported[DistributedAttack](w); len(got) != 1 || got[0].Addresses != 20 || !got[0].Since.Equal(start) {
		t.Errorf("%+v", got)
	}
	w.pass(61 * time.Minute)
	attack(9) // fewer than half: that one is over
	attack(25)
	if got := reported[DistributedAttack](w); len(got) != 2 || !got[1].Since.Equal(w.now) {
		t.Errorf("%+v", got)
	}
}

func TestUsersAreBounded(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{MaxUsers: 100})
	for i := range 500 {
		w.attempt(AuthFailure, address(i), fmt.Sprint(i))
		if i%50 == 0 {
			w.attempt(AuthFailure, address(i), "1007") // the user under attack
		}
	}
	w.attempt(AuthFailure, stranger, "") // nobody
	if s := w.e.Stats(); s.Users != 100 || s.UsersForgotten != 401 {
		t.Errorf("stats %+v", s)
	}
	if u := w.e.users.get(w.e.account("1007", "pbx.example")); u == nil || len(u.failures.prefixes) != 10 {
		t.Errorf("the attacked user is forgotten: %+v", u)
	}
}

func TestTwoTenantsUsersOfOneNameAreTwo(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for range 4 {
		w.attempt(AuthFailure, stranger, "1000")
	}
	d := w.e.Observe(Attempt{Addr: stranger, At: w.now, Kind: AuthSuccess, User: "1000", Domain: "other.example"})
	if len(d.Reports) != 0 || !d.KnownGood {
		t.Errorf("%+v", d)
	}
}

func TestOldFailuresMakeNoLoginSuspicious(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for range 3 {
		w.attempt(AuthFailure, stranger, "1000")
	}
	w.pass(time.Hour)
	if d := w.attempt(AuthSuccess, stranger, "1000"); len(d.Reports) != 0 || !d.KnownGood {
		t.Errorf("%+v", d)
	}
}

func TestSuspiciousLoginsAreBounded(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: -1})
	for i := range 300 {
		for range 3 {
			w.attempt(AuthFailure, address(i<<8), fmt.Sprint(i))
		}
		w.attempt(AuthSuccess, address(i<<8), fmt.Sprint(i))
	}
	if got := w.e.SuspiciousLogins(); len(got) != maxLogins || got[maxLogins-1].User != "299" {
		t.Errorf("%d are remembered", len(got))
	}
}

func TestASecondUsersSuspiciousLoginStartsTheDayAgain(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	steal := func(user string) {
		for range 3 {
			w.attempt(AuthFailure, stranger, user)
		}
		w.attempt(AuthSuccess, stranger, user)
	}
	steal("1000")
	w.pass(23 * time.Hour)
	steal("1001")
	if n := len(w.e.SuspiciousLogins()); n != 2 {
		t.Errorf("%d suspicious logins", n)
	}
	w.pass(23 * time.Hour)
	if d := w.attempt(AuthSuccess, stranger, "1002"); d.KnownGood {
		t.Error("trusted")
	}
	w.pass(time.Hour)
	if d := w.attempt(AuthSuccess, stranger, "1002"); !d.KnownGood {
		t.Error("not trusted")
	}
}
