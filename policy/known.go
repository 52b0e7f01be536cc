package policy

import (
	"iter"
	"net/netip"
	"time"
)

// A KnownGood address is one from which somebody has registered with a right password lately: over UDP nothing else
// proves that an address is not forged. It is an IPv4 address or an IPv6 prefix as it is counted.
//
// It is not immune. But of its auth_failures, rules that do not ask for a user agent count each user's as one, the
// newest: a phone with an old password must not cut off its office. OfficeMaxRetry failures in all ban it. A ban ends the
// status.
type KnownGood struct {
	Prefix    netip.Prefix `json:"prefix"`
	Since     time.Time    `json:"since,omitzero"`     // zero: it is not known-good, there was only a suspicious login
	Last      time.Time    `json:"last,omitzero"`      // its last success
	Suspected time.Time    `json:"suspected,omitzero"` // a suspicious login, which keeps it from becoming known-good
}

// known are the known-good addresses, and those with a suspicious login.
type known struct {
	table[key, home]
	hour     int64 // the hour that it is, since 1970
	thisHour int   // known-good addresses that were seen in it
	lastHour int   // and in the one before
}

// A home is a known-good address. Times are unix milliseconds.
type home struct {
	since, last int64   // 0: not known-good
	suspected   int64   // 0: no
	suspect     account // the account that logged in then
	hour        int64   // when it was last seen
}

func newKnown() known { return known{table: newTable[key, home](0, nil)} }

func (e *Engine) isKnown(k key) bool {
	h := e.known.get(k)
	return h != nil && e.trusts(h)
}

func (e *Engine) trusts(h *home) bool {
	return h.since != 0 && e.now < h.last+e.opts.KnownFor.Milliseconds()
}

// over tells whether h says nothing any more.
func (e *Engine) over(h *home) bool {
	return !e.trusts(h) && (h.suspected == 0 || e.now >= h.suspected+max(e.opts.KnownFor, e.opts.TrustAfter).Milliseconds())
}

// succeeded is what an auth_success changes: challenges are answered, the address may become known-good, and a login may
// be suspicious.
func (e *Engine) succeeded(s *sight, d *Decision) {
	e.waiting.answer(s.key, s.who)
	e.well(s)
	if e.opts.KnownFor < 0 {
		return
	}
	if !s.known && e.suspicious(s, d) {
		return
	}
	h := e.known.touch(s.home)
	d.KnownChanged = !s.known || s.ms/hourMS > h.last/hourMS
	if !s.known {
		e.arrive(s)
		*h = home{since: max(s.ms, 1)}
	}
	h.last = max(h.last, s.ms)
	e.known.see(h, e.now)
	s.known = e.trusts(h)
}

// suspicious tells whether a success from an address that is not known-good must not make it so: after failures of its
// user, and then for TrustAfter.
func (e *Engine) suspicious(s *sight, d *Decision) bool {
	account := e.account(s.User, s.Domain)
	h := e.known.get(s.home)
	suspected := h != nil && h.suspected != 0 && !e.over(h)
	if suspected && s.ms-h.suspected >= e.opts.TrustAfter.Milliseconds() {
		return false
	}
	if suspected && h.suspect == account {
		return true
	}
	if n := e.failuresOf(account, s.ms); n > 0 && n >= e.users.suspiciousAfter {
		*e.known.touch(s.home) = home{suspected: max(s.ms, 1), suspect: account}
		d.KnownChanged = true
		r := SuspiciousLogin{User: s.User, Domain: s.Domain, Addr: s.Addr, UserAgent: s.UserAgent, Failures: n, At: s.At}
		e.users.remember(r)
		e.reports = append(e.reports, r)
		return true
	}
	return suspected
}

// arrive is what changes when an address becomes known-good: what was counted before, users count for one, too.
func (e *Engine) arrive(s *sight) {
	e.waiting.forgive(s.key)
	k := s.home
	if t := e.trackers.get(k); t != nil {
		e.pool.collapse(&t.window, e.rules.mild)
	}
}

// see notes that a known-good address was seen.
func (k *known) see(h *home, now int64) {
	k.roll(now)
	if h.hour != k.hour {
		h.hour = k.hour
		k.thisHour++
	}
}

// active returns how many known-good addresses were seen in this hour or in the last one, whichever are more.
func (k *known) active(now int64) int {
	k.roll(now)
	return max(k.thisHour, k.lastHour)
}

func (k *known) roll(now int64) {
	switch now /= hourMS; {
	case now == k.hour+1:
		k.hour, k.lastHour, k.thisHour = now, k.thisHour, 0
	case now > k.hour:
		k.hour, k.lastHour, k.thisHour = now, 0, 0
	}
}

// KnownGood returns what is known of the address addr, or of the IPv6 prefix that it is counted by. It tells false where
// there is nothing to save: neither a success that still counts nor a suspicious login.
func (e *Engine) KnownGood(addr netip.Addr) (KnownGood, bool) {
	p := e.Prefix(addr)
	if addr.Is4() {
		p = netip.PrefixFrom(addr, 32)
	}
	if !p.IsValid() {
		return KnownGood{}, false
	}
	h := e.known.get(keyOf(p))
	if h == nil || e.over(h) {
		return KnownGood{}, false
	}
	return h.wire(p), true
}

// Known goes through all known-good addresses and those with a suspicious login, from the one longest unconfirmed.
func (e *Engine) Known() iter.Seq[KnownGood] {
	return func(yield func(KnownGood) bool) {
		for k, h := range e.known.all() {
			if !e.over(h) && !yield(h.wire(k.prefix())) {
				return
			}
		}
	}
}

// SetKnown restores what Known has told, the one longest unconfirmed first: beyond MaxKnown that one is forgotten.
func (e *Engine) SetKnown(g KnownGood) {
	if e.opts.KnownFor < 0 || !g.Prefix.IsValid() {
		return
	}
	h := home{since: unixMilli(g.Since), last: unixMilli(g.Last), suspected: unixMilli(g.Suspected)}
	*e.known.touch(keyOf(g.Prefix.Masked())) = h
}

func (h *home) wire(p netip.Prefix) KnownGood {
	return KnownGood{Prefix: p, Since: fromMilli(h.since), Last: fromMilli(h.last), Suspected: fromMilli(h.suspected)}
}
