package policy

import (
	"math"
	"slices"
)

// outage watches for many known-good addresses that fail together.
type outage struct {
	active  bool
	since   int64
	until   int64                 // when it ends, if it is not seen again
	failing table[account, int64] // accounts whose known-good addresses fail: when last
	phones  table[phone, phoneFailures]
	banned  []bannedKnown // known-good addresses banned within OutageWindow, oldest first
}

// A bannedKnown is a known-good address that was banned within OutageWindow.
type bannedKnown struct {
	key, knownKey key
	record        knownRecord
	at            int64
}

// maxBannedKnown bounds the number of them.
const maxBannedKnown = 1000

// phoneFailures count the failures of a phone during an outage, in windows of OfficeFindTime.
type phoneFailures struct {
	since    int64 // begin of the window
	count    int32
	reported bool
}

// maxOutagePhones bounds the phones that are counted during an outage: those that failed last.
const maxOutagePhones = 8192

func newOutage() outage {
	return outage{failing: newTable[account, int64](0, nil), phones: newTable[phone, phoneFailures](0, nil)}
}

// observeFailure applies an auth_failure before it is counted: it answers a challenge, and counts for the outage guard and for its user.
func (e *Engine) observeFailure(s *observation) {
	e.waiting.answer(s.key, s.user)
	if s.known && !s.unproven() {
		e.known.noteSeen(e.known.get(s.knownKey), s.ms)
		e.watchOutage(s)
	}
	e.countUserFailure(s)
}

func (e *Engine) watchOutage(s *observation) {
	o := &e.guards.outage
	if e.opts.OutageMin < 0 {
		return
	}
	h := e.known.get(s.knownKey)
	if h.since > e.now-e.opts.OutageKnownFor.Milliseconds() {
		return
	}
	*o.failing.touch(h.owner) = e.now // all without one count as one
	if e.failingKnownGood() < e.outageLimit() {
		return
	}
	o.until = e.now + e.opts.OutageHold.Milliseconds()
	if !o.active {
		o.active, o.since = true, e.now
		e.pending.reports = append(e.pending.reports, e.guardChange(OutageGuard, 0))
		e.liftBans()
	}
}

// rememberKnownBan records the ban of a known-good address.
func (e *Engine) rememberKnownBan(k, home key, was knownRecord) {
	o := &e.guards.outage
	old := 0
	for old < len(o.banned) && (o.banned[old].at <= e.now-e.opts.OutageWindow.Milliseconds() || len(o.banned)-old >= maxBannedKnown) {
		old++
	}
	o.banned = append(slices.Delete(o.banned, 0, old), bannedKnown{k, home, was, e.now})
}

// liftBans lifts the bans of known-good addresses made just before the outage was recognized: an address shared by many phones is
// banned first.
func (e *Engine) liftBans() {
	for _, b := range e.guards.outage.banned {
		if b.at <= e.now-e.opts.OutageWindow.Milliseconds() {
			continue
		}
		left, _ := e.withdrawOffence(b.key)
		e.setKnown(b.knownKey, b.record)
		e.pending.decisions = append(e.pending.decisions, Decision{
			Verdict: Lift, Prefix: b.key.prefix(), Guard: OutageGuard, Offence: left.Count, KnownGood: true, KnownGoodChanged: true,
		})
	}
	e.guards.outage.banned = nil
}

// failingKnownGood returns the number of accounts whose known-good addresses failed within OutageWindow.
func (e *Engine) failingKnownGood() int {
	f := &e.guards.outage.failing
	for k, last := f.first(); last != nil && *last <= e.now-e.opts.OutageWindow.Milliseconds(); k, last = f.first() {
		f.remove(k)
	}
	return f.length
}

// outageLimit returns how many known-good addresses that fail are an outage.
func (e *Engine) outageLimit() int {
	return max(e.opts.OutageMin, int(math.Ceil(e.opts.OutageShare*float64(e.known.active(e.now)))))
}

// endOutageGuard ends the outage guard when its time is over, and drops the bans that it held: the phones were not at fault.
func (e *Engine) endOutageGuard() {
	if !e.guards.outage.active || e.now < e.guards.outage.until {
		return
	}
	dropped := e.guards.held.drop(func(h *HeldBan) bool { return h.Guard == OutageGuard })
	e.guards.outage.active, e.guards.outage.phones = false, newOutage().phones
	e.guards.outage.phones.limit = maxOutagePhones
	e.pending.decisions = append(e.pending.decisions, Decision{Reports: []Report{e.guardChange(OutageGuard, dropped)}})
}

// rateGuards are the guards with a rate.
var rateGuards = [...]Guard{RateGuard, KnownGoodGuard}

// rate watches how many bans rules make in a period.
type rate struct {
	active      bool
	since       int64
	lastHeld    int64   // when a prefix was last held that was not held before
	nextRelease int64   // when the next held ban may be made; each one moves it by a step
	period      int64   // milliseconds
	bans        []int64 // a ring of the times of the last bans: as many as may be made in a period; empty: off
	at          int     // the oldest of them
}

