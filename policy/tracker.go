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

// A tracker holds the counts of one prefix.
type tracker struct {
	window window
	last   uint32 // number of its newest piece of evidence
}

// An observation is an attempt with all state that its decision depends on.
type observation struct {
	Attempt
	when      time.Time    // time of the decision
	ms        int64        // its time in unix milliseconds
	prefix    netip.Prefix // the counted prefix
	key       key          // of prefix
	knownKey  key          // of KnownGoodPrefix
	never     int          // number of the never-ban entry that spares it; -1: none
	user      uint32       // hash of the user
	flags     uint32       // of its hit: failed, proven, unproven
	immediate uint32       // the rules that count it
	deferred  uint32       // the rules that count it if no credentials follow
	known     bool         // home is known-good
	ceiling   bool         // during an outage: its phone fails too often for a phone
}

// examine looks up the state for a.
func (e *Engine) examine(a Attempt) observation {
	a.Addr = a.Addr.Unmap()
	s := observation{Attempt: a, when: a.At, ms: a.At.UnixMilli()}
	if s.prefix, s.never = e.prefix(a.Addr); !s.prefix.IsValid() || a.Kind >= NumKinds {
		return s
	}
	s.key = keyOf(s.prefix)
	if s.knownKey = s.key; !s.prefix.IsSingleIP() {
		s.knownKey = keyOf(e.knownGoodPrefix(a.Addr, s.prefix))
	}
	s.user, s.flags = e.userHash(a.User), flagsOf(&s.Attempt)
	s.immediate, s.deferred = e.rules.matching(&s.Attempt)
	if s.known = e.isKnown(s.knownKey); s.known {
		e.tolerate(&s)
	}
	return s
}

// tolerate leaves out the rules that count nothing against a known-good address: all of them for attempts that anybody can forge, and
// those that ask for a user agent unless a password was tried.
func (e *Engine) tolerate(s *observation) {
	switch {
	case s.Kind.Forgeable() && (s.Kind != Exploit || s.unproven()):
		s.immediate, s.deferred = 0, 0
	case s.Kind != AuthFailure:
		s.immediate &^= e.rules.agents
	}
}

// flagsOf returns the flags of a hit of a.
func flagsOf(a *Attempt) (flags uint32) {
	if a.Kind == AuthFailure {
		flags |= failed
	}
	switch {
	case a.Proof == NoProof || a.Proof == UnknownProof && a.Kind.OnWire():
		flags |= unproven
	case a.Proof != UnknownProof:
		flags |= proven
	}
	return flags
}

// unproven reports whether nothing proves that the sender of s has its address, although a tap saw the transaction.
func (s *observation) unproven() bool { return s.flags&unproven != 0 }

// userHash returns the hash of a user, as stored in a hit.
func (e *Engine) userHash(user string) uint32 { return uint32(maphash.String(e.seed, user)) & subjects }

// Prefix returns the prefix that counts as one attacker with addr: its network of IPv4Prefix or IPv6Prefix bits, or less of
// it where that network holds an address that is never banned. So a neighbour of our own address can be banned, and we
// cannot. An address that stands for an IPv4 address counts by that, in its IPv6 form. An IPv4 address that is known-good
// counts alone.
func (e *Engine) Prefix(addr netip.Addr) netip.Prefix {
	p, _ := e.prefix(addr.Unmap())
	return p
}

// KnownGoodPrefix returns the prefix that is known-good with addr: the IPv4 address, also in its IPv6 form, or the network that counts
// as one IPv6 attacker.
func (e *Engine) KnownGoodPrefix(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap()
	return e.knownGoodPrefix(addr, e.Prefix(addr))
}

func (e *Engine) knownGoodPrefix(addr netip.Addr, counted netip.Prefix) netip.Prefix {
	if _, host := e.lengths(addr); counted.Bits() < host {
		p, _ := addr.Prefix(host)
		return p
	}
	return counted
}

// PrefixLengths returns the lengths of the prefixes around addr that count as one attacker, and that are known-good together, where
// nothing is never banned. A rule bans nothing wider.
func (e *Engine) PrefixLengths(addr netip.Addr) (counted, home int) { return e.lengths(addr.Unmap()) }

