package policy

import (
	"math/rand/v2"
	"testing"
)

// slowFailures is failures, slow and obvious.
type slowFailures map[prefixID]failedPrefix

func (m slowFailures) add(id prefixID, n uint16, at, findTime int64) {
	old, ok := m[id]
	switch {
	case ok && at <= old.last-findTime: // too late to count
		return
	case ok && at < old.last+findTime:
		m[id] = failedPrefix{max(at, old.last), id, old.count + n}
	default:
		m[id] = failedPrefix{at, id, n}
	}
	newest := int64(0)
	for _, p := range m {
		newest = max(newest, p.last)
	}
	for id, p := range m {
		if p.last <= newest-findTime {
			delete(m, id)
		}
	}
}

func TestFailuresAreCountedForEachPrefix(t *testing.T) {
	const findTime = 1000
	r := rand.New(rand.NewPCG(9, 0))
	for round := range 300 {
		var got failures
		want := make(slowFailures)
		prefixes, now := 1+r.IntN(maxPrefixes), int64(10_000)
		for i := range 400 {
			now += int64(r.IntN(60))
			if r.IntN(100) == 0 {
				now += 2 * findTime
			}
			id, at := prefixID{2: uint16(r.IntN(prefixes))}, now-int64(r.IntN(3))*int64(r.IntN(700))
			got.add(id, 1, at, findTime)
			want.add(id, 1, at, findTime)
			if len(got.prefixes) != len(want) {
				t.Fatalf("round %d, failure %d: %d prefixes, want %d", round, i, len(got.prefixes), len(want))
			}
			for j, p := range got.prefixes {
				if want[p.id] != p || j > 0 && p.last < got.prefixes[j-1].last {
					t.Fatalf("round %d, failure %d: %+v, want %+v", round, i, got.prefixes, want)
				}
			}
			begin, n := now-int64(r.IntN(findTime)), 0
			for _, p := range want {
				if p.last > begin {
					n++
				}
			}
			if in := got.since(begin); len(in) != n || n > 0 && in[0].last <= begin {
				t.Fatalf("round %d, failure %d: %d prefixes after %d, want %d", round, i, len(in), begin, n)
			}
		}
	}
}

func TestOfManyPrefixesTheNewestAreCounted(t *testing.T) {
	var f failures
	for i := range 10 * maxPrefixes {
		f.add(prefixID{2: uint16(i)}, 1, int64(i), 1_000_000)
	}
	if len(f.prefixes) != maxPrefixes || f.prefixes[0].last != 9*maxPrefixes || cap(f.prefixes) > maxPrefixes+1 {
		t.Errorf("%d prefixes in %d places, the oldest of %d", len(f.prefixes), cap(f.prefixes), f.prefixes[0].last)
	}
}

func TestFailuresOfAMovedUserAreItsOwn(t *testing.T) {
	var from failures
	from.add(prefixID{1}, 1, 1, 1000)
	to := from
	to.moved()
	from.add(prefixID{1}, 1, 2, 1000)
	if to.add(prefixID{2}, 1, 3, 1000); len(to.prefixes) != 2 || to.prefixes[0] != (failedPrefix{1, prefixID{1}, 1}) {
		t.Errorf("%+v", to.prefixes)
	}
}

// However many addresses attack however many users, the memory is bounded, and forgotten users are counted.
func TestFailuresOfAllUsersAreBounded(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{MaxUsers: 100, BanRate: -1})
	places := func() (n int) {
		for _, u := range w.e.users.all() {
			n += cap(u.failures.prefixes)
		}
		return n
	}
	for i := range 20_000 {
		w.attempt(AuthFailure, address(i), extension(i%90))
		if u := &w.e.users; u.slots != places() || u.slots > slotsPerUser*100 {
			t.Fatalf("after %d failures %d places for %d users, %d counted", i, places(), u.length, u.slots)
		}
	}
	if s := w.e.Stats(); s.UsersForgotten == 0 || s.Users < 10 {
		t.Errorf("%+v", s)
	}
	for range w.e.users.length {
		w.e.users.evict()
	}
	if w.e.users.slots != 0 {
		t.Errorf("%d places are lost", w.e.users.slots)
	}
}
