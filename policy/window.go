package policy

import (
	"iter"
	"math/bits"
	"slices"
)

// A window is the attempts of one address that still count, for all rules together. It is a chain of blocks; the zero
// value is empty.
type window struct{ head uint32 }

// A hit is one attempt in a window. A hit that no rule counts any more is a free place.
type hit struct {
	low     uint32 // when, in unix milliseconds: the lower
	high    uint16 // and the upper part
	rules   uint16 // the rules that count it, one bit each
	subject uint32 // hash of the user; the topmost bit is set for an auth_failure
}

const (
	numBits = 16      // rules that a hit can be counted by
	failed  = 1 << 31 // in subject: an auth_failure
	maxTime = 1<<48 - 1
)

func newHit(ms int64, who uint32, rules uint16) hit {
	ms = min(max(ms, 0), maxTime)
	return hit{low: uint32(ms), high: uint16(ms >> 32), rules: rules, subject: who}
}

func (h *hit) at() int64 { return int64(h.high)<<32 | int64(h.low) }

// A block is a part of a window: 52 bytes.
type block struct {
	hits [4]hit
	next uint32
}

// A pool has the blocks of all windows. Numbers start at 1; 0 is none.
type pool struct {
	limit  int // blocks that may be in use
	inUse  int
	chunks [][]block
	used   uint32 // numbers given out so far
	free   uint32 // list of blocks, through next

	newest [numBits]int64 // add's scratch
	counts [numBits]int
}

// counters say, for each rule, how long a hit counts, and how many are kept at most: the newest.
type counters struct {
	findTime [numBits]int64 // milliseconds
	keep     [numBits]int
}

// A distinct holds the rules that count each user's hits as one, the newest.
type distinct struct {
	all    uint16 // these do for every kind of hit
	failed uint16 // these do for auth_failures
}

// add puts h into w and returns, for each of its rules, how many hits that rule's window (newest-findTime, newest] has
// now. Hits that have left the window are dropped. The result is valid until the next call.
func (p *pool) add(w *window, h hit, c *counters, o distinct) *[numBits]int {
	rules, at := h.rules, h.at()
	for m := rules; m != 0; m &= m - 1 {
		p.newest[bits.TrailingZeros16(m)] = at
	}
	place := p.scan(w, &h, rules, c, o)
	for m := h.rules; m != 0; m &= m - 1 {
		if r := bits.TrailingZeros16(m); at > p.newest[r]-c.findTime[r] {
			p.counts[r]++
		} else {
			h.rules &^= 1 << r
		}
	}
	if h.rules != 0 {
		if place == nil {
			place = p.extend(w)
		}
		*place = h
	}
	p.trim(w, rules, c)
	return &p.counts
}

// scan counts, for some rules, the hits in their windows besides h, and finds the newest. It removes expired hits from the rules, and
// the older one of two hits of one user if only one counts. It releases empty blocks and returns a free place, or nil.
//
// If h is late, hits that newer ones have expired were removed when those came.
func (p *pool) scan(w *window, h *hit, rules uint16, c *counters, o distinct) (place *hit) {
	var begin [numBits]int64
	for m := rules; m != 0; m &= m - 1 {
		r := bits.TrailingZeros16(m)
		begin[r] = p.newest[r] - c.findTime[r]
		p.counts[r] = 0
	}
	for link := &w.head; *link != 0; {
		b := p.at(*link)
		var alive uint16
		var free *hit
		for i := range b.hits {
			old := &b.hits[i]
			at := old.at()
			if both := old.rules & h.rules & o.merging(old.subject, h.subject); both == 0 {
				// the usual case: another user, or a rule that counts every attempt
			} else if at <= h.at() {
				old.rules &^= both
			} else {
				h.rules &^= both
			}
			for m := old.rules & rules; m != 0; m &= m - 1 {
				r := bits.TrailingZeros16(m)
				p.newest[r] = max(p.newest[r], at)
				if at > begin[r] {
					p.counts[r]++
				} else {
					old.rules &^= 1 << r
				}
			}
			if alive |= old.rules; old.rules == 0 {
				free = old
			}
		}
		if alive == 0 {
			p.release(link)
			continue
		}
		if free != nil {
			place = free
		}
		link = &b.next
	}
	return place
}

