package policy

import (
	"iter"
	"math"
	"math/bits"
	"time"
)

const (
	minuteMS = int64(time.Minute / time.Millisecond)
	hourMS   = int64(time.Hour / time.Millisecond)
	dayMS    = 24 * hourMS
)

// Advance passes time until now and returns what is due: bans for unanswered challenges, bans that a guard held, bans that are
// lifted, and guards that end. It must be called about once a second. Observe passes time too, and keeps what is due for the
// next call of Advance or Due: at most BanRate bans a minute, and a decision for each unanswered challenge.
//
// Advance notices a clock that was set back by more than two minutes, as StepClock does exactly. After it returns, no remembered time
// is more than two minutes after now.
func (e *Engine) Advance(now time.Time) []Decision {
	ms := now.UnixMilli()
	switch latest := ms + 2*minuteMS; {
	case e.clock.last > latest:
		e.retime(ms-e.clock.last, ms)
	case e.clock.last == 0 && e.now > latest && e.now-ms <= dayMS: // the clock was set back while no engine ran
		e.retime(ms-e.now, ms)
	case max(e.now, e.clock.newest) > latest: // one attempt or record from the future
		e.retime(0, ms)
	}
	if r := &e.guards.rate; e.clock.last == 0 && len(r.bans) > 0 && e.guards.held.by[RateGuard] > 0 {
		r.active, r.since = true, max(r.since, r.lastHeld) // as before the restart
	}
	e.clock.last, e.clock.newest = ms, 0
	e.advanceTo(ms)
	e.removeExpired()
	return e.Due()
}

// Due returns the decisions that have become due since the last call of Advance or Due, without passing time.
func (e *Engine) Due() []Decision {
	ready := e.pending.decisions
	e.pending.decisions = nil
	return ready
}

// advanceTo passes time until now. Every due decision is made at its own time, however large the step is.
func (e *Engine) advanceTo(now int64) {
	for now = max(now, e.now); ; {
		c, challenge := e.waiting.first()
		at := e.nextGuardTime()
		switch {
		case challenge && c.due <= min(now, at):
			e.now = max(e.now, c.due)
			if c := e.waiting.removeOldest(); !c.answered {
				e.countUnanswered(c)
			}
		case at <= now:
			e.now = max(e.now, at)
			e.endOutageGuard()
			for _, guard := range rateGuards {
				e.endRateGuard(guard)
				e.releaseHeld(guard, now)
			}
		default:
			e.now = now
			return
		}
	}
}

// nextGuardTime returns the next time at which a guard is due.
func (e *Engine) nextGuardTime() int64 {
	at := int64(math.MaxInt64)
	if e.guards.outage.active {
		at = e.guards.outage.until
	}
	for _, guard := range rateGuards {
		r := e.guards.of(guard)
		if r.active {
			at = min(at, r.lastHeld+minuteMS)
		}
		if e.guards.held.releasable(guard, r.active) > 0 && !e.replay.active {
			at = min(at, r.nextRelease)
		}
	}
	return at
}

const (
	// sweepSize is the number of entries of each table that one call of Advance checks for expiry.
	sweepSize = 256
	// lateBy is how late an attempt may arrive and still meet all earlier attempts of its window.
	lateBy = hourMS
)

// removeExpired removes entries that have expired, and releases the memory of tables that have become almost empty. Decisions do
// not depend on it.
func (e *Engine) removeExpired() {
	for k, p := e.stuck.first(); p != nil && e.silent(p); k, p = e.stuck.first() {
		e.stuck.remove(k)
	}
	e.trackers.sweep(sweepSize, e.windowExpired)
	e.users.sweep(sweepSize, e.userExpired)
	e.users.names.sweep(sweepSize, e.userExpired)
	e.known.sweep(sweepSize, e.recordExpired)
	e.offences.sweep(sweepSize, func(o *offence) bool { return e.offenceExpired(o, e.now) })
	e.graces.expire(e.now)
	e.failingKnownGood()

	e.trackers.compact()
	e.pool.compact(e.windows())
	e.users.compact()
	e.users.names.compact()
	e.known.compact()
	e.offences.compact()
	e.offences.wide.sweep(sweepSize, func(r *wideRecord) bool { return e.now >= r.since+wideFindTime })
	e.offences.wide.compact()
	e.waiting.compact()
	e.graces.exact.compact()
	e.stuck.compact()
	e.guards.held.compact()
	e.guards.outage.failing.compact()
}

// windowExpired reports whether t has no attempt that any rule may still count.
func (e *Engine) windowExpired(t *tracker) bool {
	for h := range e.pool.hits(&t.window) {
		for m := h.rules(); m != 0; m &= m - 1 {
			if h.at() > e.now-e.rules.counters.findTime[bits.TrailingZeros32(m)]-lateBy {
				return false
			}
		}
	}
	return true
}

