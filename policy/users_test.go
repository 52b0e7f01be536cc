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
			w.try(AuthFailure, address(i), "1007")
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
		w.try(AuthFailure, address(i), fmt.Sprint(i))
		if i%50 == 0 {
			w.try(AuthFailure, address(i), "1007") // the one who is really attacked
		}
	}
	w.try(AuthFailure, stranger, "") // nobody
	if s := w.e.Stats(); s.Users != 100 || s.UsersForgotten != 401 {
		t.Errorf("stats %+v", s)
	}
	if n := w.e.failuresOf(w.e.account("1007", "pbx.example"), w.now.UnixMilli()); n != 3 {
		t.Errorf("%d failures of the attacked user are remembered, want 3", n)
	}
}

func TestTwoTenantsUsersOfOneNameAreTwo(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for range 4 {
		w.try(AuthFailure, stranger, "1000")
	}
	d := w.e.Observe(Attempt{Addr: guesser, At: w.now, Kind: AuthSuccess, User: "1000", Domain: "other.example"})
	if len(d.Reports) != 0 || !d.KnownGood {
		t.Errorf("%+v", d)
	}
}

func TestOldFailuresMakeNoLoginSuspicious(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for range 3 {
		w.try(AuthFailure, stranger, "1000")
	}
	w.pass(time.Hour)
	if d := w.try(AuthSuccess, guesser, "1000"); len(d.Reports) != 0 || !d.KnownGood {
		t.Errorf("%+v", d)
	}
}

func TestSuspiciousLoginsAreBounded(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: -1})
	for i := range 300 {
		for range 3 {
			w.try(AuthFailure, stranger, fmt.Sprint(i))
		}
		w.try(AuthSuccess, address(i), fmt.Sprint(i))
	}
	if got := w.e.Suspicious(); len(got) != maxLogins || got[maxLogins-1].User != "299" {
		t.Errorf("%d are remembered", len(got))
	}
}

func TestASecondUsersSuspiciousLoginStartsTheDayAgain(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	steal := func(user string) {
		for i := range 3 {
			w.try(AuthFailure, address(i), user)
		}
		w.try(AuthSuccess, stranger, user)
	}
	steal("1000")
	w.pass(23 * time.Hour)
	steal("1001")
	if n := len(w.e.Suspicious()); n != 2 {
		t.Errorf("%d suspicious logins", n)
	}
	w.pass(23 * time.Hour)
	if d := w.try(AuthSuccess, stranger, "1002"); d.KnownGood {
		t.Error("trusted")
	}
	w.pass(time.Hour)
	if d := w.try(AuthSuccess, stranger, "1002"); !d.KnownGood {
		t.Error("not trusted")
	}
}
