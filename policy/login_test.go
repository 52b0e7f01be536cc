package policy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestEvidenceOfAGuessedPassword(t *testing.T) {
	here := netip.MustParseAddr("198.51.100.9")
	neighbour := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(20 + i)}) }
	far := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, byte(i), 7}) }
	v6 := netip.MustParseAddr
	fails := func(w *world, n int, addr netip.Addr, user string) {
		for range n {
			w.attempt(AuthFailure, addr, user)
			w.pass(80 * time.Second)
		}
	}
	for name, tc := range map[string]struct {
		before func(w *world)
		at     netip.Addr
		want   string // empty: no report
	}{
		"no failures":                            {func(*world) {}, here, ""},
		"the owner mistypes twice":               {func(w *world) { fails(w, 2, here, "1001") }, here, ""},
		"the owner mistypes three times":         {func(w *world) { fails(w, 3, here, "1001") }, here, "own_failures 3 0 1"},
		"three strangers try once each":          {func(w *world) { each(w, 3, 1, far, "1001") }, here, ""},
		"thirty strangers try once each":         {func(w *world) { each(w, 30, 1, far, "1001") }, here, ""},
		"and the owner mistypes twice":           {func(w *world) { each(w, 10, 1, far, "1001"); fails(w, 2, here, "1001") }, here, ""},
		"ten strangers guess":                    {func(w *world) { each(w, 10, 4, far, "1001") }, here, ""},
		"one stranger guesses five times":        {func(w *world) { fails(w, 4, far(1), "1001"); fails(w, 1, far(1), "1001") }, here, ""},
		"one stranger guesses all hour":          {func(w *world) { fails(w, 8, far(1), "1001") }, here, "few_prefixes 0 0 1"},
		"two strangers guess":                    {func(w *world) { each(w, 2, 3, far, "1001") }, here, "few_prefixes 0 0 2"},
		"three strangers guess":                  {func(w *world) { each(w, 3, 3, far, "1001") }, here, "few_prefixes 0 0 3"},
		"they guess another user":                {func(w *world) { each(w, 3, 3, far, "1002") }, here, ""},
		"addresses of one network guess":         {func(w *world) { each(w, 4, 1, neighbour, "1001") }, here, "own_failures 4 0 4"},
		"the address guesses with patience":      {func(w *world) { fails(w, 12, here, "1001") }, here, "likely own_failures 12 0 1"},
		"a botnet guesses, and one gets in":      {func(w *world) { each(w, 30, 1, far, "1001") }, far(3), "likely distributed 1 0 30"},
		"a stranger has tried three other users": {func(w *world) { sprayed(w, here, 3) }, here, "likely spray 0 3 0"},
		"a stranger has tried two other users":   {func(w *world) { sprayed(w, here, 2) }, here, ""},
		"an IPv6 host that changes its network": {func(w *world) {
			each(w, 3, 1, func(i int) netip.Addr { return v6(fmt.Sprintf("2001:db8:0:%x::1", i)) }, "1001")
		}, v6("2001:db8:0:99::1"), "own_failures 3 0 3"},
		"IPv6 hosts of three sites": {func(w *world) {
			each(w, 3, 1, func(i int) netip.Addr { return v6(fmt.Sprintf("2001:db8:%x::1", i)) }, "1001")
		}, v6("2001:db8:99::1"), ""},
		"addresses of one network behind a NAT64": {func(w *world) {
			each(w, 3, 1, func(i int) netip.Addr { return v6(fmt.Sprintf("64:ff9b::c633:64%02x", i)) }, "1001")
		}, v6("64:ff9b::c633:6499"), "own_failures 3 0 3"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, NeverBan{}, Options{BanRate: -1})
			tc.before(w)
			d := w.attempt(AuthSuccess, tc.at, "1001")
			got := ""
			for _, l := range reported[SuspiciousLogin](w) {
				got = fmt.Sprintf("%v %d %d %d", l.Evidence, l.Failures, l.Users, l.Prefixes)
				if l.Likely {
					got = "likely " + got
				}
			}
			if got != tc.want || d.KnownGood != (got == "") {
				t.Errorf("reported %q, want %q; known-good %t", got, tc.want, d.KnownGood)
			}
		})
	}
}

// each has n addresses fail so many times each on a user, all within ten minutes.
func each(w *world, n, times int, addr func(int) netip.Addr, user string) {
	for range times {
		for i := range n {
			w.attempt(AuthFailure, addr(i), user)
		}
		w.pass(2 * time.Minute)
	}
}

// sprayed has addr fail once on each of n users, more slowly than any rule bans.
func sprayed(w *world, addr netip.Addr, n int) {
	for i := range n {
		w.attempt(AuthFailure, addr, fmt.Sprint(2000+i))
		w.pass(15 * time.Minute)
	}
}

func TestNoSuspiciousLoginsWhereTheyAreOff(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{SuspiciousAfter: -1})
	sprayed(w, stranger, 20)
	for range 4 {
		w.attempt(AuthFailure, stranger, "1001")
	}
	if d := w.attempt(AuthSuccess, stranger, "1001"); len(reported[SuspiciousLogin](w)) != 0 || !d.KnownGood {
		t.Errorf("%+v", d)
	}
}
