package policy

import (
	"net/netip"
	"slices"
	"time"
)

// Options bound an Engine and say what counts as one address. Zero values stand for the defaults.
type Options struct {
	MaxTracked   int // addresses held at the same time; default 1,000,000
	KeepEvidence int // attempts remembered, over all addresses, as the evidence of later bans; default 8,192
	IPv4Prefix   int // bits that count as one IPv4 attacker; default 32
	IPv6Prefix   int // bits that count as one IPv6 attacker; default 64, because a host walks through its network at no cost
}

// A Verdict is what an attempt led to.
type Verdict uint8

// The verdicts.
const (
	Pass    Verdict = iota // the rule does not count attempts of this kind
	Counted                // counted, and not enough yet
	Spared                 // it would have been counted, but the address is on the never-ban list
	BanNow                 // ban Prefix from Since until Until
)

// A Decision is the answer to one attempt.
type Decision struct {
	Verdict Verdict
	Prefix  netip.Prefix // what was counted, and is banned with BanNow
	Count   int          // attempts in the window, this one included
	Rule    *Rule        // the rule that counted

	// With BanNow only.
	Since, Until time.Time // Until is zero for a ban without end
	Evidence     []Attempt // the last attempts, oldest first; at most MaxRetry, fewer where memory ran out
}

// Stats count what an Engine holds and lost.
type Stats struct {
	Tracked int    // addresses
	Evicted uint64 // addresses forgotten because MaxTracked others were seen since
}

// An Engine holds the windows of all addresses.
type Engine struct {
	rule  Rule
	never NeverBan
	opts  Options

	index   map[key]uint32 // address → number of its tracker
	chunks  [][]tracker    // the trackers, in chunks that never move
	hits    [][]int64      // chunk by chunk, MaxRetry times for each tracker: unix microseconds, in no order
	free    []uint32
	used    uint32
	oldest  uint32 // list of trackers by last sight; none when empty
	newest  uint32
	evicted uint64

	evidence evidence
}

type key [16]byte

// none is no tracker.
const none = ^uint32(0)

const chunk = 4096

// A tracker is the window of one prefix.
type tracker struct {
	key        key
	prev, next uint32 // by last sight
	last       uint64 // number of its newest piece of evidence
	filled     uint16 // how many hits it has
}

// NewEngine returns an engine for one rule. The rule has been validated by package config.
func NewEngine(rule Rule, never NeverBan, opts Options) *Engine {
	for _, d := range []struct {
		value *int
		or    int
	}{{&opts.MaxTracked, 1_000_000}, {&opts.KeepEvidence, 8192}, {&opts.IPv4Prefix, 32}, {&opts.IPv6Prefix, 64}} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	return &Engine{
		rule: rule, never: never, opts: opts,
		index:  make(map[key]uint32),
		oldest: none, newest: none,
		evidence: evidence{ring: make([]piece, opts.KeepEvidence)},
	}
}

// SetNeverBan replaces the never-ban list.
func (e *Engine) SetNeverBan(n NeverBan) { e.never = n }

// NeverBan returns the never-ban list.
func (e *Engine) NeverBan() NeverBan { return e.never }

// Stats returns the engine's counts.
func (e *Engine) Stats() Stats { return Stats{Tracked: len(e.index), Evicted: e.evicted} }

