package policy

import (
	"math"
	"net/netip"
	"time"
)

// An Offence is the record of a prefix: the number of its bans by rules, and the last one. Later bans last longer.
type Offence struct {
	Prefix netip.Prefix `json:"prefix"`
	Count  int          `json:"count"`
	Since  time.Time    `json:"since"`
	Until  time.Time    `json:"until,omitzero"` // zero for a ban without end
}

// offence is Offence, in unix milliseconds.
type offence struct {
	since, until int64 // until is 0 for a ban without end
	count        int32
}

// offences are the past bans on record.
type offences struct {
	table[key, offence]
	newest int64 // newest time of a ban on record
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
	if o.Prefix.IsValid() && o.Count > 0 {
		since := unixMilli(o.Since)
		*e.offences.touch(keyOf(o.Prefix.Masked())) = offence{since, unixMilli(o.Until), int32(min(o.Count, math.MaxInt32))}
		e.offences.newest, e.clock.newest = max(e.offences.newest, since), max(e.clock.newest, since)
		if e.clock.last == 0 { // it was made here, by an earlier process
			e.guards.rate.add(since)
		} else {
			e.unsaved.markOffence(keyOf(o.Prefix.Masked()))
		}
	}
}

// recordOffence records the ban of k. It counts as of the newest attempt, though a late one may have completed it.
func (e *Engine) recordOffence(k key, number int, newest, until int64) {
	o := offence{newest, until, int32(number)}
	*e.offences.touch(k) = o
	e.offences.newest = max(e.offences.newest, o.since)
	e.unsaved.markOffence(k)
}

// alreadyBanned reports whether the last ban on record of s was made at the time of this attempt or later: a ban resets every count.
func (e *Engine) alreadyBanned(s *observation) bool {
	if s.ms > e.offences.newest {
		return false
	}
	for _, k := range [...]key{s.key, s.knownKey} { // a known-good address counted alone, and does not after its ban
		if o := e.offences.get(k); o != nil && s.ms <= o.since {
			return true
		}
	}
	return false
}

// banLength returns the length of the next ban of k by r, and the number of this offence. A prefix that is banned again while its ban
// is in force has not offended again.
func (e *Engine) banLength(k key, r *Rule, at int64) (length time.Duration, number int) {
	number = 1
	if o := e.offences.get(k); o != nil && !e.offenceExpired(o, at) {
		number = int(o.count)
		if !e.inForce(k, at) {
			number = min(number+1, math.MaxInt32)
		}
	}
	return e.escalate(k, r.BanTime, number), number
}

// inForce reports whether the last ban of k is in force.
func (e *Engine) inForce(k key, at int64) bool {
	o := e.offences.get(k)
	return o != nil && (o.until == 0 || at < o.until)
}

// escalate returns the length of the ban of k for offence number n: it grows by Factor with each, up to MaxBanTime, and is up to
// Jitter longer, so that prefixes banned together do not return together.
func (e *Engine) escalate(k key, d time.Duration, n int) time.Duration {
	if n == 1 || d == Forever || e.opts.Factor <= 1 || d >= e.opts.MaxBanTime {
		return d
	}
	length := float64(d) * math.Pow(e.opts.Factor, float64(n-1)) * (1 + max(e.opts.Jitter, 0)*jitterFraction(k, n, e.opts.Seed))
	if length >= float64(e.opts.MaxBanTime) {
		return e.opts.MaxBanTime
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
	case o.count <= 1:
		e.offences.remove(k)
		return Offence{Prefix: k.prefix()}, true
	}
	o.count--
	o.until = max(o.since, 1)
	e.unsaved.markOffence(k)
	return o.public(k), true
}

func (o *offence) public(k key) Offence {
	return Offence{Prefix: k.prefix(), Count: int(o.count), Since: time.UnixMilli(o.since), Until: fromMilli(o.until)}
}