// merging returns the rules that count hits of a and b as one.
func (o distinct) merging(a, b uint32) uint16 {
	switch {
	case (a^b)&^failed != 0:
		return 0
	case a&b&failed != 0:
		return o.all | o.failed
	default:
		return o.all
	}
}

// trim takes from each of some rules the hit that is too many, the oldest. There is never more than one, but after a limit
// was lowered.
func (p *pool) trim(w *window, rules uint16, c *counters) {
	var oldest [numBits]*hit
	for m := rules; m != 0; m &= m - 1 {
		if r := bits.TrailingZeros16(m); p.counts[r] <= c.keep[r] {
			rules &^= 1 << r
		}
	}
	if rules == 0 {
		return
	}
	for h := range p.hits(w) {
		for m := h.rules & rules; m != 0; m &= m - 1 {
			if r := bits.TrailingZeros16(m); oldest[r] == nil || h.at() < oldest[r].at() {
				oldest[r] = h
			}
		}
	}
	for m := rules; m != 0; m &= m - 1 {
		r := bits.TrailingZeros16(m)
		oldest[r].rules &^= 1 << r
		p.counts[r]--
	}
	p.trim(w, rules, c)
}

// collapse leaves of each user's auth_failures the newest one to the rules given.
func (p *pool) collapse(w *window, rules uint16) {
	for h := range p.hits(w) {
		for other := range p.hits(w) {
			if h != other && h.subject&failed != 0 && h.subject == other.subject && h.at() <= other.at() {
				h.rules &^= other.rules & rules
			}
		}
	}
}

// within returns how many hits of rule r are younger than begin.
func (p *pool) within(w *window, r int, begin int64) (n int) {
	for h := range p.hits(w) {
		if h.rules>>r&1 == 1 && h.at() > begin {
			n++
		}
	}
	return n
}

// hits goes through the hits that count.
func (p *pool) hits(w *window) func(yield func(*hit) bool) {
	return func(yield func(*hit) bool) {
		for n := w.head; n != 0; n = p.at(n).next {
			b := p.at(n)
			for i := range b.hits {
				if b.hits[i].rules != 0 && !yield(&b.hits[i]) {
					return
				}
			}
		}
	}
}

// copy copies a window of another pool into w, which is empty, in the same order.
func (p *pool) copy(w *window, from *pool, other *window) {
	var blocks []uint32
	for n := other.head; n != 0; n = from.at(n).next {
		blocks = append(blocks, n)
	}
	for _, n := range slices.Backward(blocks) {
		p.extend(w)
		p.at(w.head).hits = from.at(n).hits
	}
}

// clear empties w.
func (p *pool) clear(w *window) {
	for w.head != 0 {
		p.release(&w.head)
	}
}

// compact releases memory after most blocks became free: it moves the blocks of all windows into new chunks.
func (p *pool) compact(windows iter.Seq[*window]) {
	if p.used <= 4*chunk || int(p.used) < 8*p.inUse {
		return
	}
	smaller := pool{limit: p.limit}
	for w := range windows {
		var moved window
		smaller.copy(&moved, p, w)
		*w = moved
	}
	*p = smaller
}

// room returns how many more blocks may be taken.
func (p *pool) room() int { return p.limit - p.inUse }

func (p *pool) at(n uint32) *block { return &p.chunks[(n-1)/chunk][(n-1)%chunk] }

// extend returns a place in a new block of w.
func (p *pool) extend(w *window) *hit {
	n := p.free
	if n != 0 {
		p.free = p.at(n).next
	} else {
		if p.used%chunk == 0 {
			p.chunks = append(p.chunks, make([]block, chunk))
		}
		p.used++
		n = p.used
	}
	p.inUse++
	*p.at(n) = block{next: w.head}
	w.head = n
	return &p.at(n).hits[0]
}

// release takes the block that link names out of its chain.
func (p *pool) release(link *uint32) {
	n := *link
	b := p.at(n)
	*link = b.next
	b.next, p.free = p.free, n
	p.inUse--
}