// Prefix returns what counts as one attacker with addr: its network of IPv4Prefix or IPv6Prefix bits, or addr alone where
// that network holds something that is never banned. So a neighbour of our own address can be banned, and we cannot.
func (e *Engine) Prefix(addr netip.Addr) netip.Prefix {
	bits := e.opts.IPv6Prefix
	if addr.Is4() {
		bits = e.opts.IPv4Prefix
	}
	p, err := addr.Prefix(bits)
	if err != nil { // a zero Addr, which no source may send
		return netip.Prefix{}
	}
	if _, never := e.never.Match(p); never {
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	return p
}

// Observe counts a and says what to do now. The window is (a.At-FindTime, a.At], by the newest attempt when attempts
// arrive out of order. The ban falls on attempt number MaxRetry, and the count starts again from zero with it. It
// allocates nothing for an address that it already knows, unless it bans.
func (e *Engine) Observe(a Attempt) Decision {
	if !e.rule.counts(a.Kind) {
		return Decision{Verdict: Pass}
	}
	prefix := e.Prefix(a.Addr)
	if !prefix.IsValid() {
		return Decision{Verdict: Pass}
	}
	d := Decision{Prefix: prefix, Rule: &e.rule}
	if _, never := e.never.Match(prefix); never {
		d.Verdict = Spared
		return d
	}
	n := e.track(key(prefix.Addr().As16()))
	t := e.at(n)
	t.last = e.evidence.add(a, t.last)
	d.Count = e.hit(n, t, a.At)
	if d.Count < e.rule.MaxRetry {
		d.Verdict = Counted
		return d
	}
	d.Verdict = BanNow
	d.Since, d.Until = a.At, e.rule.until(a.At)
	d.Evidence = e.evidence.chain(t.last, e.rule.MaxRetry)
	t.filled, t.last = 0, 0
	return d
}

// Forget drops what is known of every address in prefix, so that each starts from zero.
func (e *Engine) Forget(prefix netip.Prefix) {
	prefix = prefix.Masked()
	if prefix == e.Prefix(prefix.Addr()) {
		if n, ok := e.index[key(prefix.Addr().As16())]; ok {
			e.drop(n)
		}
		return
	}
	for k, n := range e.index {
		if prefix.Overlaps(e.Prefix(netip.AddrFrom16(k).Unmap())) {
			e.drop(n)
		}
	}
}

// hit adds a hit to tracker n and returns how many its window holds. The MaxRetry newest hits are all that can matter, so
// no more are kept.
func (e *Engine) hit(n uint32, t *tracker, at time.Time) int {
	from := int(n%chunk) * e.rule.MaxRetry
	hits := e.hits[n/chunk][from : from+e.rule.MaxRetry]
	now := at.UnixMicro()
	if int(t.filled) < len(hits) {
		hits[t.filled] = now
		t.filled++
	} else if oldest := indexOfMin(hits); hits[oldest] < now {
		hits[oldest] = now
	}
	hits = hits[:t.filled]
	begin := slices.Max(hits) - e.rule.FindTime.Microseconds()
	count := 0
	for _, h := range hits {
		if h > begin {
			count++
		}
	}
	return count
}

func indexOfMin(list []int64) int {
	least := 0
	for i, v := range list {
		if v < list[least] {
			least = i
		}
	}
	return least
}

// track returns the tracker of k as the one seen last, making it if need be.
func (e *Engine) track(k key) uint32 {
	if n, ok := e.index[k]; ok {
		if n != e.newest {
			e.unlink(n)
			e.link(n)
		}
		return n
	}
	if len(e.index) >= e.opts.MaxTracked {
		e.drop(e.oldest)
		e.evicted++
	}
	n := e.take()
	*e.at(n) = tracker{key: k}
	e.index[k] = n
	e.link(n)
	return n
}

// take returns the number of an unused tracker.
func (e *Engine) take() uint32 {
	if last := len(e.free) - 1; last >= 0 {
		n := e.free[last]
		e.free = e.free[:last]
		return n
	}
	n := e.used
	if n%chunk == 0 {
		e.chunks = append(e.chunks, make([]tracker, chunk))
		e.hits = append(e.hits, make([]int64, chunk*e.rule.MaxRetry))
	}
	e.used++
	return n
}

func (e *Engine) at(n uint32) *tracker { return &e.chunks[n/chunk][n%chunk] }

func (e *Engine) drop(n uint32) {
	e.unlink(n)
	delete(e.index, e.at(n).key)
	e.free = append(e.free, n)
}

// link makes n the newest.
func (e *Engine) link(n uint32) {
	t := e.at(n)
	t.prev, t.next = e.newest, none
	if e.newest == none {
		e.oldest = n
	} else {
		e.at(e.newest).next = n
	}
	e.newest = n
}

func (e *Engine) unlink(n uint32) {
	t := e.at(n)
	if t.prev == none {
		e.oldest = t.next
	} else {
		e.at(t.prev).next = t.next
	}
	if t.next == none {
		e.newest = t.prev
	} else {
		e.at(t.next).prev = t.prev
	}
}

// evidence remembers the last attempts of all addresses together: a ring, in which each piece knows the one before it
// from the same address. What a ban needs is found without a search; what is too old is overwritten.
type evidence struct {
	ring  []piece
	added uint64 // pieces ever added; the newest has this number
}

type piece struct {
	attempt Attempt
	before  uint64 // number of the same address's piece before it; 0 for none
}

// add remembers a, which follows the piece numbered before, and returns its number.
func (v *evidence) add(a Attempt, before uint64) uint64 {
	v.added++
	v.ring[v.added%uint64(len(v.ring))] = piece{a, before}
	return v.added
}

// chain returns up to limit attempts that end with the piece numbered last, oldest first.
func (v *evidence) chain(last uint64, limit int) []Attempt {
	var numbers []uint64
	for n := last; n > 0 && n+uint64(len(v.ring)) > v.added && len(numbers) < limit; {
		numbers = append(numbers, n)
		n = v.ring[n%uint64(len(v.ring))].before
	}
	attempts := make([]Attempt, len(numbers))
	for i, n := range numbers {
		attempts[len(numbers)-1-i] = v.ring[n%uint64(len(v.ring))].attempt
	}
	return attempts
}
