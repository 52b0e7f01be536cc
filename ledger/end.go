package ledger

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"
)

// Amend gives the ban of prefix, if it ends at seen, another end, and reports whether it did. It keeps the rest, evidence
// included. A ban that ends at another time was changed since the caller looked, and stays as it is.
func (l *Ledger) Amend(prefix netip.Prefix, seen, until time.Time) bool {
	return l.edit(prefix, func(b *Ban) bool {
		if !b.Until.Equal(seen) {
			return false
		}
		b.Until = until
		return true
	})
}

// Sign notes the node that has announced the ban of prefix to the fleet, and when by the fleet's clock. It keeps the rest,
// evidence included.
func (l *Ledger) Sign(prefix netip.Prefix, node string, stamp int64) {
	l.edit(prefix, func(b *Ban) bool {
		b.Node, b.Stamp = node, stamp
		return true
	})
}

// Enforce notes that the ban of prefix is enforced from now on, although an fsban that watched has made it.
func (l *Ledger) Enforce(prefix netip.Prefix) {
	l.edit(prefix, func(b *Ban) bool {
		watched := b.Watched
		b.Watched = false
		return watched
	})
}

// edit replaces the ban of prefix by a copy that do has changed, unless do returns false, and reports whether it did.
func (l *Ledger) edit(prefix netip.Prefix, do func(*Ban) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, ok := l.bans[prefix]
	if !ok {
		return false
	}
	edited := *old
	if !do(&edited.Ban) {
		return false
	}
	l.change(prefix, &edited)
	return true
}

// Step moves starts and ends of all bans by so much, because the clock was stepped: the remaining times stay. The times in the
// evidence stay as they were.
func (l *Ledger) Step(by time.Duration) {
	if by == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = l.ends[:0]
	for p, old := range l.bans {
		moved := *old
		moved.Since, moved.Until = step(old.Since, by), step(old.Until, by)
		l.put(p, &moved)
		l.pending[p] = &moved
		if !moved.Until.IsZero() {
			l.ends = append(l.ends, &moved)
		}
	}
	heap.Init(&l.ends)
	l.wakeUp()
}

// step moves t, unless it is zero, without its monotonic reading.
func step(t time.Time, by time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Round(0).Add(by)
}

// Expire ends the bans that are over at now and returns them. Its cost does not depend on the number of other bans.
func (l *Ledger) Expire(now time.Time) []Ban {
	l.mu.RLock()
	due := len(l.ends) > 0 && l.ends[0].Over(now)
	l.mu.RUnlock()
	if !due { // readers need not wait
		return nil
	}
	var over []Ban
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.ends) > 0 && l.ends[0].Over(now) {
		if b := heap.Pop(&l.ends).(*kept); l.bans[b.Prefix] == b {
			over = append(over, b.Ban)
			l.history.add(b, Ending{At: b.Until, Cause: causeExpired})
			l.change(b.Prefix, nil)
		}
	}
	return over
}

// Tally returns the number of bans, of those that end by soon, and of those that end by later. Its cost depends on the last.
func (l *Ledger) Tally(soon, later time.Time) (all, bySoon, byLater int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var look func(i int)
	look = func(i int) {
		if i >= len(l.ends) || !l.ends[i].Over(later) {
			return // those below end later still
		}
		if b := l.ends[i]; l.bans[b.Prefix] == b {
			byLater++
			if b.Over(soon) {
				bySoon++
			}
		}
		look(2*i + 1)
		look(2*i + 2)
	}
	look(0)
	return len(l.bans), bySoon, byLater
}

// expect puts b among the ends. The end of a ban that is replaced or removed stays there until it has passed, or until such
// ends are as many as the bans. The caller holds the lock.
func (l *Ledger) expect(b *kept) {
	if b.Until.IsZero() {
		return
	}
	b.Until = b.Until.Round(0) // ends are ordered by one clock, and those read from disk have only this one
	if l.boundEnds() {
		heap.Init(&l.ends)
	}
	heap.Push(&l.ends, b)
}

// boundEnds removes the ends of bans that were replaced or removed, if they are too many, and reports whether it did. The caller
// holds the lock.
func (l *Ledger) boundEnds() bool {
	if len(l.ends) < 2*len(l.bans)+64 {
		return false
	}
	l.ends = slices.DeleteFunc(l.ends, func(b *kept) bool { return l.bans[b.Prefix] != b })
	return true
}

// ends is a heap of bans with the nearest end on top.
type ends []*kept

func (h ends) Len() int           { return len(h) }
func (h ends) Less(i, j int) bool { return h[i].Until.Before(h[j].Until) }
func (h ends) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ends) Push(b any)        { *h = append(*h, b.(*kept)) }

func (h *ends) Pop() any {
	last := len(*h) - 1
	b := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return b
}

// First returns the up to n bans of one family that come first by before, of those for which mayGo returns true. Its cost depends on the
// number of bans.
func (l *Ledger) First(v4 bool, n int, mayGo func(*Ban) bool, before func(x, y *Ban) bool) []Ban {
	last := lastBans{before: before} // the bans that come first, with the last of them on top
	l.mu.RLock()
	defer l.mu.RUnlock()
	for p, b := range l.bans {
		if p.Addr().Is4() != v4 || !mayGo(&b.Ban) || len(last.bans) == n && n > 0 && !before(&b.Ban, &last.bans[0].Ban) {
			continue
		}
		if heap.Push(&last, b); len(last.bans) > n {
			heap.Pop(&last)
		}
	}
	bans := make([]Ban, len(last.bans))
	for i := len(last.bans) - 1; i >= 0; i-- {
		bans[i] = heap.Pop(&last).(*kept).Ban
	}
	return bans
}

// lastBans is a heap with the last ban on top.
type lastBans struct {
	bans   []*kept
	before func(x, y *Ban) bool
}

func (h *lastBans) Len() int           { return len(h.bans) }
func (h *lastBans) Less(i, j int) bool { return h.before(&h.bans[j].Ban, &h.bans[i].Ban) }
func (h *lastBans) Swap(i, j int)      { h.bans[i], h.bans[j] = h.bans[j], h.bans[i] }
func (h *lastBans) Push(b any)         { h.bans = append(h.bans, b.(*kept)) }

func (h *lastBans) Pop() any {
	last := h.bans[len(h.bans)-1]
	h.bans = h.bans[:len(h.bans)-1]
	return last
}

// EndsBefore compares the ends of two bans. One without end is the last.
func EndsBefore(x, y *Ban) bool {
	return !x.Until.IsZero() && (y.Until.IsZero() || x.Until.Before(y.Until))
}
