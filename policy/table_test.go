package policy

import (
	"hash/maphash"
	"math/rand/v2"
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
		got := newTable[number](limit, func(*int) { left++ })
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
