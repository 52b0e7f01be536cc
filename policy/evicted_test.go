package policy

import (
	"slices"
	"testing"
	"time"
)

// Records that the bounds of memory evict are changes: the disk must forget them too.
func TestEvictedRecordsLeaveTheDisk(t *testing.T) {
	w, k := newWorld(t, NeverBan{}, Options{Records: true, MaxKnown: 3, MaxOffenders: 2, BanRate: -1}), newDisk()
	for i := range 3 {
		w.attempt(AuthSuccess, address(i), extension(i))
		w.pass(time.Second)
	}
	k.save(w.e)
	for i := range 5 {
		floodOf(w, 100+i, 1)
		w.pass(time.Second)
		k.save(w.e)
		for p := range k.offences {
			if _, held := w.e.Offence(p); !held {
				t.Fatalf("after %d bans: the disk keeps the evicted offence of %v", i+1, p)
			}
		}
		if want := min(i+1, 2); len(k.offences) != want {
			t.Fatalf("after %d bans: %d offences on disk, want %d", i+1, len(k.offences), want)
		}
	}
	// A smaller limit evicts at the next change.
	w.e.SetRules(DefaultRules(), Options{Records: true, MaxKnown: 1, MaxOffenders: 2})
	w.attempt(AuthSuccess, address(2), extension(2))
	w.pass(time.Minute)
	w.attempt(AuthSuccess, address(50), extension(50))
	w.pass(time.Second)
	k.save(w.e)
	var inMemory int
	for p := range k.known {
		if _, known := w.e.KnownGood(p.Addr()); !known {
			t.Errorf("the disk keeps the evicted record of %v", p)
		}
		inMemory++
	}
	if inMemory == 0 || !slices.ContainsFunc(w.bans, func(d Decision) bool { return d.Prefix.Addr() == address(100) }) {
		t.Error("nothing to evict")
	}
}
