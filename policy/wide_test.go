package policy

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// in6 returns address host of network n of 2001:db8:7::/48.
func in6(n uint16, host uint64) netip.Addr {
	b := [16]byte{0x20, 1, 0x0d, 0xb8, 0, 7}
	binary.BigEndian.PutUint16(b[6:], n)
	binary.BigEndian.PutUint64(b[8:], host)
	return netip.AddrFrom16(b)
}

// walk guesses at a rate from the addresses given, none of which reach FreeSWITCH once banned, and returns the number of guesses.
func walk(w *world, rate, guesses int, at func(i int) netip.Addr) (passed int) {
	for i := range guesses {
		if a := at(i); !w.banned(a) {
			w.attempt(AuthFailure, a, "1000")
			passed++
		}
		if i%rate == rate-1 {
			w.pass(time.Second)
		}
	}
	return passed
}

// A walk through a /48 at 100 guesses a second made 360,000 guesses in an hour without a ban; through a /56, 3,295.
func TestAWalkThroughIPv6NetworksIsBanned(t *testing.T) {
	for name, c := range map[string]struct {
		rate, guesses int
		at            func(i int) netip.Addr
		most          int
		before        int // guesses without wider prefixes
	}{
		"a /48, in order":               {100, 60_000, func(i int) netip.Addr { return in6(uint16(i), 1) }, 350, 0},
		"a /48, at random":              {100, 60_000, func(i int) netip.Addr { return in6(uint16(i*40503), uint64(i)) }, 400, 0},
		"a /56":                         {100, 60_000, func(i int) netip.Addr { return in6(uint16(i&255), 1) }, 150, 0},
		"a /56, slowly":                 {1, 2_000, func(i int) netip.Addr { return in6(uint16(i*7&255), 1) }, 60, 0},
		"a /62: four networks in turns": {1, 2_000, func(i int) netip.Addr { return in6(uint16(i&3), uint64(i)) }, 60, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, NeverBan{}, Options{})
			got := walk(w, c.rate, c.guesses, c.at)
			off := newWorld(t, NeverBan{}, Options{IPv6Widest: 64})
			before := walk(off, c.rate, c.guesses, c.at)
			t.Logf("%d guesses of %d, %d without wider prefixes", got, c.guesses, before)
			if got > c.most || before < got {
				t.Errorf("%d guesses, want %d at most", got, c.most)
			}
		})
	}
}

// A network with an address that is never banned counts as one: a walk through it made 360,000 guesses in an hour without a ban.
func TestANetworkWithANeverBannedAddressIsBannedWithoutIt(t *testing.T) {
	own, neighbour := in6(9, 0x1234), in6(9, 0x1235)
	for name, never := range map[string][]netip.Prefix{
		"an address":         {netip.PrefixFrom(own, 128)},
		"two of them":        {netip.PrefixFrom(own, 128), netip.PrefixFrom(in6(9, 1<<63), 128)},
		"and a wide network": {netip.PrefixFrom(own, 128), netip.MustParsePrefix("2001:db8:7:9:8000::/66")},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, NewNeverBan(NeverEntries("ignoreip", never...)), Options{})
			got := walk(w, 100, 60_000, func(i int) netip.Addr { return in6(9, 1<<40+uint64(i)) })
			t.Logf("%d guesses of 60000, %d bans", got, len(w.bans))
			if got > 130 {
				t.Errorf("%d guesses", got)
			}
			for _, d := range w.bans {
				for _, p := range never {
					if d.Prefix.Overlaps(p) {
						t.Errorf("%v is banned, and holds a part of %v", d.Prefix, p)
					}
				}
			}
			if w.banned(own) || !w.banned(neighbour) {
				t.Errorf("own address banned: %v, its neighbour: %v", w.banned(own), w.banned(neighbour))
			}
		})
	}
}

// Known-good networks in a wider prefix stay reachable; a prefix with many of them is not banned.
func TestNoWiderBanHoldsAKnownGoodNetwork(t *testing.T) {
	for customers, want := range map[int]bool{0: true, 1: true, 3: true, 40: false} {
		w := newWorld(t, NeverBan{}, Options{})
		for i := range customers {
			w.attempt(AuthSuccess, in6(uint16(0x100*i+0x80), 5), "1001")
		}
		walk(w, 100, 5_000, func(i int) netip.Addr { return in6(uint16(i*40503|1), 1) })
		if got := w.banned(in6(0xff01, 1)); got != want {
			t.Errorf("%d customers: banned %v, want %v", customers, got, want)
		}
		for i := range customers {
			if w.banned(in6(uint16(0x100*i+0x80), 9)) {
				t.Errorf("%d customers: one is banned", customers)
			}
		}
	}
}

// Few failures from many networks, as of phones with old passwords, are no reason, nor is one network alone, nor forged failures that a tap
// sees; and IPv4 is as before.
func TestLittleEvidenceBansNothingWider(t *testing.T) {
	for name, attack := range map[string]func(w *world){
		"twelve networks, once each": func(w *world) { walk(w, 1, 12, func(i int) netip.Addr { return in6(uint16(i), 1) }) },
		"one network":                func(w *world) { walk(w, 1, 500, func(i int) netip.Addr { return in6(3, uint64(i)) }) },
		"a failure an hour": func(w *world) {
			for i := range 48 {
				w.attempt(AuthFailure, in6(uint16(i), 1), "1000")
				w.pass(time.Hour)
			}
		},
		"forged ones": func(w *world) {
			for i := range 5_000 {
				d := w.e.Observe(Attempt{Addr: in6(uint16(i), 1), At: w.now, Kind: AuthFailure, User: "1000", Proof: NoProof})
				w.collect(d)
			}
			w.pass(time.Second)
		},
		"IPv4": func(w *world) { walk(w, 10, 1_000, address) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, NeverBan{}, Options{})
			attack(w)
			for _, d := range w.bans {
				if d.Prefix.Addr().Is6() && d.Prefix.Bits() < 64 || d.Prefix.Addr().Is4() && d.Prefix.Bits() < 32 {
					t.Errorf("%v is banned", d.Prefix)
				}
			}
		})
	}
}

// FuzzSubtract: the pieces are exactly p without the holes.
func FuzzSubtract(f *testing.F) {
	f.Add(uint8(48), uint64(0x20010db800070000), uint64(5), uint8(128), uint64(9))
	f.Fuzz(func(t *testing.T, length uint8, network, hole uint64, holeLength uint8, probe uint64) {
		make6 := func(low uint64) netip.Addr {
			var b [16]byte
			binary.BigEndian.PutUint64(b[:], network)
			binary.BigEndian.PutUint64(b[8:], low)
			return netip.AddrFrom16(b)
		}
		p, err := make6(0).Prefix(int(length) % 129)
		h, holeErr := make6(hole).Prefix(int(holeLength) % 129)
		if err != nil || holeErr != nil {
			return
		}
		pieces := subtract(nil, p, []netip.Prefix{h})
		holds := 0
		for i, q := range pieces {
			if !p.Overlaps(q) || q.Bits() < p.Bits() || q.Overlaps(h) || q != q.Masked() || i > 0 && pieces[i-1].Overlaps(q) {
				t.Errorf("%v without %v has %v", p, h, q)
			}
			if q.Contains(make6(probe)) {
				holds++
			}
		}
		want := 0
		if p.Contains(make6(probe)) && !h.Contains(make6(probe)) {
			want = 1
		}
		if holds != want && len(pieces) > 0 {
			t.Errorf("%v without %v: %d pieces hold %v, want %d", p, h, holds, make6(probe), want)
		}
	})
}