// windows yields the windows of all addresses.
func (e *Engine) windows() iter.Seq[*window] {
	return func(yield func(*window) bool) {
		for _, t := range e.trackers.all() {
			if !yield(&t.window) {
				return
			}
		}
	}
}

// userExpired reports whether u has no failure that may still count.
func (e *Engine) userExpired(u *user) bool {
	return u.last <= e.now-e.users.keepFor-lateBy
}

// time returns the engine's time.
func (e *Engine) time() time.Time { return time.UnixMilli(e.now) }

// unixMilli is t in unix milliseconds, 0 for the zero time.
func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// fromMilli is the time of so many unix milliseconds, the zero time for 0.
func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// StepClock corrects all stored times after the clock was stepped by by, its difference from a monotonic clock since the last
// call of Advance: an attempt of ten seconds ago stays one of ten seconds ago, and a grace that ends in a minute ends in a
// minute. It takes time in proportion to the size of the tables.
func (e *Engine) StepClock(by time.Duration) {
	ms, now := by.Milliseconds(), e.now
	if e.clock.last == 0 { // restored and not advanced yet
		now = max(now, e.clock.newest)
	}
	e.retime(ms, now+ms)
	if e.clock.last == 0 {
		e.clock.newest = 0
	}
	if e.clock.last != 0 {
		e.clock.last += ms
	}
}

// A retiming moves times by so many milliseconds. 0 stays 0: no time.
type retiming struct{ by, now int64 }

// past moves a time in the past: the result is never after now.
func (r retiming) past(ms *int64) {
	if *ms != 0 {
		*ms = max(min(*ms+r.by, r.now), 1)
	}
}

// span moves a begin in the past, and its end by the same difference.
func (r retiming) span(begin, end *int64) {
	was := *begin
	r.past(begin)
	if *end != 0 {
		*end += *begin - was
	}
}

// moment is past for a time.Time.
func (r retiming) moment(t *time.Time) {
	if !t.IsZero() {
		ms := t.UnixMilli()
		r.past(&ms)
		*t = time.UnixMilli(ms)
	}
}

func (r retiming) hit(h *hit) {
	at := h.at()
	r.past(&at)
	*h = newHit(at, h.subject, h.rules())
}

// retime moves everything remembered by so much. It is now then.
func (e *Engine) retime(by, now int64) {
	r := retiming{by, now}
	e.now = now
	r.past(&e.offences.newest)
	for _, chunk := range e.pool.chunks {
		for b := range chunk {
			for i := range chunk[b].hits {
				r.hit(&chunk[b].hits[i])
			}
		}
	}
	for n := e.waiting.oldest; n < e.waiting.next; n++ {
		c := e.waiting.at(n)
		c.due += by
		r.moment(&c.attempt.At)
	}
	e.retimeKnown(r)
	for _, p := range e.stuck.all() {
		r.moment(&p.Since)
		r.moment(&p.Last)
	}
	for _, list := range []*users{&e.users, e.users.names} {
		for _, u := range list.all() {
			r.past(&u.since)
			r.past(&u.last)
			for i := range u.failures.prefixes {
				r.past(&u.failures.prefixes[i].last)
			}
		}
	}
	r.moment(&e.guards.forged.episode.Since)
	r.moment(&e.guards.forged.episode.Last)
	for i := range e.users.logins {
		r.moment(&e.users.logins[i].At)
	}
	for _, w := range e.offences.wide.all() {
		r.past(&w.since)
	}
	for k, o := range e.offences.all() {
		was := *o
		if o.retime(r); *o != was {
			e.unsaved.markOffence(k)
		}
	}
	for _, until := range e.graces.exact.all() {
		*until += by
	}
	for i := range e.graces.others {
		e.graces.others[i].until += by
	}
	e.guards.outage.retime(r)
	e.guards.rate.retime(r)
	e.guards.knownGood.retime(r)
	for _, h := range e.guards.held.all() {
		since, until := unixMilli(h.Since), unixMilli(h.Until)
		r.span(&since, &until)
		h.Since, h.Until = fromMilli(since), fromMilli(until)
	}
}

func (o *outage) retime(r retiming) {
	r.past(&o.since)
	if o.until != 0 {
		o.until += r.by
	}
	for _, at := range o.failing.all() {
		r.past(at)
	}
	for _, p := range o.phones.all() {
		r.past(&p.since)
	}
	for i := range o.banned {
		r.past(&o.banned[i].at)
		o.banned[i].record.retime(r)
	}
}

func (r *rate) retime(by retiming) {
	by.past(&r.since)
	by.past(&r.lastHeld)
	r.nextRelease += by.by
	for i := range r.bans {
		if r.bans[i] > 0 {
			by.past(&r.bans[i])
		}
	}
}
