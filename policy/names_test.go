package policy

import (
	"fmt"
	"testing"
	"time"
)

// guess lets strangers fail on user 1000, each in the domain of its number.
func guess(w *world, addresses, each int, domain func(i int) string) {
	for round := range each {
		for i := range addresses {
			d := w.e.Observe(Attempt{Addr: address(i), At: w.now, Kind: AuthFailure, Method: Register, User: "1000", Domain: domain(i*each + round)})
			w.collect(d)
		}
		w.pass(time.Minute)
	}
}

// 2,000 guesses at one user from 500 addresses, each with another domain in To, and then the right password: nothing was reported, and the
// thief was known-good at once.
func TestAnotherDomainForEachGuessHidesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		addresses, each int
		domain          func(i int) string
		thief           int // number of its address
		success         string
	}{
		"as described":                  {500, 4, func(i int) string { return fmt.Sprintf("d%d.example", i) }, 7, "d9999.example"},
		"the success in the own domain": {500, 4, func(i int) string { return fmt.Sprintf("d%d.example", i) }, 7, "pbx.example"},
		"few domains":                   {500, 4, func(i int) string { return fmt.Sprintf("d%d.example", i/4%3) }, 7, "pbx.example"},
		"half without a domain":         {100, 4, func(i int) string { return []string{"", fmt.Sprintf("d%d.example", i)}[i%2] }, 7, "pbx.example"},
		"another address for the theft": {40, 4, func(i int) string { return fmt.Sprintf("d%d.example", i) }, 50, "pbx.example"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, NeverBan{}, Options{BanRate: -1})
			guess(w, c.addresses, c.each, c.domain)
			attacks := reported[DistributedAttack](w)
			if len(attacks) == 0 || attacks[0].User != "1000" || attacks[0].Addresses > 20 {
				t.Fatalf("attacks: %+v", attacks)
			}
			if list := w.e.DistributedAttacks(); len(list) == 0 || len(attacks) > 4 {
				t.Errorf("going on: %d of %d reported", len(list), len(attacks))
			}
			d := w.e.Observe(Attempt{Addr: address(c.thief), At: w.now, Kind: AuthSuccess, User: "1000", Domain: c.success})
			w.collect(d)
			logins := reported[SuspiciousLogin](w)
			if len(logins) != 1 || logins[0].Evidence > OwnFailures || d.KnownGood {
				t.Errorf("the theft: %+v, known-good %v", logins, d.KnownGood)
			}
		})
	}
}

// The phones of many tenants have the same numbers. Old passwords of phones in known-good offices are no attack on a number, nor are
// logins of such phones suspicious.
func TestPhonesOfManyTenantsWithOneNumberAreNoAttack(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	at := func(i int, k Kind, user string) Decision {
		d := w.e.Observe(Attempt{Addr: address(i), At: w.now, Kind: k, Method: Register, User: user, Domain: fmt.Sprintf("tenant%d.example", i)})
		w.collect(d)
		return d
	}
	for i := range 60 { // each office has two phones, one with an old password
		at(i, AuthSuccess, "101")
	}
	for range 30 {
		for i := range 60 {
			at(i, AuthFailure, "100")
			at(i, AuthSuccess, "101")
		}
		w.pass(2 * time.Minute)
	}
	if got := reported[DistributedAttack](w); len(got) != 0 {
		t.Errorf("attacks: %+v", got)
	}
	if d := at(3, AuthSuccess, "100"); !d.KnownGood || len(reported[SuspiciousLogin](w)) != 0 {
		t.Errorf("suspicious: %+v", reported[SuspiciousLogin](w))
	}
}

// An attack in one domain is reported for the user in it, and not again by name.
func TestAnAttackInOneDomainIsReportedOnce(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	guess(w, 30, 1, func(int) string { return "pbx.example" })
	guess(w, 30, 2, func(i int) string { return []string{"pbx.example", "other.example"}[i%2] })
	if got := reported[DistributedAttack](w); len(got) == 0 || got[0].Domain != "pbx.example" {
		t.Errorf("%+v", got)
	}
	for _, a := range reported[DistributedAttack](w) {
		if a.Domain == anyDomain {
			t.Errorf("again: %+v", a)
		}
	}
}

func TestNamesAreBounded(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{MaxUsers: 3200, BanRate: -1})
	for i := range 5000 {
		w.attempt(AuthFailure, address(i), fmt.Sprint(i))
		if i%50 == 0 {
			w.attempt(AuthFailure, address(i), "1007")
		}
	}
	if n := w.e.users.names.length; n != 100 {
		t.Errorf("%d names", n)
	}
	if u := w.e.users.names.get(w.e.nameOf("1007")); u == nil {
		t.Error("the attacked name is forgotten")
	}
}
