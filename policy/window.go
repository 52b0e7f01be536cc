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
	low     uint32 // its time in unix milliseconds: the lower 32 bits
	high    uint32 // the upper timeBits of the time, and above them a bit for each rule that counts the hit
	subject uint32 // hash of the user, and the flags failed, proven and unproven
}

const (
	timeBits = 10
	numBits  = 32 - timeBits        // rules that a hit can be counted by
	heldBit  = numBits - 1          // no rule: a hit with this bit is a ban that was held
	maxTime  = 1<<(32+timeBits) - 1 // in the year 2109

	failed   = 1 << 31 // in subject: an auth_failure
	proven   = 1 << 30 // the sender has its address
	unproven = 1 << 29 // nothing proves that it does, though a tap saw it
	subjects = unproven - 1
)

func newHit(ms int64, who, rules uint32) hit {
	ms = min(max(ms, 0), maxTime)
	return hit{low: uint32(ms), high: uint32(ms>>32) | rules<<timeBits, subject: who}
}

func (h *hit) at() int64 { return int64(h.high&(1<<timeBits-1))<<32 | int64(h.low) }

// rules returns the rules that count h, one bit each.
func (h *hit) rules() uint32 { return h.high >> timeBits }

// sameUser reports whether h is of a user with this hash.
func (h *hit) sameUser(hash uint32) bool { return (h.subject^hash)&subjects == 0 }

// drop removes h from rules.
func (h *hit) drop(rules uint32) { h.high &^= rules << timeBits }

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
	all    uint32 // these do for every kind of hit
	failed uint32 // these do for auth_failures
}

// add puts h into w and returns, for each of its rules, how many hits that rule's window (newest-findTime, newest] has
// now. Hits that have left the window are dropped. The result is valid until the next call.
func (p *pool) add(w *window, h hit, c *counters, o distinct) *[numBits]int {
	rules, at := h.rules(), h.at()
	for m := rules; m != 0; m &= m - 1 {
		p.newest[bits.TrailingZeros32(m)] = at
	}
	place := p.scan(w, &h, rules, c, o)
	for m := h.rules(); m != 0; m &= m - 1 {
		if r := bits.TrailingZeros32(m); at > p.newest[r]-c.findTime[r] {
			p.counts[r]++
		} else {
			h.drop(1 << r)
		}
	}
	if h.rules() != 0 {
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
func (p *pool) scan(w *window, h *hit, rules uint32, c *counters, o distinct) (place *hit) {
	var begin [numBits]int64
	for m := rules; m != 0; m &= m - 1 {
		r := bits.TrailingZeros32(m)
		begin[r] = p.newest[r] - c.findTime[r]
		p.counts[r] = 0
	}
	for link := &w.head; *link != 0; {
		b := p.at(*link)
		var alive uint32
		var free *hit
		for i := range b.hits {
			old := &b.hits[i]
			at := old.at()
			if both := old.rules() & h.rules() & o.merging(old.subject, h.subject); both == 0 {
				// the usual case: another user, or a rule that counts every attempt
			} else if at <= h.at() {
				old.drop(both)
			} else {
				h.drop(both)
			}
			for m := old.rules() & rules; m != 0; m &= m - 1 {
				r := bits.TrailingZeros32(m)
				p.newest[r] = max(p.newest[r], at)
				if at > begin[r] {
					p.counts[r]++
				} else {
					old.drop(1 << r)
				}
			}
			if alive |= old.rules(); old.rules() == 0 {
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
func (o distinct) merging(a, b uint32) uint32 {
	switch {
	case (a^b)&subjects != 0:
		return 0
	case a&b&failed != 0:
		return o.all | o.failed
	default:
		return o.all
	}
}

// trim takes from each of some rules the hit that is too many, the oldest. There is never more than one, but after a limit
// was lowered.
func (p *pool) trim(w *window, rules uint32, c *counters) {
	var oldest [numBits]*hit
	for m := rules; m != 0; m &= m - 1 {
		if r := bits.TrailingZeros32(m); p.counts[r] <= c.keep[r] {
			rules &^= 1 << r
		}
	}
	if rules == 0 {
		return
	}
	for h := range p.hits(w) {
		for m := h.rules() & rules; m != 0; m &= m - 1 {
			if r := bits.TrailingZeros32(m); oldest[r] == nil || h.at() < oldest[r].at() {
				oldest[r] = h
			}
		}
	}
	for m := rules; m != 0; m &= m - 1 {
		r := bits.TrailingZeros32(m)
		oldest[r].drop(1 << r)
		p.counts[r]--
	}
	p.trim(w, rules, c)
}

// remove removes the hits that which names.
func (p *pool) remove(w *window, which func(*hit) bool) {
	for link := &w.head; *link != 0; {
		b, alive := p.at(*link), false
		for i := range b.hits {
			if which(&b.hits[i]) {
				b.hits[i] = hit{}
			}
			alive = alive || b.hits[i].rules() != 0
		}
		if !alive {
			p.release(link)
			continue
		}
		link = &b.next
	}
}

// collapse leaves of each user's auth_failures the newest one to the rules given.
func (p *pool) collapse(w *window, rules uint32) {
	for h := range p.hits(w) {
		for other := range p.hits(w) {
			if h != other && h.subject&other.subject&failed != 0 && h.sameUser(other.subject) && h.at() <= other.at() {
				h.drop(other.rules() & rules)
			}
		}
	}
}

// within returns how many hits of rule r are younger than begin.
func (p *pool) within(w *window, r int, begin int64) (n int) {
	for h := range p.hits(w) {
		if h.rules()>>r&1 == 1 && h.at() > begin {
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
				if b.hits[i].rules() != 0 && !yield(&b.hits[i]) {
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