// set puts another limit and period into force. The bans of the last period count against it.
func (r *rate) set(limit int, period int64) {
	r.period = period
	if limit = max(limit, 0); limit == len(r.bans) {
		return
	}
	last := slices.Concat(r.bans[r.at:], r.bans[:r.at]) // oldest first
	r.bans = make([]int64, limit)
	r.clear()
	n := min(len(last), limit)
	copy(r.bans[limit-n:], last[len(last)-n:])
}

// clear forgets the bans of the last period.
func (r *rate) clear() {
	r.at = 0
	for i := range r.bans {
		r.bans[i] = math.MinInt64 / 2
	}
}

// allow reports whether one more ban may be made now, and counts it.
func (r *rate) allow(now int64) bool {
	if len(r.bans) == 0 {
		return true
	}
	if r.bans[r.at] > now-r.period {
		return false
	}
	r.add(now)
	return true
}

// step returns the time between two released bans, in milliseconds: as many as may be made in a period, evenly.
func (r *rate) step() int64 {
	if len(r.bans) == 0 {
		return 0
	}
	return max(r.period/int64(len(r.bans)), 1)
}

// allowPersistent reports whether one more ban of an address that goes on after its ban was held may be made now, and counts it. Such
// bans share the pace of released ones, and may be a tenth of the allowance ahead of it.
func (r *rate) allowPersistent(now int64) bool {
	if r.nextRelease > now+int64(max(len(r.bans)/10, 1)-1)*r.step() {
		return false
	}
	r.nextRelease = max(r.nextRelease, now) + r.step()
	return true
}

// add counts a ban, in the order of their times.
func (r *rate) add(at int64) {
	if len(r.bans) > 0 {
		r.bans[r.at] = at
		r.at = (r.at + 1) % len(r.bans)
	}
}

// full reports whether as many bans as may be made in a period were made in the one before at.
func (r *rate) full(at int64) bool {
	for _, ban := range r.bans {
		if ban > at || ban <= at-r.period {
			return false
		}
	}
	return len(r.bans) > 0
}

// inPeriod returns how many bans were made in the last period.
func (r *rate) inPeriod(now int64) (n int) {
	for _, at := range r.bans {
		if at > now-r.period {
			n++
		}
	}
	return n
}

// holdingGuard returns the guard that holds a ban of s, or NoGuard; then the ban counts for the ban rate. A ban of a prefix that is
// banned already is no new ban, and nobody can forge a proven one. An address that goes on after its ban was held has an allowance of its
// own, unless the ban needs attempts with NoProof: to hold the ban of a guesser, a flood must go on from as many addresses, too.
func (e *Engine) holdingGuard(s *observation, proof banProof, firings int) Guard {
	guard := RateGuard
	if s.known {
		guard = KnownGoodGuard
	}
	r := e.guards.of(guard)
	switch {
	case s.known && e.guards.outage.active && s.Kind == AuthFailure && !s.ceiling:
		return OutageGuard
	case e.replay.active:
		return guard
	case proof == allHits:
		return NoGuard
	case e.inForce(s.key, e.now):
		return NoGuard
	case firings > 1 && proof != onlyUnproven && r.allowPersistent(e.now):
		return NoGuard
	case r.allow(e.now):
		return NoGuard
	}
	return guard
}

// startRateGuard records that another prefix is held. In a replay the known_good guard starts and ends as it did, because its end drops
// held bans.
func (e *Engine) startRateGuard(guard Guard) {
	r := e.guards.of(guard)
	r.lastHeld = e.now
	if !r.active && (guard == KnownGoodGuard || !e.replay.active) {
		r.active, r.since = true, e.now
		e.pending.reports = append(e.pending.reports, e.guardChange(guard, 0))
	}
}

// endRateGuard ends a guard when it has held no other prefix for a minute. Held bans of known-good addresses that do not persist are
// dropped.
func (e *Engine) endRateGuard(guard Guard) {
	r := e.guards.of(guard)
	if !r.active || e.now < r.lastHeld+minuteMS {
		return
	}
	r.active = false
	r.nextRelease = max(r.nextRelease, r.lastHeld+minuteMS)
	dropped := 0
	if guard == KnownGoodGuard {
		dropped = e.guards.held.drop(func(h *HeldBan) bool { return h.Guard == guard && !h.persists() })
	}
	e.pending.decisions = append(e.pending.decisions, Decision{Reports: []Report{e.guardChange(guard, dropped)}})
}

// guardChange reports the state of a guard.
func (e *Engine) guardChange(g Guard, dropped int) GuardChange {
	s := e.guardState(g)
	return GuardChange{Guard: g, Active: s.Active, Current: s.Current, Limit: s.Limit, Held: s.Held, Dropped: dropped, At: e.time()}
}
