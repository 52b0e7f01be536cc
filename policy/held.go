package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// A HeldBan is a ban that a guard holds.
type HeldBan struct {
	Prefix       netip.Prefix
	Guard        Guard
	Rule         *Rule
	Count        int
	Firings      int       // how often a rule wanted it: more than once if the address goes on
	Since, Until time.Time // when a rule wanted to first, and the end of the ban that it last wanted: also if it is made later
	Evidence     []Attempt // the last attempts, five at most

	proof banProof
}

// persists reports whether the address has gone on after its ban was held.
func (h *HeldBan) persists() bool { return h.Firings > 1 && h.proof != onlyUnproven }

// byEvidence compares held bans: that of the address that went on most often first, then the one held longest.
func byEvidence(a, b *HeldBan) int {
	return cmp.Or(cmp.Compare(b.Firings, a.Firings), a.Since.Compare(b.Since), a.Prefix.Compare(b.Prefix))
}

// held are the bans that guards hold, the one that fired longest ago first.
type held struct {
	table[key, HeldBan]
	by      [NumGuards]int // how many each guard holds
	persist [NumGuards]int // and of those that persist
	lost    uint64         // not held any more: there were MaxHeld others
}

// count adds n to the numbers of bans like b.
func (h *held) count(b *HeldBan, n int) {
	h.by[b.Guard] += n
	if b.persists() {
		h.persist[b.Guard] += n
	}
}

// releasable returns how many bans a guard may release: while it is active, and of known-good addresses, those that persist.
func (h *held) releasable(g Guard, active bool) int {
	if active || g == KnownGoodGuard {
		return h.persist[g]
	}
	return h.by[g]
}

// makeRoom drops a ban: of the eight that fired longest ago the first that does not persist, or else the first.
func (h *held) makeRoom() {
	h.lost++
	for range 8 {
		k, b := h.first()
		if !b.persists() {
			break
		}
		h.touch(k)
	}
	k, _ := h.first()
	h.remove(k)
}

// maxHeldEvidence bounds the evidence of each held ban.
const maxHeldEvidence = 5

// firings returns how often a ban of k was held lately.
func (e *Engine) firings(k key, w *window) int {
	n := e.pool.within(w, heldBit, e.now-hourMS)
	if h := e.guards.held.get(k); h != nil {
		n = max(n, h.Firings)
	}
	return n
}

// hold keeps the ban that d describes.
func (e *Engine) hold(k key, d *Decision, proof banProof, firings int) {
	all := &e.guards.held
	h := all.get(k)
	if h == nil {
		if e.guards.of(d.Guard) != nil {
			e.startRateGuard(d.Guard)
		}
		if all.length >= all.limit {
			all.makeRoom()
		}
		h = all.touch(k)
		h.Prefix, h.Since = d.Prefix, d.Since
	} else {
		all.count(h, -1)
		all.touch(k)
	}
	h.Guard, h.Firings = d.Guard, firings
	if h.Rule == nil || proof != onlyUnproven || !h.Until.IsZero() && !h.Until.After(d.Until) { // forged attempts replace no longer ban
		h.Rule, h.Count, h.Until, h.proof = d.Rule, d.Count, d.Until, proof
		h.Evidence = d.Evidence[max(0, len(d.Evidence)-maxHeldEvidence):]
	}
	all.count(h, 1)
}

// releaseTogether is the least time, in milliseconds, between two searches for bans to release.
const releaseTogether = 500

// releaseHeld makes bans that a guard with a rate held, those with the most evidence first, as many as the rate allows and evenly: while
// the guard is active, and of known-good addresses, only those that persist. New ones do not wait for them: they have an allowance of their
// own. Those that will be over at the time given are dropped.
func (e *Engine) releaseHeld(guard Guard, until int64) {
	r, all := e.guards.of(guard), &e.guards.held
	if r.nextRelease > e.now || e.replay.active || all.releasable(guard, r.active) == 0 {
		return
	}
	var list []*HeldBan
	for k, h := range all.all() {
		switch {
		case h.Guard != guard:
		case h.endedBy(until) || guard == RateGuard && e.isKnown(k) || e.never.index(h.Prefix) >= 0:
			all.remove(k)
		case h.persists() || !r.active && guard == RateGuard:
			list = append(list, h)
		}
	}
	slices.SortFunc(list, byEvidence)
	if step := r.step(); step > 0 {
		list = list[:min(len(list), max(int(releaseTogether/step), 1))]
	}
	for _, h := range list {
		r.nextRelease = max(r.nextRelease, e.now-minuteMS) + r.step()
		e.pending.decisions = append(e.pending.decisions, e.release(keyOf(h.Prefix), h))
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

// Held returns the bans that guards hold, those with the most evidence first.
func (e *Engine) Held() []HeldBan {
	var list []HeldBan
	for _, h := range e.guards.held.all() {
		if !h.endedBy(e.now) {
			list = append(list, *h)
		}
	}
	slices.SortFunc(list, func(a, b HeldBan) int { return byEvidence(&a, &b) })
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
