package policy

import (
	"math"
	"net/netip"
	"time"
)

// An Offence is the record of a prefix: the number of its bans by rules, and the last one. Later bans last longer: those without proof
// after earlier ones without proof, the others after earlier others. So nobody can make the next ban of an address long by forging.
type Offence struct {
	Prefix netip.Prefix `json:"prefix"`
	Count  int          `json:"count"`
	Since  time.Time    `json:"since,omitzero"` // of the last one of Count
	Until  time.Time    `json:"until,omitzero"` // end of the last ban; zero for a ban without end

	Unproven      int       `json:"unproven,omitempty"` // short bans without proof, which are not in Count
	UnprovenSince time.Time `json:"unproven_since,omitzero"`

	KnownGood bool `json:"known_good,omitempty"` // the last ban was of a known-good address: the rate of those counts it
}

// Last returns the time of the last ban.
func (o *Offence) Last() time.Time { return later(o.Since, o.UnprovenSince) }

// offence is Offence, in unix milliseconds.
type offence struct {
	since, until  int64 // until is 0 for a ban without end
	unprovenSince int64
	count         int32
	unproven      int16 // short bans, which are not in count
	known         bool  // the last ban was of a known-good address
}

// last returns the time of the last ban.
func (o *offence) last() int64 { return max(o.since, o.unprovenSince) }

func (o *offence) retime(r retiming) {
	was := o.last()
	r.past(&o.since)
	r.past(&o.unprovenSince)
	if o.until != 0 {
		o.until += o.last() - was
	}
}

// offences are the past bans on record.
type offences struct {
	table[key, offence]
	newest int64 // newest time of a ban on record
	wide   table[key, wideRecord]
}

// Offence returns the record of exactly prefix. It returns false if there is none to save.
func (e *Engine) Offence(prefix netip.Prefix) (Offence, bool) {
	if !prefix.IsValid() {
		return Offence{}, false
	}
	k := keyOf(prefix.Masked())
	o := e.offences.get(k)
	if o == nil || e.offenceExpired(o, e.now) {
		return Offence{}, false
	}
	return o.public(k), true
}

// SetOffence restores a record, the prefix longest unbanned first: beyond MaxOffenders that one is forgotten.
// After the first Advance it is a change for Unsaved.
func (e *Engine) SetOffence(o Offence) {
	if o.Prefix.IsValid() && o.Count+o.Unproven > 0 {
		since := unixMilli(o.Last())
		*e.offences.touch(keyOf(o.Prefix.Masked())) = offence{
			since: unixMilli(o.Since), until: unixMilli(o.Until), unprovenSince: unixMilli(o.UnprovenSince),
			count: int32(min(o.Count, math.MaxInt32)), unproven: int16(min(o.Unproven, math.MaxInt16)), known: o.KnownGood,
		}
		e.offences.newest, e.clock.newest = max(e.offences.newest, since), max(e.clock.newest, since)
		if e.clock.last == 0 { // it was made here, by an earlier process
			r := &e.guards.rate
			if o.KnownGood {
				r = &e.guards.knownGood
			}
			r.add(since)
		} else {
			e.unsaved.markOffence(keyOf(o.Prefix.Masked()))
		}
	}
}

// recordOffence records the ban of k, a known-good address or not. It counts as of the newest attempt, though a late one may have
// completed it.
func (e *Engine) recordOffence(k key, number int, newest, until int64, proof banProof, known bool) {
	var o offence
	if was := e.offences.get(k); was != nil && !e.offenceExpired(was, newest) {
		o = *was
	}
	longerInForce := int(o.count)+int(o.unproven) > 0 && (o.until == 0 || o.until > until)
	if proof == onlyUnproven {
		o.unproven, o.unprovenSince = int16(min(number, math.MaxInt16)), newest
	} else {
		o.count, o.since = int32(number), newest
	}
	if proof != onlyUnproven || !longerInForce {
		o.until = until
	}
	o.known = known
	*e.offences.touch(k) = o
	e.offences.newest = max(e.offences.newest, newest)
	e.unsaved.markOffence(k)
}

