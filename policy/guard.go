package policy

import (
	"math"
	"slices"
)

// outage watches for many known-good addresses that fail together.
type outage struct {
	active  bool
	since   int64
	until   int64             // when it ends, if it is not seen again
	failing table[key, int64] // known-good addresses that fail: when last
	banned  []bannedHome      // known-good addresses banned within OutageWindow, oldest first
}

// A bannedHome is a known-good address that was banned a moment ago.
type bannedHome struct {
	key, home key
	was       home
	at        int64
}

// maxBannedHomes bounds how many of them are remembered.
const maxBannedHomes = 1000

func newOutage() outage { return outage{failing: newTable[key, int64](0, nil)} }

// failed is what an auth_failure changes before it is counted: a challenge is answered, a back end may be down, and its
// user is under attack.
func (e *Engine) failed(s *sight) {
	e.waiting.answer(s.key, s.who)
	if s.known {
		e.known.see(e.known.get(s.home), e.now)
		e.watchOutage(s)
	}
	e.attacked(s)
}

func (e *Engine) watchOutage(s *sight) {
	o := &e.outage
	if e.opts.OutageMin < 0 {
		return
	}
	*o.failing.touch(s.home) = e.now
	if e.failing() < e.outageLimit() {
		return
	}
	o.until = e.now + e.opts.OutageHold.Milliseconds()
	if !o.active {
		o.active, o.since = true, e.now
		e.reports = append(e.reports, e.change(OutageGuard, 0))
		e.liftBans()
	}
}

// noteBan remembers that a known-good address was banned.
func (e *Engine) noteBan(k, home key, was home) {
	o := &e.outage
	old := 0
	for old < len(o.banned) && (o.banned[old].at <= e.now-e.opts.OutageWindow.Milliseconds() || len(o.banned)-old >= maxBannedHomes) {
		old++
	}
	o.banned = append(slices.Delete(o.banned, 0, old), bannedHome{k, home, was, e.now})
}

// liftBans takes back the bans of known-good addresses that were made just before the outage was seen: where many phones
// share an address it is the first to be banned.
func (e *Engine) liftBans() {
	for _, b := range e.outage.banned {
		if b.at <= e.now-e.opts.OutageWindow.Milliseconds() {
			continue
		}
		left, _ := e.takeBack(b.key)
		*e.known.touch(b.home) = b.was
		e.ready = append(e.ready, Decision{
			Verdict: Lift, Prefix: b.key.prefix(), Guard: OutageGuard, Offence: left.Count, KnownGood: true, KnownChanged: true,
		})
	}
	e.outage.banned = nil
}

// failing returns how many known-good addresses have failed within OutageWindow.
func (e *Engine) failing() int {
	f := &e.outage.failing
	for k, last := f.first(); last != nil && *last <= e.now-e.opts.OutageWindow.Milliseconds(); k, last = f.first() {
		f.remove(k)
	}
	return f.length
}

// outageLimit returns how many known-good addresses that fail are an outage.
func (e *Engine) outageLimit() int {
	return max(e.opts.OutageMin, int(math.Ceil(e.opts.OutageShare*float64(e.known.active(e.now)))))
}

// endOutage ends the outage guard when its time has come. The bans it held are dropped: it was not the phones' fault.
func (e *Engine) endOutage() {
	if !e.outage.active || e.now < e.outage.until {
		return
	}
	dropped := e.held.drop(func(h *HeldBan) bool { return h.Guard == OutageGuard })
	e.outage.active = false
	e.ready = append(e.ready, Decision{Reports: []Report{e.change(OutageGuard, dropped)}})
}

// rate watches how many bans rules make.
type rate struct {
	active bool
	since  int64
	over   int64   // when a prefix was last held that was not held before
	next   int64   // when the next held ban may be made
	bans   []int64 // a ring of the times of the last bans: as many as may be made in a minute; empty: off
	at     int     // the oldest of them
}

// set puts another limit into force. The bans of the last minute count against it.
func (r *rate) set(limit int) {
	if limit = max(limit, 0); limit == len(r.bans) {
		return
	}
	last := slices.Concat(r.bans[r.at:], r.bans[:r.at]) // oldest first
	r.bans = make([]int64, limit)
	r.clear()
	n := min(len(last), limit)
	copy(r.bans[limit-n:], last[len(last)-n:])
}

// clear forgets the bans of the last minute.
func (r *rate) clear() {
	r.at = 0
	for i := range r.bans {
		r.bans[i] = math.MinInt64 / 2
	}
}

// take tells whether one more ban may be made now, and notes it.
func (r *rate) take(now int64) bool {
	if len(r.bans) == 0 {
		return true
	}
	if r.bans[r.at] > now-minuteMS {
		return false
	}
	r.bans[r.at] = now
	r.at = (r.at + 1) % len(r.bans)
	return true
}

// inMinute returns how many bans were made in the last minute.
func (r *rate) inMinute(now int64) (n int) {
	for _, at := range r.bans {
		if at > now-minuteMS {
			n++
		}
	}
	return n
}

// guard returns the guard that holds a ban of s, or none. What none holds counts as made. To ban again who is banned is no
// new ban.
func (e *Engine) guard(s *sight) Guard {
	switch {
	case s.known && e.outage.active:
		return OutageGuard
	case !e.inForce(s.key, e.now) && !e.rate.take(e.now):
		return RateGuard
	}
	return NoGuard
}

// raiseRate notes that a prefix is held that was not held before.
func (e *Engine) raiseRate() {
	r := &e.rate
	r.over = e.now
	if !r.active {
		r.active, r.since = true, e.now
		e.reports = append(e.reports, e.change(RateGuard, 0))
	}
}

// endRate ends the ban-rate guard when for a minute nobody was held who was not held before.
func (e *Engine) endRate() {
	r := &e.rate
	if !r.active || e.now < r.over+minuteMS {
		return
	}
	r.active = false
	r.next = max(r.next, r.over+minuteMS)
	e.ready = append(e.ready, Decision{Reports: []Report{e.change(RateGuard, 0)}})
}

// change reports what a guard does now.
func (e *Engine) change(g Guard, dropped int) GuardChange {
	s := e.guardState(g)
	return GuardChange{Guard: g, Active: s.Active, Now: s.Now, Limit: s.Limit, Held: s.Held, Dropped: dropped, At: e.time()}
}
