package decide

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"fsban/decide/book"
	"fsban/ledger"
	"fsban/policy"
)

// seeing is a busiest with a simulated clock, at a whole minute.
type seeing struct {
	busiest
	now time.Time
}

func newSeeing() *seeing {
	return &seeing{newBusiest(), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

func (s *seeing) fail(addr, user string, times int) {
	prefix := netip.MustParsePrefix(addr)
	for range times {
		s.add(&policy.Attempt{Addr: prefix.Addr(), At: s.now, Kind: policy.AuthFailure, User: user, Domain: "pbx", UserAgent: "phone"}, prefix, s.now)
	}
}

// shown returns the busiest addresses and users with their counts.
func (s *seeing) shown() (addresses, users string) {
	for _, h := range s.addresses.busy(3, s.now) {
		addresses += fmt.Sprintf("%v %d/%d ", h.key, h.count(), h.others.n)
	}
	for _, h := range s.users.busy(3, s.now) {
		users += fmt.Sprintf("%s@%s %d/%d ", h.key.user, h.key.domain, h.count(), h.others.n)
	}
	return addresses, users
}

func TestAttemptsAreCountedForFiveMinutes(t *testing.T) {
	s := newSeeing()
	for _, step := range []struct {
		what             string
		do               func()
		addresses, users string
	}{
		{"nothing yet", func() {}, "", ""},
		{"two addresses", func() { s.fail("203.0.113.1/32", "1000", 3); s.fail("203.0.113.2/32", "1000", 5) }, "203.0.113.2/32 5/1 203.0.113.1/32 3/1 ", "1000@pbx 8/2 "},
		{"the first goes on", func() { s.fail("203.0.113.1/32", "1001", 4) }, "203.0.113.1/32 7/2 203.0.113.2/32 5/1 ", "1000@pbx 8/2 1001@pbx 4/1 "},
		{"without a user", func() { s.fail("2001:db8::/64", "", 6) }, "203.0.113.1/32 7/2 2001:db8::/64 6/0 203.0.113.2/32 5/1 ", "1000@pbx 8/2 1001@pbx 4/1 "},
		{"four minutes later it goes on", func() { s.now = s.now.Add(4 * time.Minute); s.fail("203.0.113.1/32", "1001", 1) }, "203.0.113.1/32 8/2 2001:db8::/64 6/0 203.0.113.2/32 5/1 ", "1000@pbx 8/2 1001@pbx 5/1 "},
		{"what is older is gone", func() { s.now = s.now.Add(time.Minute) }, "203.0.113.1/32 1/2 ", "1001@pbx 1/1 "},
		{"all is older", func() { s.now = s.now.Add(time.Hour) }, "", ""},
		{"it begins again from nothing", func() { s.fail("203.0.113.1/32", "1002", 1) }, "203.0.113.1/32 1/1 ", "1002@pbx 1/1 "},
		{"a log that is read back", func() {
			s.add(&policy.Attempt{At: s.now.Add(-5 * time.Minute), User: "1002"}, netip.MustParsePrefix("203.0.113.1/32"), s.now)
		}, "203.0.113.1/32 1/1 ", "1002@pbx 1/1 "},
		{"a clock that is set back", func() { s.now = s.now.Add(-time.Hour); s.fail("203.0.113.1/32", "1002", 1) }, "203.0.113.1/32 2/1 ", "1002@pbx 2/1 "},
	} {
		step.do()
		if addresses, users := s.shown(); addresses != step.addresses || users != step.users {
			t.Errorf("%s:\naddresses %q, want %q\nusers     %q, want %q", step.what, addresses, step.addresses, users, step.users)
		}
	}
}

// A busy attacker is shown in a crowd of addresses with one attempt each, and the crowd costs no memory.
func TestACrowdDoesNotEvictABusyAddress(t *testing.T) {
	s := newSeeing()
	const crowd = 100_000
	for i := range crowd {
		addr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		s.add(&policy.Attempt{At: s.now, User: fmt.Sprint("u", i)}, addr, s.now)
		if i%100 == 0 {
			s.fail("203.0.113.1/32", "1000", 1)
		}
	}
	addresses := s.addresses.busy(1, s.now)
	if len(addresses) != 1 || addresses[0].key.String() != "203.0.113.1/32" || addresses[0].count() != crowd/100 {
		t.Errorf("busiest: %v, %d attempts", addresses[0].key, addresses[0].count())
	}
	if users := s.users.busy(1, s.now); len(users) != 1 || users[0].key.user != "1000" || users[0].others.n != 1 {
		t.Errorf("most tried: %+v", users)
	}
	if n, m := len(s.addresses.all), len(s.addresses.index); n != maxBusiest || m != maxBusiest {
		t.Errorf("%d places, %d in the index", n, m)
	}
}

// A phone that logs in from a banned address, while fsban watches or over an established flow, is no attacker.
func TestLoginsOfABannedAddressAreNoAttempts(t *testing.T) {
	now := time.Now()
	disk := openLedger(t, filepath.Join(t.TempDir(), "fsban.db"), now)
	t.Cleanup(func() { _ = disk.Close() })
	l := newLoop(disk, now)
	p := netip.MustParsePrefix("203.0.113.66/32")
	if err := l.book.Ban(book.Entry{Ban: ledger.Ban{Prefix: p, Since: now, Rule: book.RuleOperator}, Origin: book.ByOperator}); err != nil {
		t.Fatal(err)
	}
	l.SetAlive(policy.Event, true)
	for _, kind := range []policy.Kind{policy.AuthSuccess, policy.AuthFailure, policy.AuthSuccess} {
		l.decide(&queued{Attempt: policy.Attempt{Addr: p.Addr(), At: now, Kind: kind, User: "1000"}, read: now})
	}
	if list := l.busiest.addresses.busy(2, now); len(list) != 1 || list[0].key != p || list[0].count() != 1 {
		t.Errorf("busiest: %+v", list)
	}
}

func TestAKnownAddressCostsNoAllocation(t *testing.T) {
	s := newSeeing()
	s.fail("203.0.113.1/32", "1000", 1)
	a, prefix := policy.Attempt{At: s.now, User: "1000", Domain: "pbx"}, netip.MustParsePrefix("203.0.113.1/32")
	if n := testing.AllocsPerRun(1000, func() { s.add(&a, prefix, s.now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkBusiest compares the cost of counting an attempt here with the cost of its decision.
func BenchmarkBusiest(b *testing.B) {
	now := time.Now()
	at := func(i, of int) (policy.Attempt, netip.Prefix) {
		i %= of
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		return policy.Attempt{Addr: addr, At: now, Kind: policy.AuthFailure, User: "1000", Domain: "pbx", UserAgent: "phone"}, netip.PrefixFrom(addr, 32)
	}
	for _, of := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("see_of_%d", of), func(b *testing.B) {
			s := newBusiest()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				a, p := at(i, of)
				s.add(&a, p, now)
			}
		})
		b.Run(fmt.Sprintf("decide_of_%d", of), func(b *testing.B) {
			e := policy.NewEngine(policy.DefaultRules(), policy.NeverBan{}, policy.Options{BanRate: -1})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				a, _ := at(i, of)
				a.At = now.Add(time.Duration(i) * time.Second) // seldom enough not to be banned
				e.Observe(a)
			}
		})
	}
}

// A flood of forged addresses with several packets each does not evict a guesser, who comes later.
func TestAFloodDoesNotEvictAGuesserFromTheBusiest(t *testing.T) {
	s := newSeeing()
	next := 0
	for range 60 {
		for range 1000 {
			forgedOne(s, &next)
		}
		s.now = s.now.Add(time.Second)
	}
	for range 120 {
		for range 10 {
			s.fail("203.0.113.1/32", "1000", 1)
			for range 100 {
				forgedOne(s, &next)
			}
		}
		s.now = s.now.Add(time.Second)
	}
	if busy := s.addresses.busy(1, s.now); len(busy) != 1 || busy[0].key.String() != "203.0.113.1/32" || busy[0].count() != 1200 {
		t.Errorf("%v has %d attempts", busy[0].key, busy[0].count())
	}
}

// forgedOne counts three attempts of a new address.
func forgedOne(s *seeing, next *int) {
	*next++
	prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(*next >> 16), byte(*next >> 8), byte(*next)}), 32)
	for range 3 {
		s.add(&policy.Attempt{At: s.now, Kind: policy.AuthFailure, User: "100"}, prefix, s.now)
	}
}
