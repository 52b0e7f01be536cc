package ledger

import (
	"container/heap"
	"errors"
	"net/netip"
	"slices"
	"time"
)

// Amend gives the ban of prefix another end. It keeps the rest, evidence included.
func (l *Ledger) Amend(prefix netip.Prefix, until time.Time) {
	l.amend(prefix, func(b *Ban) { b.Until = until })
}

// Sign notes which node of a fleet has said that prefix is banned, and when. It keeps the rest, evidence included.
func (l *Ledger) Sign(prefix netip.Prefix, node string, stamp int64) {
	l.amend(prefix, func(b *Ban) { b.Node, b.Stamp = node, stamp })
}

func (l *Ledger) amend(prefix netip.Prefix, do func(*Ban)) {
	whole, err := l.Load(prefix)
	if errors.Is(err, ErrNotBanned) { // any more
		return
	}
	do(&whole)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.bans[prefix]; ok {
		l.change(prefix, &whole)
	}
}

// Expire ends the bans that are over at now and returns them. It looks at no others.
func (l *Ledger) Expire(now time.Time) []Ban {
	l.mu.RLock()
	due := len(l.ends) > 0 && l.ends[0].Over(now)
	l.mu.RUnlock()
	if !due { // nobody who only reads has to wait
		return nil
	}
	var over []Ban
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.ends) > 0 && l.ends[0].Over(now) {
		if b := heap.Pop(&l.ends).(*Ban); l.bans[b.Prefix] == b {
			over = append(over, *b)
			l.change(b.Prefix, nil)
		}
	}
	return over
}

// Tally returns how many bans there are, and how many of them end by soon, and by later. It looks only at those that do.
func (l *Ledger) Tally(soon, later time.Time) (all, bySoon, byLater int) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var look func(i int)
	look = func(i int) {
		if i >= len(l.ends) || !l.ends[i].Over(later) {
			return // what is below ends later still
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

// expect puts b among the ends. That of a ban which is replaced or removed stays there, until its time has come or such ends
// are as many as the bans. The caller holds the lock.
func (l *Ledger) expect(b *Ban) {
	if b.Until.IsZero() {
		return
	}
	b.Until = b.Until.Round(0) // ends are in one order only by one clock, and those on disk know only this one
	if len(l.ends) >= 2*len(l.bans)+64 {
		l.ends = slices.DeleteFunc(l.ends, func(b *Ban) bool { return l.bans[b.Prefix] != b })
		heap.Init(&l.ends)
	}
	heap.Push(&l.ends, b)
}

// ends is a heap of bans with the nearest end on top.
type ends []*Ban

func (h ends) Len() int           { return len(h) }
func (h ends) Less(i, j int) bool { return h[i].Until.Before(h[j].Until) }
func (h ends) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ends) Push(b any)        { *h = append(*h, b.(*Ban)) }

func (h *ends) Pop() any {
	last := len(*h) - 1
	b := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return b
}

// NearestEnd returns up to n bans of one family that may go, those nearest to their end. Bans without end come last. It
// looks at every ban.
func (l *Ledger) NearestEnd(v4 bool, n int, mayGo func(*Ban) bool) []Ban {
	var last latest // of those nearest to their end, the latest is on top
	l.mu.RLock()
	defer l.mu.RUnlock()
	for p, b := range l.bans {
		if p.Addr().Is4() != v4 || !mayGo(b) {
			continue
		}
		if heap.Push(&last, b); len(last) > n {
			heap.Pop(&last)
		}
	}
	bans := make([]Ban, len(last))
	for i := len(last) - 1; i >= 0; i-- {
		bans[i] = *heap.Pop(&last).(*Ban)
	}
	return bans
}

// latest is a heap with the latest end on top.
type latest []*Ban

func (h latest) Len() int           { return len(h) }
func (h latest) Less(i, j int) bool { return earlier(h[j].Until, h[i].Until) }
func (h latest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *latest) Push(b any)        { *h = append(*h, b.(*Ban)) }

func (h *latest) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// earlier compares ends, of which the zero time is the latest.
func earlier(a, b time.Time) bool { return !a.IsZero() && (b.IsZero() || a.Before(b)) }
