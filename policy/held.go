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

	proof banProof
}

// held are the bans that guards hold, the one held longest first.
type held struct {
	table[key, HeldBan]
	by   [NumGuards]int // how many each guard holds
	lost uint64         // not held: there were MaxHeld already
}

// maxHeldEvidence bounds the evidence of each held ban.
const maxHeldEvidence = 5

// hold keeps the ban that d describes.
func (e *Engine) hold(k key, d *Decision, proof banProof) {
	h := e.guards.held.get(k)
	if h == nil && d.Guard == RateGuard {
		e.startRateGuard()
	}
	switch {
	case h == nil && e.guards.held.length >= e.guards.held.limit:
		e.guards.held.lost++
		return
	case h == nil:
		h = e.guards.held.touch(k)
		h.Prefix, h.Since = d.Prefix, d.Since
	default:
		e.guards.held.by[h.Guard]--
	}
	e.guards.held.by[d.Guard]++
	h.Guard = d.Guard
	if h.Rule != nil && proof == onlyUnproven && (h.Until.IsZero() || h.Until.After(d.Until)) {
		return // forged attempts must not replace a longer ban
	}
	h.Rule, h.Count, h.Until, h.proof = d.Rule, d.Count, d.Until, proof
	h.Evidence = d.Evidence[max(0, len(d.Evidence)-maxHeldEvidence):]
}

// releaseHeld makes bans that the ban-rate guard held, oldest first, BanRate a minute and evenly. New ones do not wait for
// them: they have a minute's allowance of their own. Those that will be over at the time given are dropped.
func (e *Engine) releaseHeld(until int64) {
	r := &e.guards.rate
	if r.active || r.nextRelease > e.now || e.guards.held.by[RateGuard] == 0 || e.replay.active {
		return
	}
	step := int64(0)
	if len(r.bans) > 0 {
		step = max(minuteMS/int64(len(r.bans)), 1)
	}
	for k, h := range e.guards.held.all() {
		switch {
		case h.Guard != RateGuard:
		case h.endedBy(until) || e.isKnown(k) || e.never.index(h.Prefix) >= 0:
			e.guards.held.remove(k)
		case r.nextRelease > e.now:
			return
		default:
			r.nextRelease = max(r.nextRelease, e.now-minuteMS) + step
			e.pending.decisions = append(e.pending.decisions, e.release(k, h))
		}
	}
}

// endedBy reports whether the ban would have ended by a time.
func (h *HeldBan) endedBy(ms int64) bool {
	return !h.Until.IsZero() && h.Until.UnixMilli() <= ms
}

// release makes a held ban.
func (e *Engine) release(k key, h *HeldBan) Decision {
	d := Decision{
		Prefix: h.Prefix, Rule: h.Rule, Count: h.Count, Guard: h.Guard,
		Since: e.time(), Until: h.Until, Evidence: h.Evidence,
	}
	_, number := e.banLength(k, h.Rule, h.proof, e.now)
	e.makeBan(k, k, number, e.now, h.proof, &d)
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
	for _, h := range e.guards.held.all() {
		if !h.endedBy(e.now) {
			list = append(list, *h)
		}
	}
	return list
}

// Release makes the held ban of prefix now, regardless of the guards. It returns false if there is none.
func (e *Engine) Release(prefix netip.Prefix, now time.Time) (Decision, bool) {
	e.advanceTo(now.UnixMilli())
	if !prefix.IsValid() {
		return Decision{}, false
	}
	k := keyOf(prefix.Masked())
	h := e.guards.held.get(k)
	if h == nil || h.endedBy(e.now) {
		return Decision{}, false
	}
	return e.release(k, h), true
}

// ReleaseAll makes all held bans now, regardless of the guards, except of never-ban prefixes.
func (e *Engine) ReleaseAll(now time.Time) []Decision {
	e.advanceTo(now.UnixMilli())
	var list []Decision
	for k, h := range e.guards.held.all() {
		if !h.endedBy(e.now) && e.never.index(h.Prefix) < 0 {
			list = append(list, e.release(k, h))
		}
	}
	return list
}

// Discard drops the held ban of prefix. It returns false if there is none.
func (e *Engine) Discard(prefix netip.Prefix) bool {
	return prefix.IsValid() && e.guards.held.drop(func(h *HeldBan) bool { return h.Prefix == prefix.Masked() }) > 0
}

// DiscardAll drops all held bans and returns how many there were.
func (e *Engine) DiscardAll() int { return e.guards.held.drop(func(*HeldBan) bool { return true }) }
