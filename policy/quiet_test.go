package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A site has 4,000 homes of one phone and 200 offices of five. Every phone registers every two hours.
const (
	siteHomes, siteOffices, officePhones = 4000, 200, 5
	siteStep                             = 2 * time.Hour
)

// leap lets time pass in one step.
func (w *world) leap(d time.Duration) {
	if d <= 0 {
		return
	}
	w.now = w.now.Add(d)
	for _, d := range w.e.Advance(w.now) {
		w.collect(d)
	}
}

// siteMonth plays a site for some days: homes change their address at night, users mistype, phones have old passwords, the directory is
// down once, and scanners come every night. It returns the addresses that have been a customer's.
func siteMonth(w *world, r *rand.Rand, days int) map[netip.Addr]bool {
	next := siteOffices
	fresh := func() netip.Addr { next++; return address(next) }
	customers := make(map[netip.Addr]bool)
	homes := make([]netip.Addr, siteHomes)
	for i := range homes {
		homes[i] = fresh()
	}
	phones := func(kind Kind) {
		for i, home := range homes {
			customers[home] = true
			if r.IntN(200) == 0 { // its user mistypes once
				w.attempt(AuthFailure, home, fmt.Sprint("home", i))
			}
			w.attempt(kind, home, fmt.Sprint("home", i))
			if i%20 != 0 {
				continue
			}
			office := i / 20
			customers[address(office)] = true
			for phone := range officePhones {
				user := fmt.Sprintf("office%d-%d", office, phone)
				if phone == 4 && office%10 == 0 && r.IntN(10) > 0 { // an old password, for weeks
					w.attempt(AuthFailure, address(office), user)
					continue
				}
				w.attempt(kind, address(office), user)
			}
			w.leap(10 * time.Second)
		}
	}
	for day := range days {
		for hour := 0; hour < 24; hour += int(siteStep / time.Hour) {
			until := w.now.Add(siteStep)
			phones(AuthSuccess)
			if day == 1 && hour == 12 {
				phones(AuthFailure) // the directory is down for half an hour
			}
			if hour == 2 {
				for i := range homes {
					if r.IntN(5) == 0 {
						homes[i] = fresh()
					}
				}
				scan(w, fresh)
			}
			w.leap(until.Sub(w.now))
		}
	}
	return customers
}

// scan has fifty scanners try users, and two hundred more come at once.
func scan(w *world, fresh func() netip.Addr) {
	for range 50 {
		addr := fresh()
		for user := range 10 {
			w.attemptAs(AuthFailure, addr, extension(user), "friendly-scanner")
		}
		w.leap(10 * time.Second)
	}
	for range 200 {
		addr := fresh()
		for user := range 5 {
			w.attempt(AuthFailure, addr, extension(user))
		}
	}
}

// No customer of a site is banned, and the scanners are: in a week, and with -search in a month.
func TestASiteHasNoFalseBans(t *testing.T) {
	t.Parallel()
	days := 7
	switch {
	case testing.Short():
		days = 2
	case *search > 1:
		days = 30
	}
	for name, proof := range map[string]Proof{"without a tap": UnknownProof, "with a tap": NonceProof} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, NeverBan{}, Options{})
			w.proof = proof
			customers := siteMonth(w, rand.New(rand.NewPCG(1, 1)), days)
			wrong, scanners := 0, make(map[netip.Prefix]bool)
			for _, d := range w.bans {
				lifted := slices.ContainsFunc(w.lifted, func(l Decision) bool { return l.Prefix == d.Prefix })
				switch {
				case !customers[d.Prefix.Addr()]:
					scanners[d.Prefix] = true
				case !lifted:
					wrong++
				}
			}
			t.Logf("%d days: %d scanners banned, %d held bans, %d customers banned wrongly, %d lifted", days, len(scanners), w.held, wrong, len(w.lifted))
			if wrong > 0 {
				t.Errorf("%d customers are banned", wrong)
			}
			if want := days * 250; len(scanners) < want*9/10 {
				t.Errorf("%d scanners are banned, want about %d", len(scanners), want)
			}
		})
	}
}