// CoversAll reports whether p is a whole address family, or everybody behind a NAT64 translator.
func (e *Engine) CoversAll(p netip.Prefix) bool {
	return p.Bits() == 0 || e.never.translation.coversAll(p)
}

// lengths returns how many bits of addr count as one attacker, and how many are known-good together.
func (e *Engine) lengths(addr netip.Addr) (counted, host int) {
	if addr.Is4() {
		return e.opts.IPv4Prefix, 32
	}
	if l, ok := e.never.translation.of(addr); ok {
		return l.bits(e.opts.IPv4Prefix), l.bits(32)
	}
	return e.opts.IPv6Prefix, e.opts.IPv6Prefix
}

// prefix is Prefix, and the number of the never-ban entry that spares it, or -1.
func (e *Engine) prefix(addr netip.Addr) (p netip.Prefix, never int) {
	if !addr.IsValid() { // which no source may send
		return netip.Prefix{}, -1
	}
	counted, host := e.lengths(addr)
	p, _ = addr.Prefix(counted)
	never = e.never.index(p)
	if host != counted {
		one, _ := addr.Prefix(host)
		if never >= 0 || e.isKnown(keyOf(one)) {
			p, never = one, e.never.index(one)
		}
	}
	if never >= 0 && !p.IsSingleIP() || e.never.translation.coversAll(p) {
		p = netip.PrefixFrom(addr, addr.BitLen())
		never = e.never.index(p)
	}
	return p, never
}

// count puts s into the windows of its rules and judges.
func (e *Engine) count(s *observation, d *Decision) {
	if s.unproven() && (s.known || s.never >= 0) {
		e.observeForged(s, d)
		return
	}
	if s.immediate == 0 {
		return
	}
	if !e.replay.active && e.graces.covers(s, e.now) || e.alreadyBanned(s) { // attempts in the journal have counted
		d.Verdict = Excused
		return
	}
	d.Verdict, d.Journal = Counted, s.never < 0
	if s.never >= 0 {
		d.Verdict, d.Never = Spared, &e.never.entries[s.never]
		e.spared[s.never].Attempts++
	}
	t := e.trackers.touch(s.key)
	e.makeRoom()
	t.last = e.evidence.add(&s.Attempt, t.last)
	rules, o := s.immediate, distinct{all: e.rules.distinct}
	if s.known && s.Kind == AuthFailure {
		rules |= e.rules.office
		o.failed = e.rules.lenient
	}
	counts := e.pool.add(&t.window, newHit(s.ms, s.user|s.flags, rules), &e.rules.counters, o)
	if s.known && s.Kind == AuthFailure {
		e.countPhoneFailure(s, t)
	}
	if s.ceiling {
		d.Rule, d.Count = &e.rules.rules[len(e.rules.rules)-1], e.opts.OfficeMaxRetry
		e.applyRule(s, t, e.pool.proof(&t.window, e.rules.office), d)
		return
	}
	if proof, fires := e.selectRule(d, t, rules, counts); fires {
		e.applyRule(s, t, proof, d)
	}
	e.widen(s, d)
}

// selectRule sets the rule that bans, the longest first, or else the one nearest to it. It returns the proof of the ban.
func (e *Engine) selectRule(d *Decision, t *tracker, rules uint32, counts *[numBits]int) (proof banProof, fires bool) {
	var longest time.Duration
	for m := rules; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(m)
		r, n := &e.rules.rules[i], counts[i]
		switch {
		case n >= r.MaxRetry:
			p := e.pool.proof(&t.window, 1<<i)
			if length := e.firstBan(r, p); !fires || longer(length, longest) {
				d.Rule, d.Count, proof, longest, fires = r, n, p, length, true
			}
		case !fires && (d.Rule == nil || n*d.Rule.MaxRetry > d.Count*r.MaxRetry):
			d.Rule, d.Count = r, n
		}
	}
	return proof, fires
}

