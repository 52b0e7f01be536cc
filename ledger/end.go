package ledger

import (
	"container/heap"
	"net/netip"
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
	if err != nil && whole.Prefix != prefix { // it is not banned any more
		return
	}
	do(&whole)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.bans[prefix]; ok {
		l.change(prefix, &whole)
	}
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
