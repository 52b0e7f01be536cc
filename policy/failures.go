package policy

import (
	"math"
	"math/bits"
	"net/netip"
	"slices"
)

// failures counts the failures of one user for each prefix that they came from: the prefix with the oldest failure first.
type failures struct {
	prefixes []failedPrefix
	first    [2]failedPrefix // the first places of prefixes: most users are attacked from one address
}

// A failedPrefix is a prefix that failed on one user.
type failedPrefix struct {
	last  int64 // unix milliseconds of its newest failure
	id    prefixID
	count uint16 // proven and unknown failures, none of them later than findTime after the one before; math.MaxUint16: at least that many
}

// A prefixID identifies a prefix. Two of one network are the same prefix if they are IPv4, or a /64 or wider; otherwise one in 65,536 is
// taken for another.
type prefixID [3]uint16 // a hash of the network in two parts, and the prefix within it

// network returns the part of an id that all prefixes of one network have in common.
func (id prefixID) network() [2]uint16 { return [2]uint16(id[:2]) }

// maxPrefixes bounds the prefixes that are counted for each user.
const maxPrefixes = 64

// add counts n failures of prefix id at time at: 0 if nothing proves that they come from there. It removes prefixes whose newest failure
// is findTime milliseconds older than that of another, and, beyond maxPrefixes, the prefix with the oldest failure.
func (f *failures) add(id prefixID, n uint16, at, findTime int64) {
	p := failedPrefix{last: at, id: id, count: n}
	if i := f.index(id); i >= 0 {
		old := f.prefixes[i]
		switch {
		case at <= old.last-findTime:
			return
		case at < old.last+findTime:
			p = failedPrefix{max(old.last, at), id, uint16(min(int(old.count)+int(n), math.MaxUint16))}
		}
		f.prefixes = slices.Delete(f.prefixes, i, i+1)
	}
	if len(f.prefixes) == cap(f.prefixes) {
		f.grow()
	}
	i := len(f.prefixes)
	for i > 0 && f.prefixes[i-1].last > p.last {
		i--
	}
	f.prefixes = slices.Insert(f.prefixes, i, p)
	begin := f.prefixes[len(f.prefixes)-1].last - findTime
	old := max(0, len(f.prefixes)-maxPrefixes)
	for old < len(f.prefixes) && f.prefixes[old].last <= begin {
		old++
	}
	f.prefixes = slices.Delete(f.prefixes, 0, old)
}

// index returns the place of a prefix, or -1. It searches from the newest, because the same prefixes fail again.
func (f *failures) index(id prefixID) int {
	for i, p := range slices.Backward(f.prefixes) {
		if p.id == id {
			return i
		}
	}
	return -1
}

func (f *failures) grow() {
	if cap(f.prefixes) == 0 {
		f.prefixes = f.first[:0]
		return
	}
	f.prefixes = append(make([]failedPrefix, 0, min(3*cap(f.prefixes)+2, maxPrefixes+1)), f.prefixes...) // 2, 8, 26, 65
}

// moved must be called on a copy that replaces the original: short lists are stored in the struct itself.
func (f *failures) moved() {
	if cap(f.prefixes) == len(f.first) {
		f.prefixes = f.first[:len(f.prefixes)]
	}
}

// since returns the prefixes that failed after begin.
func (f *failures) since(begin int64) []failedPrefix {
	i := len(f.prefixes)
	for i > 0 && f.prefixes[i-1].last > begin {
		i--
	}
	return f.prefixes[i:]
}

// Evidence that bans a wider IPv6 prefix: failures of strangers within wideFindTime, from parts of it. A host that owns a /48 walks through
// 65,536 networks of /64, none of which fails often enough to be banned.
const (
	wideFindTime = 10 * minuteMS
	wideStep     = 8  // bits between two lengths
	wideHits     = 20 // failures in a prefix that is wideStep wider than the counted one; wideParts times as many for each further step
	wideParts    = 4  // parts that they come from, of the length before
	maxWide      = 16_384
	maxHoles     = 4   // exceptions in one prefix, beyond which it is not banned
	maxPieces    = 256 // bans for one prefix
)

// A wideRecord is the failures in a wider prefix since a time.
type wideRecord struct {
	since    int64
	hits     uint32
	parts    uint64 // one bit for each part, by its hash
	unproven bool   // a failure could be forged
}

