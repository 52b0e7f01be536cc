package policy

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// plainFailures are failures, and nothing of them is ever dropped.
type plainFailures []hit

// prefixes returns when each prefix has failed last, of those that failed after begin.
func (p plainFailures) prefixes(begin int64) map[uint32]int64 {
	last := make(map[uint32]int64)
	for i := range p {
		if at := p[i].at(); at > begin {
			last[p[i].who] = max(last[p[i].who], at)
		}
	}
	return last
}

func (p plainFailures) newest() (at int64) {
	for i := range p {
		at = max(at, p[i].at())
	}
	return at
}

func (p plainFailures) since(begin int64, keep int) (n int) {
	for i := range p {
		if p[i].at() > begin {
			n++
		}
	}
	return min(n, keep)
}

func TestFailuresCountAsIfNothingWereDropped(t *testing.T) {
	const findTime = 1000
	r := rand.New(rand.NewPCG(9, 0))
	for round := range 300 {
		var f failures
		var plain plainFailures
		prefixes, keep, at := 1+r.IntN(maxPrefixes), r.IntN(6), int64(10_000)
		for i := range 400 {
			at += int64(r.IntN(60))
			if r.IntN(100) == 0 {
				at += 2 * findTime
			}
			h := newHit(at-int64(r.IntN(3))*int64(r.IntN(700)), uint32(r.IntN(prefixes)), 0)
			f.add(h, findTime, keep)
			plain = append(plain, h)
			begin := plain.newest() - findTime
			want := plain.prefixes(begin)
			if f.prefixes != len(want) || f.prefixesSince(begin) != len(want) {
				t.Fatalf("round %d, failure %d: %d prefixes, %d by looking, want %d", round, i, f.prefixes, f.prefixesSince(begin), len(want))
			}
			oldest := int64(maxTime)
			for _, at := range want {
				oldest = min(oldest, at)
			}
			if got := f.oldest(); got != oldest {
				t.Fatalf("round %d, failure %d: the oldest is of %d, want %d", round, i, got, oldest)
			}
			for _, ago := range []int64{10, 300, findTime, 5000} {
				if got, want := f.since(at-ago, keep), plain.since(at-ago, keep); got != want {
					t.Fatalf("round %d, failure %d: %d of the last %d failures are younger than %d ms, want %d", round, i, got, keep, ago, want)
				}
			}
			if len(f.hits) > len(want)+keep || !slices.IsSortedFunc(f.hits, func(a, b hit) int { return int(a.at() - b.at()) }) {
				t.Fatalf("round %d, failure %d: %d hits for %d prefixes and %d failures, or out of order: %v", round, i, len(f.hits), len(want), keep, f.hits)
			}
		}
	}
}

func TestOfManyPrefixesTheNewestAreToldApart(t *testing.T) {
	var f failures
	for i := range 10 * maxPrefixes {
		f.add(newHit(int64(i), uint32(i), 0), 1_000_000, 3)
	}
	if f.prefixes != maxPrefixes || len(f.hits) != maxPrefixes || f.oldest() != 9*maxPrefixes {
		t.Errorf("%d prefixes in %d places, the oldest of %d", f.prefixes, len(f.hits), f.oldest())
	}
}

// However wide the attacks on however many users: what is remembered of them has a bound, and those forgotten are counted.
func TestFailuresOfAllUsersAreBounded(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{MaxUsers: 100, BanRate: -1})
	places := func() (n int) {
		for _, u := range w.e.users.all() {
			n += cap(u.failures.hits)
		}
		return n
	}
	for i := range 20_000 {
		w.try(AuthFailure, address(i), extension(i%90))
		if u := &w.e.users; u.places != places() || u.places > placesOfAUser*100 {
			t.Fatalf("after %d failures %d places for %d users, %d counted", i, places(), u.length, u.places)
		}
	}
	if s := w.e.Stats(); s.UsersForgotten == 0 || s.Users < 10 {
		t.Errorf("%+v", s)
	}
	for range w.e.users.length {
		w.e.users.evict()
	}
	if w.e.users.places != 0 {
		t.Errorf("%d places are lost", w.e.users.places)
	}
}
