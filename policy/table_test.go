package policy

import (
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

type number int

func (n number) hash(seed maphash.Seed) uint64 { return maphash.Comparable(seed, n) }

// slowTable is a table, slow and obvious.
type slowTable struct {
	limit  int
	keys   []number // the one touched longest ago first
	values map[number]int
}

func (s *slowTable) touch(k number) (dropped []number) {
	s.remove(k)
	for len(s.keys) >= s.limit {
		dropped = append(dropped, s.keys[0])
		delete(s.values, s.keys[0])
		s.keys = s.keys[1:]
	}
	s.keys = append(s.keys, k)
	return dropped
}

func (s *slowTable) remove(k number) {
	s.keys = slices.DeleteFunc(s.keys, func(o number) bool { return o == k })
}

func TestTableIsAMapThatForgetsWhatWasTouchedLongestAgo(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		limit := 1 + r.IntN(2000)
		left := 0
		got := newTable[number](limit, func(number, *int) { left++ })
		want := slowTable{limit: limit, values: make(map[number]int)}
		evicted := uint64(0)
		for step := range 5000 {
			k := number(r.IntN(3000))
			switch r.IntN(5) {
			case 0:
				got.remove(k)
				want.remove(k)
				delete(want.values, k)
			case 1:
				v := got.get(k)
				if w, ok := want.values[k]; (v != nil) != ok || ok && *v != w {
					t.Fatalf("seed %d: %d is %v, want %d %t", seed, k, v, w, ok)
				}
			default:
				v := got.touch(k)
				if *v != want.values[k] {
					t.Fatalf("seed %d: %d is %d, want %d", seed, k, *v, want.values[k])
				}
				evicted += uint64(len(want.touch(k)))
				*v, want.values[k] = step, step
			}
		}
		var keys []number
		for k, v := range got.all() {
			if keys = append(keys, k); *v != want.values[k] {
				t.Fatalf("seed %d: %d is %d, want %d", seed, k, *v, want.values[k])
			}
		}
		if !slices.Equal(keys, want.keys) || got.length != len(keys) || got.evicted != evicted {
			t.Fatalf("seed %d: %d keys of %d, evicted %d, want %d", seed, got.length, len(want.keys), got.evicted, evicted)
		}
		for k := range got.all() {
			got.remove(k)
		}
		if k, v := got.first(); got.length != 0 || v != nil || k != 0 {
			t.Errorf("%d left", got.length)
		}
		if left == 0 {
			t.Error("nobody was told of what left")
		}
	}
}

func TestBlocksOfWindowsAreGivenBack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 0))
	e := NewEngine(DefaultRules(), NeverBan{}, Options{MaxTracked: 20, MaxHits: 4000, MaxUsers: 10})
	at := start
	for range 50_000 {
		at = at.Add(time.Duration(r.IntN(2000)) * time.Millisecond)
		a := randomAttempt(r.IntN, at)
		a.Addr = address(r.IntN(60))
		if r.IntN(100) == 0 {
			at = at.Add(10 * time.Minute)
		}
		e.Observe(a)
	}
	held := 0
	count := func(w *window) {
		for n := w.head; n != 0; n = e.pool.at(n).next {
			held++
		}
	}
	for _, t := range e.trackers.all() {
		count(&t.window)
	}
	free := 0
	for n := e.pool.free; n != 0; n = e.pool.at(n).next {
		free++
	}
	if held != e.pool.inUse || held+free != int(e.pool.used) || e.pool.inUse > e.pool.limit {
		t.Errorf("%d blocks in windows, %d free, of %d; %d in use of %d", held, free, e.pool.used, e.pool.inUse, e.pool.limit)
	}
	for range e.trackers.length {
		e.trackers.evict()
	}
	if e.pool.inUse != 0 {
		t.Errorf("%d blocks are lost", e.pool.inUse)
	}
}

func TestMemoryReturnsToItsSizeAfterAnAttack(t *testing.T) {
	const mib = 1 << 20
	e := NewEngine(DefaultRules(), NeverBan{}, Options{Records: true, OutageMin: -1})
	at := start
	attack := func(n int) {
		for i := range n {
			e.Observe(Attempt{Addr: address(i), At: at, Kind: AuthFailure, User: extension(i)})
			e.Observe(Attempt{Addr: address(i), At: at, Kind: Challenge})
			e.Observe(Attempt{Addr: address(1<<20 + i), At: at, Kind: AuthSuccess, User: extension(i)})
			e.Observe(Attempt{Addr: address(1<<20 + i), At: at, Kind: AuthFailure, User: "1000"})
			if i%10 == 0 {
				e.Forget(netip.PrefixFrom(address(i), 32), at)
				e.SetOffence(Offence{Prefix: netip.PrefixFrom(address(i), 32), Count: 1, Since: at, Until: at.Add(time.Hour)})
				for range 5 {
					e.Observe(Attempt{Addr: address(1<<21 + i), At: at, Kind: Violation})
				}
			}
		}
	}
	quiet := func(d time.Duration, step time.Duration) {
		for end := at.Add(d); at.Before(end); {
			at = at.Add(step)
			e.Advance(at)
			e.Unsaved()
		}
	}
	for i := range 8192 { // the evidence ring is filled once and keeps its size
		e.Observe(Attempt{Addr: address(i), At: at, Kind: AuthFailure, User: extension(i)})
	}
	quiet(100*24*time.Hour, time.Hour)
	before := heap()
	attack(40_000)
	during := heap()
	if s := e.Stats(); s.Tracked < 80_000 || s.Known < 36_000 || s.Users < 39_000 || s.Offenders < 4000 || s.Waiting < 30_000 || s.Held < 3800 {
		t.Fatalf("the attack does not fill the tables: %+v", s)
	}
	quiet(time.Hour, time.Second)
	quiet(100*24*time.Hour, time.Hour)
	after := heap()
	t.Logf("before %d KiB, during the attack %d MiB, after it %d KiB", before/1024, during/mib, after/1024)
	if during < before+20*mib {
		t.Errorf("the attack took %d MiB only", (during-before)/mib)
	}
	if after > before+mib {
		t.Errorf("%d KiB are still in use after the attack, before it %d KiB: %+v", after/1024, before/1024, e.Stats())
	}
	for name, used := range map[string]uint32{
		"trackers": e.trackers.used, "known-good": e.known.used, "users": e.users.used, "offences": e.offences.used,
		"challenges": e.waiting.chains.used, "held bans": e.guards.held.used, "graces": e.graces.exact.used, "pool": e.pool.used,
	} {
		if used > 4*chunk {
			t.Errorf("%s: %d places are still in use", name, used)
		}
	}
	t.Run("and the engine decides as before", func(t *testing.T) {
		for i := 1; i <= 5; i++ {
			if d := e.Observe(Attempt{Addr: stranger, At: at, Kind: AuthFailure, User: "1000"}); (d.Verdict == BanNow) != (i == 5) {
				t.Errorf("attempt %d: %v", i, d.Verdict)
			}
		}
	})
}
