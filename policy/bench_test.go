package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// address is the i-th of many.
func address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(10 + i>>24), byte(i >> 16), byte(i >> 8), byte(i)})
}

const realPhone = "Yealink SIP-T46U 108.86.0.20"

// knownFails fails from addresses that the engine knows, each seldom enough not to be banned, on many users.
func knownFails(e *Engine, tracked int) func(i int) {
	users := make([]string, 1000)
	for i := range users {
		users[i] = extension(i)
	}
	return func(i int) {
		a := failure(address(i*7919%tracked), time.Duration(i)*time.Hour/time.Duration(min(tracked, 1000)))
		a.User, a.UserAgent = users[i%len(users)], realPhone
		e.Observe(a)
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, tracked := range []int{1, 1_000, 1_000_000} {
		b.Run(fmt.Sprintf("known_of_%d", tracked), func(b *testing.B) {
			e := NewEngine(DefaultRules(), never("ignoreip", "127.0.0.0/8", "::1/128", "192.0.2.0/24"), Options{})
			for i := range tracked {
				e.Observe(failure(address(i), 0))
			}
			attempt := knownFails(e, tracked)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				attempt(i)
			}
		})
	}
	b.Run("known_good_success", func(b *testing.B) {
		e := NewEngine(DefaultRules(), NeverBan{}, Options{})
		b.ReportAllocs()
		for i := range b.N {
			e.Observe(Attempt{Addr: address(i % 1000), At: start.Add(time.Duration(i) * time.Millisecond), Kind: AuthSuccess, User: "1000", UserAgent: realPhone})
		}
	})
	b.Run("stranger_flood_at_max_tracked", func(b *testing.B) {
		e := NewEngine(DefaultRules(), NeverBan{}, Options{})
		for i := range e.opts.MaxTracked {
			e.Observe(failure(address(-i-1), 0))
		}
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			a := failure(address(i), 0)
			a.UserAgent = realPhone
			e.Observe(a)
		}
	})
	b.Run("challenges_that_nobody_answers", func(b *testing.B) {
		e := NewEngine(DefaultRules(), NeverBan{}, Options{})
		b.ReportAllocs()
		for i := range b.N {
			e.Observe(Attempt{Addr: address(i % 100_000), At: start.Add(time.Duration(i) * time.Millisecond), Kind: Challenge, User: "1000", UserAgent: realPhone})
		}
	})
}

func TestAKnownAddressCostsNoAllocation(t *testing.T) {
	for name, kinds := range map[string][]Kind{
		"failures": {AuthFailure}, "a phone": {Challenge, AuthSuccess}, "everything": {Challenge, AuthFailure, Challenge, AuthFailure, AuthSuccess, ACLReject, CallReject, Violation},
	} {
		e := NewEngine(DefaultRules(), never("ignoreip", "127.0.0.0/8"), Options{})
		i := 0
		attempt := func() {
			i++
			a := failure(address(i%10), time.Duration(i)*10*time.Second) // a hundred seconds between two of one address
			a.Kind, a.User, a.UserAgent = kinds[i/10%len(kinds)], "1000", realPhone
			e.Observe(a)
		}
		for range 5000 {
			attempt()
		}
		if n := testing.AllocsPerRun(5000, attempt); n != 0 {
			t.Errorf("%s: %v allocations an attempt", name, n)
		}
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// All tables are filled to their bounds, those of a million addresses with as many attempts as may be remembered at all.
func TestAMillionTrackedAddressesTakeLessThan200MiB(t *testing.T) {
	const mib = 1 << 20
	many := 1_000_000
	if testing.Short() {
		many = 100_000
	}
	before := heap()
	e := NewEngine(DefaultRules(), NeverBan{}, Options{OutageMin: -1, MaxTracked: many})
	at := start
	each := func(n int, k Kind) {
		for i := range n {
			a := Attempt{Addr: address(i), At: at, Kind: k, UserAgent: realPhone}
			if k == AuthFailure {
				a.User = fmt.Sprint("user", i)
			}
			e.Observe(a)
		}
	}
	each(many, AuthFailure)
	t.Logf("one attempt of each address: %d MiB", (heap()-before)/mib)
	for range 4 {
		at = at.Add(30 * time.Second)
		each(many, ACLReject)
	}
	s := e.Stats()
	t.Logf("up to five attempts of each of %d addresses, as many as MaxHits allows: %d MiB", s.Tracked, (heap()-before)/mib)
	if s.Tracked < many*8/10 || s.Evicted == 0 {
		t.Errorf("stats %+v", s)
	}
	for i := range e.opts.MaxKnown {
		e.SetKnownGood(KnownGood{Prefix: netip.PrefixFrom(address(i), 32), Since: at, Last: at, Account: uint64(i + 1)})
	}
	for i := range e.opts.MaxOffenders {
		e.SetOffence(Offence{Prefix: netip.PrefixFrom(address(i), 32), Count: 1, Since: at, Until: at.Add(time.Hour)})
	}
	each(2*e.opts.MaxUsers, AuthFailure)
	for i := range 10_000 * 27 { // more addresses for as many users as have room for them: 27 failures take 65 slots
		e.Observe(Attempt{Addr: address(i), At: at, Kind: AuthFailure, UserAgent: realPhone, User: fmt.Sprint("user", 2*e.opts.MaxUsers-1-i/27)})
	}
	for i := range e.opts.MaxWaiting {
		e.Observe(Attempt{Addr: address(1<<22 + i), At: at, Kind: Challenge})
	}
	for i := range e.opts.MaxHeld {
		for range 5 {
			e.Observe(Attempt{Addr: address(1<<23 + i), At: at, Kind: Violation})
		}
	}
	took := heap() - before
	s = e.Stats()
	t.Logf("everything at its bound: %d MiB, %+v", took/mib, s)
	if s.Known != e.opts.MaxKnown || s.Offenders < e.opts.MaxOffenders || s.Users != e.opts.MaxUsers || s.Waiting != e.opts.MaxWaiting || s.Held < e.opts.MaxHeld-100 {
		t.Errorf("not everything is full: %+v", s)
	}
	if e.users.slots < e.users.maxSlots*9/10 {
		t.Errorf("%d places of users, of %d", e.users.slots, e.users.maxSlots)
	}
	if took > 200*mib {
		t.Errorf("%d MiB", took/mib)
	}
}
