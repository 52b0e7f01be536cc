package policy

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"time"
)

// A key is a prefix, in 17 bytes without pointers: its address, IPv4 mapped, and its bits.
type key [17]byte

func keyOf(p netip.Prefix) (k key) {
	a := p.Addr().As16()
	copy(k[:], a[:])
	k[16] = byte(p.Bits() + 128 - p.Addr().BitLen())
	return k
}

func (k key) prefix() netip.Prefix {
	addr := netip.AddrFrom16([16]byte(k[:16])).Unmap()
	return netip.PrefixFrom(addr, int(k[16])-128+addr.BitLen())
}

func (k key) hash(seed maphash.Seed) uint64 { return maphash.Bytes(seed, k[:]) }

// A tracker is what is counted of one prefix.
type tracker struct {
	window window
	last   uint32 // number of its newest piece of evidence
}

// A sight is an attempt with all that is known about it before it is counted.
type sight struct {
	Attempt
	when   time.Time    // when what it leads to happens
	ms     int64        // its time in unix milliseconds
	prefix netip.Prefix // what is counted
	key    key          // of prefix
	home   key          // what can be known-good: the address, of an IPv6 address the prefix
	never  int          // number of the never-ban entry that spares it; -1: none
	who    uint32       // hash of the user
	now    uint16       // the rules that count it
	later  uint16       // the rules that count it if no credentials follow
	known  bool         // home is known-good
}

// sight looks up everything about a.
func (e *Engine) sight(a Attempt) sight {
	s := sight{Attempt: a, when: a.At, ms: a.At.UnixMilli()}
	if s.prefix, s.never = e.prefix(a.Addr); !s.prefix.IsValid() || a.Kind >= NumKinds {
		return s
	}
	s.key = keyOf(s.prefix)
	if s.home = s.key; a.Addr.Is4() && !s.prefix.IsSingleIP() {
		s.home = keyOf(netip.PrefixFrom(a.Addr, 32))
	}
	s.who = e.who(a.User)
	if a.Kind == AuthFailure {
		s.who |= failed
	}
	s.now, s.later = e.rules.counting(&a)
	s.known = e.isKnown(s.home)
	return s
}

// who is a hash of a user, as a hit has it.
func (e *Engine) who(user string) uint32 { return uint32(maphash.String(e.seed, user)) &^ failed }

// Prefix returns what counts as one attacker with addr: its network of IPv4Prefix or IPv6Prefix bits, or addr alone where
// that network holds something that is never banned. So a neighbour of our own address can be banned, and we cannot. An
// IPv4 address that is known-good counts alone, too.
func (e *Engine) Prefix(addr netip.Addr) netip.Prefix {
	p, _ := e.prefix(addr)
	return p
}

// prefix is Prefix, and the number of the never-ban entry that spares it, or -1.
func (e *Engine) prefix(addr netip.Addr) (p netip.Prefix, never int) {
	n := e.opts.IPv6Prefix
	if addr.Is4() {
		n = e.opts.IPv4Prefix
	}
	p, err := addr.Prefix(n)
	if err != nil { // a zero Addr, which no source may send
		return netip.Prefix{}, -1
	}
	never = e.never.index(p)
	if p.IsSingleIP() {
		return p, never
	}
	alone := netip.PrefixFrom(addr, addr.BitLen())
	if never >= 0 || addr.Is4() && e.isKnown(keyOf(alone)) {
		return alone, e.never.index(alone)
	}
	return p, -1
}

// count puts s into the windows of its rules and judges.
func (e *Engine) count(s *sight, d *Decision) {
	if s.now == 0 {
		return
	}
	if e.graces.excuse(s, e.now) {
		d.Verdict = Excused
		return
	}
	d.Verdict = Counted
	if s.never >= 0 {
		d.Verdict, d.Never = Spared, &e.never.entries[s.never]
		e.spared[s.never].Attempts++
	}
	t := e.trackers.touch(s.key)
	e.makeRoom()
	t.last = e.evidence.add(&s.Attempt, t.last)
	rules, o := s.now, once{all: e.rules.distinct}
	if s.known && s.Kind == AuthFailure {
		rules |= e.rules.office
		o.failed = e.rules.mild
	}
	counts := e.pool.add(&t.window, newHit(s.ms, s.who, rules), &e.rules.counters, o)
	if s.known && s.Kind == AuthFailure {
		e.failedAtHome(s, t)
	}
	if e.judge(d, rules, counts) {
		e.fire(s, t, d)
	}
}

// judge finds the rule that bans, or else the one that is nearest to it, and tells which of the two it is.
func (e *Engine) judge(d *Decision, rules uint16, counts *[numBits]int) (fires bool) {
	for m := rules; m != 0; m &= m - 1 {
		i := bits.TrailingZeros16(m)
		r, n := &e.rules.rules[i], counts[i]
		switch {
		case n >= r.MaxRetry && (!fires || longer(r.BanTime, d.Rule.BanTime)):
			d.Rule, d.Count, fires = r, n, true
		case !fires && (d.Rule == nil || n*d.Rule.MaxRetry > d.Count*r.MaxRetry):
			d.Rule, d.Count = r, n
		}
	}
	return fires
}

// fire is what happens when a rule bans: every count of the address starts again from zero, and the ban is made unless
// the address is never banned or a guard holds it.
func (e *Engine) fire(s *sight, t *tracker, d *Decision) {
	d.Evidence = e.evidence.chain(t.last, s.prefix, d.Rule.MaxRetry)
	e.pool.clear(&t.window)
	t.last = 0
	e.waiting.forgive(s.key)
	length, number := e.sentence(s.key, d.Rule, s.when.UnixMilli())
	d.Since, d.Until = s.when, until(s.when, length)
	if s.never >= 0 {
		d.Verdict = SparedBan
		e.spared[s.never].Bans++
		return
	}
	if d.Guard = e.guard(s); d.Guard != NoGuard {
		d.Verdict = Held
		e.hold(s.key, d)
		return
	}
	e.ban(s.key, s.home, number, d)
}

// ban makes the ban that d describes.
func (e *Engine) ban(k, home key, number int, d *Decision) {
	d.Verdict, d.Offence = BanNow, number
	e.record(k, number, d.Since, d.Until)
	e.held.remove(k)
	if was := e.known.get(home); was != nil {
		if e.trusts(was) && d.Guard == NoGuard {
			e.noteBan(k, home, *was)
		}
		e.known.remove(home)
		d.KnownChanged = true
	}
}

// makeRoom forgets the addresses longest unseen until there is room for one more hit in any window.
func (e *Engine) makeRoom() {
	for e.pool.room() < 1 && e.trackers.length > 1 {
		e.trackers.evict()
	}
}

// rename gives the hits in w other bits.
func (p *pool) rename(w *window, bit *[numBits]uint16) {
	for h := range p.hits(w) {
		var rules uint16
		for m := h.rules; m != 0; m &= m - 1 {
			rules |= bit[bits.TrailingZeros16(m)]
		}
		h.rules = rules
	}
}