// applyRule makes the ban of a rule that fires, unless the address is on the never-ban list or a guard holds the ban. A ban resets all
// counts of the address. A short or held one leaves those that are better proven, or forged attempts would erase them.
func (e *Engine) applyRule(s *observation, t *tracker, proof banProof, d *Decision) {
	d.Evidence = e.evidence.chain(t.last, s.prefix, d.Rule.MaxRetry)
	newest := s.ms
	for h := range e.pool.hits(&t.window) {
		newest = max(newest, h.at())
	}
	length, number := e.banLength(s.key, d.Rule, proof, s.when.UnixMilli())
	d.Since, d.Until = s.when, until(s.when, length)
	if s.never >= 0 {
		e.resetCounts(s.key, allHits)
		d.Verdict = SparedBan
		e.spared[s.never].Bans++
		return
	}
	if e.replay.active && s.known && !e.guards.outage.active && !e.guards.knownGood.full(s.ms) {
		e.resetCounts(s.key, allHits)
		return // a ban would have ended known-good: a guard held it, and has dropped it or will
	}
	firings := e.firings(s.key, &t.window) + 1
	if d.Guard = e.holdingGuard(s, proof, firings); d.Guard != NoGuard {
		e.resetCounts(s.key, min(proof, unprovenAndUnknown))
		e.pool.add(&t.window, newHit(s.ms, proven, 1<<heldBit), &e.rules.counters, distinct{})
		d.Verdict = Held
		e.hold(s.key, d, proof, firings)
		return
	}
	e.makeBan(s.key, s.knownKey, number, newest, proof, d)
}

// A banProof says which attempts a ban needs, and which ones it resets.
type banProof uint8

const (
	onlyUnproven       banProof = iota // at least one with NoProof: the ban is short
	unprovenAndUnknown                 // none with NoProof
	allHits                            // only proven ones
)

// proof returns the proof of a ban by rule, one bit.
func (p *pool) proof(w *window, rule uint32) banProof {
	result := allHits
	for h := range p.hits(w) {
		switch {
		case h.rules()&rule == 0 || h.subject&proven != 0:
		case h.subject&unproven != 0:
			return onlyUnproven
		default:
			result = unprovenAndUnknown
		}
	}
	return result
}

// resetCounts resets counts of k: those of attempts as well proven as which, or less.
func (e *Engine) resetCounts(k key, which banProof) {
	if t := e.trackers.get(k); t != nil {
		switch which {
		case allHits:
			e.pool.clear(&t.window)
			t.last = 0
		case unprovenAndUnknown:
			e.pool.remove(&t.window, func(h *hit) bool { return h.subject&proven == 0 })
		case onlyUnproven:
			e.pool.remove(&t.window, func(h *hit) bool { return h.subject&unproven != 0 })
		}
	}
	e.waiting.answerAll(k)
}

// makeBan makes the ban that d describes; newest is the time of its newest attempt.
func (e *Engine) makeBan(k, home key, number int, newest int64, proof banProof, d *Decision) {
	d.Verdict, d.Offence, d.Short = BanNow, number, proof == onlyUnproven
	was := e.known.get(home)
	known := was != nil && e.isKnownRecord(was)
	e.recordOffence(k, number, newest, unixMilli(d.Until), proof, known)
	if proof == onlyUnproven {
		e.resetCounts(k, onlyUnproven)
	} else {
		e.resetCounts(k, allHits)
	}
	if h := e.guards.held.get(k); h != nil && (proof != onlyUnproven || h.proof == onlyUnproven) { // forged attempts drop no longer ban
		e.guards.held.remove(k)
	}
	if was != nil {
		if known {
			e.guards.known++
			if d.Guard == NoGuard {
				e.rememberKnownBan(k, home, *was)
			}
		}
		e.known.remove(home)
		d.KnownGoodChanged = true
	}
}

// makeRoom forgets the addresses longest unseen until there is room for an attempt, and for a ban that it makes and a guard holds.
func (e *Engine) makeRoom() {
	for e.pool.room() < 2 && e.trackers.length > 1 {
		e.trackers.evict()
	}
}

// rename gives the hits in w other bits.
func (p *pool) rename(w *window, bit *[numBits]uint32) {
	for h := range p.hits(w) {
		var rules uint32
		for m := h.rules(); m != 0; m &= m - 1 {
			rules |= bit[bits.TrailingZeros32(m)]
		}
		*h = newHit(h.at(), h.subject, rules)
	}
}
