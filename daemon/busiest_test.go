package daemon

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"fsban/internal/fakeswitch"
	"fsban/policy"
)

// seeing is a busiest with a clock of the test's own, on a whole minute.
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
		s.see(&policy.Attempt{Addr: prefix.Addr(), At: s.now, Kind: policy.AuthFailure, User: user, Domain: "pbx", UserAgent: "phone"}, prefix, s.now)
	}
}

// shown says who is busiest, and how often.
func (s *seeing) shown() (addresses, users string) {
	for _, h := range s.addresses.busy(3, s.now) {
		addresses += fmt.Sprintf("%v %d/%d ", h.key, h.count(), h.others.n)
	}
	for _, h := range s.users.busy(3, s.now) {
		users += fmt.Sprintf("%s@%s %d/%d ", h.key.user, h.key.domain, h.count(), h.others.n)
	}
	return addresses, users
}

func TestWhoTriesMostIsShownForFiveMinutes(t *testing.T) {
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
			s.see(&policy.Attempt{At: s.now.Add(-5 * time.Minute), User: "1002"}, netip.MustParsePrefix("203.0.113.1/32"), s.now)
		}, "203.0.113.1/32 1/1 ", "1002@pbx 1/1 "},
		{"a clock that is set back", func() { s.now = s.now.Add(-time.Hour); s.fail("203.0.113.1/32", "1002", 1) }, "203.0.113.1/32 2/1 ", "1002@pbx 2/1 "},
	} {
		step.do()
		if addresses, users := s.shown(); addresses != step.addresses || users != step.users {
			t.Errorf("%s:\naddresses %q, want %q\nusers     %q, want %q", step.what, addresses, step.addresses, users, step.users)
		}
	}
}

// An attacker is shown who is one in a crowd of addresses that come once each, and the crowd costs no memory.
func TestACrowdHidesNobodyWhoTriesOften(t *testing.T) {
	s := newSeeing()
	const crowd = 100_000
	for i := range crowd {
		addr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		s.see(&policy.Attempt{At: s.now, User: fmt.Sprint("u", i)}, addr, s.now)
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

func TestAKnownAddressCostsNoAllocation(t *testing.T) {
	s := newSeeing()
	s.fail("203.0.113.1/32", "1000", 1)
	a, prefix := policy.Attempt{At: s.now, User: "1000", Domain: "pbx"}, netip.MustParsePrefix("203.0.113.1/32")
	if n := testing.AllocsPerRun(1000, func() { s.see(&a, prefix, s.now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTopShowsAnAttackAsItHappens(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	r.fail("203.0.113.1", 5)
	r.fail("203.0.113.2", 2)
	r.settled()
	top, err := r.client.Top(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(top.Addresses) != 2 || len(top.Users) != 1 || len(top.NewBans) != 1 || len(top.Sources) == 0 || len(top.Speakers) != int(policy.NumKinds) || !top.Ready {
		t.Fatalf("top: %+v", top)
	}
	first, second := top.Addresses[0], top.Addresses[1]
	if first.Prefix.String() != "203.0.113.1/32" || first.Attempts != 5 || first.Users != 1 || first.LastUser != "1000" || !first.Banned || first.Known || first.Last.IsZero() {
		t.Errorf("the busiest: %+v", first)
	}
	if second.Attempts != 2 || second.Banned {
		t.Errorf("the second: %+v", second)
	}
	if u := top.Users[0]; u.User != "1000" || u.Attempts != 7 || u.Addresses != 2 {
		t.Errorf("the user: %+v", u)
	}
	if b := top.NewBans[0]; b.Prefix.String() != "203.0.113.1/32" || b.Rule != "auth" || b.Evidence != nil {
		t.Errorf("the new ban: %+v", b)
	}
	if top.Attempts["auth_failure"] != 7 || top.Bans.Made != 1 || top.Bans.IPv4 != 1 {
		t.Errorf("totals: %v, %+v", top.Attempts, top.Bans)
	}
	if top, err := r.client.Top(t.Context(), 1); err != nil || len(top.Addresses) != 1 {
		t.Errorf("one line of it: %+v, %v", top.Addresses, err)
	}
	if _, err := r.client.Top(t.Context(), 101); err == nil || err.Error() != "request: n is 1 to 100" {
		t.Errorf("too many lines of it: %v", err)
	}
}

func TestOnlyTheLastBansAreNew(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	for i := range maxNewBans + 2 {
		r.fail(fmt.Sprintf("203.0.113.%d", i), 5)
	}
	r.settled()
	top, err := r.client.Top(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(top.NewBans); n != maxNewBans || top.NewBans[0].Prefix.String() != "203.0.113.21/32" || top.NewBans[n-1].Prefix.String() != "203.0.113.2/32" {
		t.Errorf("new bans: %+v", top.NewBans)
	}
}

// BenchmarkBusiest is what an attempt costs to be counted here, beside what it costs to be decided.
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
				s.see(&a, p, now)
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