// alreadyBanned reports whether the last ban on record of s was made at the time of this attempt or later: a ban resets every count, and a
// short one those without proof.
func (e *Engine) alreadyBanned(s *observation) bool {
	if s.ms > e.offences.newest {
		return false
	}
	for _, k := range [...]key{s.key, s.knownKey} { // a known-good address counted alone, and does not after its ban
		if o := e.offences.get(k); o != nil && (s.ms <= o.since || s.unproven() && s.ms <= o.unprovenSince) {
			return true
		}
	}
	return false
}

// banLength returns the length of the next ban of k by r, and the number of this offence. A prefix that is banned again while its ban
// is in force has not offended again.
func (e *Engine) banLength(k key, r *Rule, proof banProof, at int64) (length time.Duration, number int) {
	number = 1
	if o := e.offences.get(k); o != nil && !e.offenceExpired(o, at) {
		number = int(o.count)
		if proof == onlyUnproven {
			number = int(o.unproven)
		}
		if number == 0 || !e.inForce(k, at) {
			number = min(number+1, math.MaxInt32)
		}
	}
	longest := e.opts.MaxBanTime
	if proof == onlyUnproven {
		longest = e.opts.UnprovenMaxBanTime
	}
	return e.escalate(k, e.firstBan(r, proof), number, longest), number
}

// firstBan returns the length of a first ban by r.
func (e *Engine) firstBan(r *Rule, proof banProof) time.Duration {
	if proof == onlyUnproven && longer(r.BanTime, e.opts.UnprovenBanTime) {
		return e.opts.UnprovenBanTime
	}
	return r.BanTime
}

// inForce reports whether the last ban of k is in force.
func (e *Engine) inForce(k key, at int64) bool {
	o := e.offences.get(k)
	return o != nil && (o.until == 0 || at < o.until)
}

// escalate returns the length of the ban of k for offence number n: it grows by Factor with each, up to longest, and is up to
// Jitter longer, so that prefixes banned together do not return together.
func (e *Engine) escalate(k key, d time.Duration, n int, longest time.Duration) time.Duration {
	if n == 1 || d == Forever || e.opts.Factor <= 1 || d >= longest {
		return d
	}
	length := float64(d) * math.Pow(e.opts.Factor, float64(n-1)) * (1 + max(e.opts.Jitter, 0)*jitterFraction(k, n, e.opts.Seed))
	if length >= float64(longest) {
		return longest
	}
	return max(d, time.Duration(length).Truncate(time.Second))
}

// jitterFraction returns a number in [0, 1), always the same for the same ban, and unpredictable without the seed.
func jitterFraction(k key, n int, seed uint64) float64 {
	h := seed + uint64(n)
	for _, b := range k {
		h = (h ^ uint64(b)) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	return float64(h>>11) / (1 << 53)
}

// offenceExpired reports whether o is too old to count.
func (e *Engine) offenceExpired(o *offence, at int64) bool {
	return o.until != 0 && at >= o.until+e.opts.OffenceFor.Milliseconds()
}

// withdrawOffence drops the newest offence of k if its ban is in force. The one before it ended when it began.
func (e *Engine) withdrawOffence(k key) (left Offence, changed bool) {
	o := e.offences.get(k)
	switch {
	case o == nil:
		return Offence{Prefix: k.prefix()}, false
	case !e.inForce(k, e.now):
		return o.public(k), false
	case int(o.count)+int(o.unproven) <= 1:
		e.offences.remove(k)
		return Offence{Prefix: k.prefix()}, true
	case o.unproven > 0 && o.unprovenSince > o.since:
		o.unproven--
	default:
		o.count--
	}
	o.until = max(o.last(), 1)
	e.unsaved.markOffence(k)
	return o.public(k), true
}

func (o *offence) public(k key) Offence {
	return Offence{
		Prefix: k.prefix(), Count: int(o.count), Since: fromMilli(o.since), Until: fromMilli(o.until),
		Unproven: int(o.unproven), UnprovenSince: fromMilli(o.unprovenSince), KnownGood: o.known,
	}
}
