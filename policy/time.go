package policy

import "time"

const (
	minuteMS = int64(time.Minute / time.Millisecond)
	hourMS   = int64(time.Hour / time.Millisecond)
)

// Advance says that it is now, and returns what that brings about: bans for challenges that nobody answered, bans that a
// guard held and that are made now, bans that are lifted, and guards that end. It must be called about once a second, also
// while a journal is replayed; what Observe finds due is kept for it, without a bound but that of BanRate.
//
// A time before the newest one seen changes nothing, but for one more than two minutes before it: then the clock was set
// back, and the engine follows it.
func (e *Engine) Advance(now time.Time) []Decision {
	if ms := now.UnixMilli(); ms < e.now-2*minuteMS {
		e.setBack(ms)
	}
	e.pass(now.UnixMilli())
	e.forgetOld()
	ready := e.ready
	e.ready = nil
	return ready
}

// pass lets time pass until now: what has become due on the way is done, in its order.
func (e *Engine) pass(now int64) {
	for {
		c, ok := e.waiting.due(max(now, e.now))
		if !ok {
			break
		}
		e.now = max(e.now, c.due)
		e.unanswered(c)
	}
	if now <= e.now {
		return
	}
	e.now = now
	e.endOutage()
	e.endRate()
	e.releaseHeld()
}

// forgetOld drops what has expired. Nothing depends on it but memory, and what is listed.
func (e *Engine) forgetOld() {
	for k, p := e.stuck.first(); p != nil && e.silent(p); k, p = e.stuck.first() {
		e.stuck.remove(k)
	}
	for k, h := e.known.first(); h != nil && e.over(h); k, h = e.known.first() {
		e.known.remove(k)
	}
	e.graces.expire(e.now)
}

// time returns the engine's time.
func (e *Engine) time() time.Time { return time.UnixMilli(e.now) }

// setBack follows a clock that was set back: nothing waits for a time that it would have to reach again.
func (e *Engine) setBack(now int64) {
	e.now = now
	for e.waiting.first < e.waiting.next {
		e.waiting.pop()
	}
	e.graces = newGraces()
	e.rate.clear()
	e.rate.over, e.rate.next = min(e.rate.over, now), min(e.rate.next, now)
	e.outage.until = min(e.outage.until, now+e.opts.OutageHold.Milliseconds())
	for k := range e.outage.failing.all() {
		e.outage.failing.remove(k)
	}
	e.outage.banned = nil
	e.known.hour, e.known.lastHour, e.known.thisHour = now/hourMS, e.known.active(now), 0
}

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
