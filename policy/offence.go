package policy

import (
	"math"
	"net/netip"
	"time"
)

// An Offence is what is on record of a prefix: how often rules have banned it, and its last ban. Bans that follow last
// longer.
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

// Offence returns what is on record of exactly prefix. It tells false where there is nothing to save.
func (e *Engine) Offence(prefix netip.Prefix) (Offence, bool) {
	if !prefix.IsValid() {
		return Offence{}, false
	}
	k := keyOf(prefix.Masked())
	o := e.offences.get(k)
	if o == nil || e.forgotten(o, e.now) {
		return Offence{}, false
	}
	return o.wire(k), true
}

// SetOffence restores what Offence has told, the prefix longest unbanned first: beyond MaxOffenders that one is forgotten.
func (e *Engine) SetOffence(o Offence) {
	if o.Prefix.IsValid() && o.Count > 0 {
		*e.offences.touch(keyOf(o.Prefix.Masked())) = offence{unixMilli(o.Since), unixMilli(o.Until), int32(min(o.Count, math.MaxInt32))}
	}
}

// record notes the ban that is made of k.
func (e *Engine) record(k key, number int, since, until time.Time) {
	*e.offences.touch(k) = offence{since.UnixMilli(), unixMilli(until), int32(number)}
}

// sentence returns how long r bans k at a time, and the number of this offence. Whoever is banned while a ban of theirs is
// still in force has not offended again.
func (e *Engine) sentence(k key, r *Rule, at int64) (length time.Duration, number int) {
	number = 1
	if o := e.offences.get(k); o != nil && !e.forgotten(o, at) {
		number = int(o.count)
		if !e.inForce(k, at) {
			number = min(number+1, math.MaxInt32)
		}
	}
	return e.grown(k, r.BanTime, number), number
}

// inForce tells whether the last ban of k is not over.
func (e *Engine) inForce(k key, at int64) bool {
	o := e.offences.get(k)
	return o != nil && (o.until == 0 || at < o.until)
}

// grown returns the length of the ban of k for offence number n: it grows by Factor with each, up to MaxBanTime, and is
// then up to Jitter longer, so that those who were banned together do not come back together.
func (e *Engine) grown(k key, d time.Duration, n int) time.Duration {
	if n == 1 || d == Forever || e.opts.Factor <= 1 || d >= e.opts.MaxBanTime {
		return d
	}
	length := float64(d) * math.Pow(e.opts.Factor, float64(n-1)) * (1 + max(e.opts.Jitter, 0)*fraction(k, n, e.opts.Seed))
	if length >= float64(e.opts.MaxBanTime) {
		return e.opts.MaxBanTime
	}
	return max(d, time.Duration(length).Truncate(time.Second))
}

// fraction returns a number from 0 up to 1 that nobody guesses who does not know seed, always the same for the same ban.
func fraction(k key, n int, seed uint64) float64 {
	h := seed + uint64(n)
	for _, b := range k {
		h = (h ^ uint64(b)) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	return float64(h>>11) / (1 << 53)
}

// forgotten tells whether o is too long ago to count.
func (e *Engine) forgotten(o *offence, at int64) bool {
	return o.until != 0 && at >= o.until+e.opts.OffenceFor.Milliseconds()
}

// takeBack drops the newest offence of k if its ban is still in force. The one before it has ended when it began.
func (e *Engine) takeBack(k key) (left Offence, changed bool) {
	o := e.offences.get(k)
	switch {
	case o == nil:
		return Offence{Prefix: k.prefix()}, false
	case !e.inForce(k, e.now):
		return o.wire(k), false
	case o.count <= 1:
		e.offences.remove(k)
		return Offence{Prefix: k.prefix()}, true
	}
	o.count--
	o.until = max(o.since, 1)
	return o.wire(k), true
}

func (o *offence) wire(k key) Offence {
	return Offence{Prefix: k.prefix(), Count: int(o.count), Since: time.UnixMilli(o.since), Until: fromMilli(o.until)}
}
