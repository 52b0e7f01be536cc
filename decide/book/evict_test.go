package book

import (
	"net/netip"
	"testing"
	"time"

	"fsban/ledger"
)

// counting is a firewall that counts the packets dropped of each ban.
type counting struct {
	kernel
	packets map[netip.Prefix]uint64
}

func (c counting) Packets() map[netip.Prefix]uint64 { return c.packets }

// A flood evicts at a small capacity: how often does it evict a guesser, who has a ban of a day and goes on?
type flood struct {
	ban     time.Duration // length of the forged bans
	rate    int           // bans a second
	seconds int
	counts  bool   // the firewall counts
	extra   uint64 // packets of each forged address after its ban
}

// run returns how often the guesser was evicted, and banned again after five more guesses.
func (f flood) run(t *testing.T) (evicted int) {
	r := newRig(t)
	r.capacity, r.limits.MaxBans = 2000, 10_000
	firewall := counting{r.kernel, make(map[netip.Prefix]uint64)}
	r.firewall = firewall
	guesser := netip.MustParsePrefix("203.0.113.7/32")
	offence := 0
	ban := func(p netip.Prefix, length time.Duration, offence int) {
		t.Helper()
		e := r.entry(p.String(), ByRule)
		e.Ban.Since, e.Ban.Until, e.Ban.Offence = r.now, r.now.Add(length), offence
		if err := r.Ban(e); err != nil {
			t.Fatal(err)
		}
	}
	for second := range f.seconds {
		if !r.inForce(guesser) {
			offence++
			ban(guesser, 24*time.Hour, offence)
			delete(firewall.packets, guesser)
		}
		if second > 0 && f.counts {
			firewall.packets[guesser] += 2
		}
		for i := range f.rate {
			n := second*f.rate + i
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18 + byte(n>>16), byte(n >> 8), byte(n)}), 32)
			ban(p, f.ban, 1)
			if f.counts && f.extra > 0 {
				firewall.packets[p] = f.extra
			}
		}
		r.now = r.now.Add(time.Second)
	}
	return offence - 1
}

// 2,000 forged bans of three days evicted the guesser's ban of a day in four seconds, and again each four seconds.
func TestAForgedFloodDoesNotEvictAGuesser(t *testing.T) {
	for name, c := range map[string]struct {
		flood
		most int
	}{
		"as described":                        {flood{72 * time.Hour, 500, 12, true, 0}, 0},
		"the rate that the guard allows":      {flood{72 * time.Hour, 2, 1800, true, 0}, 0},
		"a firewall that does not count":      {flood{72 * time.Hour, 500, 12, false, 0}, 1},
		"one more forged packet for each ban": {flood{72 * time.Hour, 500, 12, true, 1}, 0},
		"bans of a month":                     {flood{720 * time.Hour, 500, 12, true, 1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if n := c.run(t); n > c.most {
				t.Errorf("the guesser is evicted %d times, want %d at most", n, c.most)
			}
		})
	}
}

func TestTheOrderOfEvictions(t *testing.T) {
	now := time.Now()
	seen := netip.MustParsePrefix("198.51.100.9/32")
	before := weaker(map[netip.Prefix]uint64{seen: 3})
	ban := func(rule string, prefix string, offence int, left time.Duration) *ledger.Ban {
		b := ledger.Ban{Prefix: netip.MustParsePrefix(prefix), Rule: rule, Offence: offence}
		if left > 0 {
			b.Until = now.Add(left)
		}
		return &b
	}
	list := []*ledger.Ban{ // the first one goes first
		ban(RuleUnproven, "198.51.100.1/32", 1, time.Hour),
		ban(RuleUnproven, "198.51.100.9/32", 5, time.Hour),
		ban("auth", "198.51.100.2/32", 0, time.Hour),
		ban("auth", "198.51.100.3/32", 1, 2*time.Hour),
		ban("auth", "198.51.100.4/32", 1, 0),
		ban("auth", "198.51.100.5/32", 2, time.Minute),
		ban("auth", "198.51.100.9/32", 1, time.Second),
	}
	for i, x := range list {
		for j, y := range list {
			if before(x, y) != (i < j) {
				t.Errorf("%v of %s before %v of %s: %v", x.Prefix, x.Rule, y.Prefix, y.Rule, i >= j)
			}
		}
	}
}
