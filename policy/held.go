package policy

import (
	"net/netip"
	"time"
)

// A HeldBan is a ban that a guard holds.
type HeldBan struct {
	Prefix       netip.Prefix
	Guard        Guard
	Rule         *Rule
	Count        int
	Since, Until time.Time // when a rule wanted to first, and the end of the ban that it last wanted: also if it is made later
	Evidence     []Attempt // the last attempts, five at most
}

// held are the bans that guards hold, the one held longest first.
type held struct {
	table[key, HeldBan]
	by   [NumGuards]int // how many each guard holds
	lost uint64         // not held: there were MaxHeld already
}

// maxHeldEvidence bounds what is kept for each held ban.
const maxHeldEvidence = 5

// hold keeps the ban that d describes.
func (e *Engine) hold(k key, d *Decision) {
	h := e.held.get(k)
	if h == nil && d.Guard == RateGuard {
		e.raiseRate()
	}
	switch {
	case h == nil && e.held.length >= e.held.limit:
		e.held.lost++
		return
	case h == nil:
		h = e.held.touch(k)
		h.Prefix, h.Since = d.Prefix, d.Since
	default:
		e.held.by[h.Guard]--
	}
	e.held.by[d.Guard]++
	h.Guard, h.Rule, h.Count, h.Until = d.Guard, d.Rule, d.Count, d.Until
	h.Evidence = d.Evidence[max(0, len(d.Evidence)-maxHeldEvidence):]
}

// releaseHeld makes bans that the ban-rate guard held, oldest first, BanRate a minute and evenly. New ones do not wait for
// them: they have a minute's allowance of their own.
func (e *Engine) releaseHeld() {
	r := &e.rate
	if r.active || r.next > e.now || e.held.by[RateGuard] == 0 {
		return
	}
	step := int64(0)
	if len(r.bans) > 0 {
		step = max(minuteMS/int64(len(r.bans)), 1)
	}
	for k, h := range e.held.all() {
		switch {
		case h.Guard != RateGuard:
		case e.lapsed(h) || e.isKnown(k) || e.never.index(h.Prefix) >= 0:
			e.held.remove(k)
		case r.next > e.now:
			return
		default:
			r.next = max(r.next, e.now-minuteMS) + step
			e.ready = append(e.ready, e.release(k, h))
		}
	}
}

// lapsed tells whether the ban would have ended by now.
func (e *Engine) lapsed(h *HeldBan) bool {
	return !h.Until.IsZero() && h.Until.UnixMilli() <= e.now
}

// release makes a held ban.
func (e *Engine) release(k key, h *HeldBan) Decision {
	d := Decision{
		Prefix: h.Prefix, Rule: h.Rule, Count: h.Count, Guard: h.Guard,
		Since: e.time(), Until: h.Until, Evidence: h.Evidence,
	}
	_, number := e.sentence(k, h.Rule, e.now)
	e.ban(k, k, number, &d)
	return d
}

// drop drops the held bans that which names, and returns how many.
func (h *held) drop(which func(*HeldBan) bool) (n int) {
	for k, b := range h.all() {
		if which(b) {
			h.remove(k)
			n++
		}
	}
	return n
}

// Held returns the bans that guards hold, the one held longest first.
func (e *Engine) Held() []HeldBan {
	var list []HeldBan
	for _, h := range e.held.all() {
		if !e.lapsed(h) {
			list = append(list, *h)
		}
	}
	return list
}

// Release makes the held ban of prefix now, whatever the guards say. It tells false where there is none.
func (e *Engine) Release(prefix netip.Prefix, now time.Time) (Decision, bool) {
	e.pass(now.UnixMilli())
	if !prefix.IsValid() {
		return Decision{}, false
	}
	k := keyOf(prefix.Masked())
	h := e.held.get(k)
	if h == nil || e.lapsed(h) {
		return Decision{}, false
	}
	return e.release(k, h), true
}

// ReleaseAll makes all held bans now, whatever the guards say, except of what is never banned.
func (e *Engine) ReleaseAll(now time.Time) []Decision {
	e.pass(now.UnixMilli())
	var list []Decision
	for k, h := range e.held.all() {
		if !e.lapsed(h) && e.never.index(h.Prefix) < 0 {
			list = append(list, e.release(k, h))
		}
	}
	return list
}

// Discard drops the held ban of prefix. It tells false where there is none.
func (e *Engine) Discard(prefix netip.Prefix) bool {
	return prefix.IsValid() && e.held.drop(func(h *HeldBan) bool { return h.Prefix == prefix.Masked() }) > 0
}

// DiscardAll drops all held bans and returns how many there were.
func (e *Engine) DiscardAll() int { return e.held.drop(func(*HeldBan) bool { return true }) }