// widen counts the failure of a stranger for the wider prefixes around its address, and bans the one with enough evidence, without the
// addresses in it that are never banned or known-good.
func (e *Engine) widen(s *observation, d *Decision) {
	if s.Kind != AuthFailure || !s.Addr.Is6() || s.known || s.never >= 0 || s.unproven() || e.replay.active || d.Rule == nil {
		return
	}
	if _, translated := e.never.translation.of(s.Addr); translated {
		return
	}
	part, need := s.prefix, uint32(wideHits)
	for length := e.opts.IPv6Prefix; length >= max(e.opts.IPv6Widest, 1) && e.opts.IPv6Widest <= e.opts.IPv6Prefix; length -= wideStep {
		p, err := s.Addr.Prefix(length)
		if err != nil || p.Bits() >= s.prefix.Bits() { // a whole network counts by itself
			continue
		}
		if e.CoversAll(p) {
			return
		}
		r := e.offences.wide.touch(keyOf(p))
		if s.ms-r.since >= wideFindTime {
			*r = wideRecord{since: s.ms}
		}
		r.hits++
		r.parts |= 1 << (keyOf(part).hash(e.seed) & 63)
		r.unproven = r.unproven || s.flags&proven == 0
		if r.hits >= need && bits.OnesCount64(r.parts) >= wideParts {
			e.banWide(p, r, s, d.Rule)
		}
		part, need = p, need*wideParts
	}
}

// banWide bans p but for the exceptions in it. A guard that holds it lets the evidence grow on.
func (e *Engine) banWide(p netip.Prefix, r *wideRecord, s *observation, rule *Rule) {
	proof := allHits
	if r.unproven {
		proof = unprovenAndUnknown
	}
	count := int(r.hits)
	pieces := e.piecesOf(p)
	persists := r.hits >= 2*wideHits
	switch {
	case len(pieces) == 0: // everything in it is an exception, or there are too many: look again after as much evidence
		*r = wideRecord{since: s.ms}
		return
	case proof == allHits, persists && e.guards.rate.allowPersistent(e.now), e.guards.rate.allow(e.now):
	default:
		return
	}
	*r = wideRecord{since: s.ms}
	for _, piece := range pieces {
		k := keyOf(piece)
		if e.inForce(k, s.ms) { // the ban is on its way
			continue
		}
		length, number := e.banLength(k, rule, proof, s.ms)
		d := Decision{Prefix: piece, Rule: rule, Count: count, Since: s.when, Until: until(s.when, length), Evidence: []Attempt{s.Attempt}}
		e.makeBan(k, k, number, s.ms, proof, &d)
		e.pending.decisions = append(e.pending.decisions, d)
	}
}

// piecesOf returns the prefixes that p consists of without those on the never-ban list and the known-good ones; none if there are too many.
func (e *Engine) piecesOf(p netip.Prefix) []netip.Prefix {
	var holes []netip.Prefix
	for q := range e.never.within(p) {
		if holes = append(holes, q); len(holes) > maxHoles {
			return nil
		}
	}
	for k, h := range e.known.all() {
		if q := k.prefix(); e.isKnownRecord(h) && q.Overlaps(p) {
			if holes = append(holes, q); len(holes) > maxHoles {
				return nil
			}
		}
	}
	return subtract(nil, p, holes)
}

// subtract appends p without holes to list, in pieces, or returns nil if there are more than maxPieces.
func subtract(list []netip.Prefix, p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	var inside []netip.Prefix
	for _, h := range holes {
		if h.Overlaps(p) {
			if h.Bits() <= p.Bits() {
				return list
			}
			inside = append(inside, h)
		}
	}
	if len(inside) == 0 {
		if len(list) == maxPieces {
			return list[:0]
		}
		return append(list, p)
	}
	low, high := halves(p)
	return subtract(subtract(list, low, inside), high, inside)
}

// halves returns the two halves of p, which has more than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	raw := p.Masked().Addr().AsSlice()
	raw[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(p.Masked().Addr(), p.Bits()+1), netip.PrefixFrom(addr, p.Bits()+1)
}

// WidestBan returns the length of the widest prefix around addr that a rule may ban here or on another node.
func (e *Engine) WidestBan(addr netip.Addr) int {
	counted, _ := e.lengths(addr.Unmap())
	if _, translated := e.never.translation.of(addr); addr.Unmap().Is4() || translated {
		return counted
	}
	return min(counted, e.opts.IPv6Widest)
}
