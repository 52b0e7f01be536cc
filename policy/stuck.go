package policy

import (
	"hash/maphash"
	"time"
)

// A phone is one user at one known-good address.
type phone struct {
	address key
	user    uint32
}

func (p phone) hash(seed maphash.Seed) uint64 { return maphash.Comparable(seed, p) }

// countPhoneFailure counts a failure at a known-good address for its phone, and reports a stuck phone.
func (e *Engine) countPhoneFailure(s *observation, t *tracker) {
	if e.guards.outage.active {
		e.countOutageFailure(s)
		return
	}
	if e.opts.StuckAfter < 0 {
		return
	}
	p := phone{s.knownKey, s.user}
	if old := e.stuck.get(p); old != nil && !e.silent(old) {
		old = e.stuck.touch(p)
		old.Count++
		old.Last = later(old.Last, s.At)
		return
	}
	n, since := e.phoneFailures(s, t)
	if n < min(e.opts.StuckAfter, e.opts.OfficeMaxRetry) {
		return
	}
	found := StuckPhone{
		Addr: s.Addr, User: s.User, Domain: s.Domain, UserAgent: s.UserAgent,
		Count: n, Since: since, Last: later(since, s.At),
	}
	*e.stuck.touch(p) = found
	e.pending.reports = append(e.pending.reports, found)
}

// outageStuck times StuckAfter failures within OfficeFindTime are a stuck phone during an outage: all phones fail then, but slowly.
const outageStuck = 5

// countOutageFailure counts a failure during an outage for its phone. One that fails OfficeMaxRetry times within OfficeFindTime is no phone
// that waits for the back end: nobody guesses passwords behind an outage.
func (e *Engine) countOutageFailure(s *observation) {
	p := e.guards.outage.phones.touch(phone{s.knownKey, s.user})
	if e.now-p.since >= e.opts.OfficeFindTime.Milliseconds() {
		p.since, p.count = e.now, 0
	}
	p.count++
	if n := int(p.count); !p.reported && e.opts.StuckAfter >= 0 && n >= min(outageStuck*e.opts.StuckAfter, e.opts.OfficeMaxRetry) {
		p.reported = true
		found := StuckPhone{
			Addr: s.Addr, User: s.User, Domain: s.Domain, UserAgent: s.UserAgent, Count: n, Since: time.UnixMilli(p.since), Last: s.At,
		}
		*e.stuck.touch(phone{s.knownKey, s.user}) = found
		e.pending.reports = append(e.pending.reports, found)
	}
	if int(p.count) >= e.opts.OfficeMaxRetry {
		p.count, s.ceiling = 0, true
	}
}

// phoneFailures returns the number of failures of the user of s at a known-good address, and the time of the first.
func (e *Engine) phoneFailures(s *observation, t *tracker) (n int, since time.Time) {
	newest, oldest := int64(0), int64(maxTime)
	for h := range e.pool.hits(&t.window) {
		if h.rules()&e.rules.office != 0 {
			newest = max(newest, h.at())
		}
	}
	for h := range e.pool.hits(&t.window) {
		if h.rules()&e.rules.office != 0 && h.sameUser(s.user) && h.at() > newest-e.opts.OfficeFindTime.Milliseconds() {
			n++
			oldest = min(oldest, h.at())
		}
	}
	return n, time.UnixMilli(oldest)
}

// endStuckPhone ends the episode of a stuck phone after the right password.
func (e *Engine) endStuckPhone(s *observation) { e.stuck.remove(phone{s.knownKey, s.user}) }

// silent tells whether p has not failed for so long that it is not stuck any more.
func (e *Engine) silent(p *StuckPhone) bool {
	return e.now-p.Last.UnixMilli() >= e.opts.StuckSilence.Milliseconds()
}

// StuckPhones returns the stuck phones of now, the one that failed last at the end.
func (e *Engine) StuckPhones() []StuckPhone {
	var list []StuckPhone
	for _, p := range e.stuck.all() {
		if !e.silent(p) {
			list = append(list, *p)
		}
	}
	return list
}

// forgedAfter is how many forged failures are worth a report: a phone that changes networks has one.
const forgedAfter = 10

// forged counts failures of known-good and never-ban addresses that nothing proves.
type forged struct {
	known, never uint64         // since the start
	episode      ForgedFailures // the last one
	next         uint64         // number of the failure that is reported next
}

// observeForged counts a failure in the name of a known-good or never-ban address.
func (e *Engine) observeForged(s *observation, d *Decision) {
	if s.Kind.Forgeable() || s.Kind == AuthSuccess {
		return
	}
	d.Verdict = Forged
	f := &e.guards.forged
	if s.never >= 0 {
		d.Never = &e.never.entries[s.never]
		f.never++
	} else {
		f.known++
	}
	if f.episode.Count == 0 || e.time().Sub(f.episode.Last) >= time.Hour {
		f.episode, f.next = ForgedFailures{Since: e.time()}, forgedAfter
	}
	f.episode.Count++
	f.episode.Addr, f.episode.Last = s.Addr, e.time()
	if f.episode.Count == f.next {
		f.next *= 10
		e.pending.reports = append(e.pending.reports, f.episode)
	}
}

// ForgedFailures returns the episode of forged failures that goes on. It returns false if there were fewer than 10 within an hour.
func (e *Engine) ForgedFailures() (ForgedFailures, bool) {
	f := e.guards.forged.episode
	return f, f.Count >= forgedAfter && e.time().Sub(f.Last) < time.Hour
}
