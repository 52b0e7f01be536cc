package policy

import (
	"hash/maphash"
	"time"
)

// A phone is one user at one known-good address.
type phone struct {
	home key
	who  uint32
}

func (p phone) hash(seed maphash.Seed) uint64 { return maphash.Comparable(seed, p) }

// failedAtHome sees whether a failure from a known-good address is one of a stuck phone. While a back end is down none is:
// then they all fail.
func (e *Engine) failedAtHome(s *sight, t *tracker) {
	if e.opts.StuckAfter < 0 || e.outage.active {
		return
	}
	p := phone{s.home, s.who}
	if old := e.stuck.get(p); old != nil && !e.silent(old) {
		old = e.stuck.touch(p)
		old.Count++
		old.Last = later(old.Last, s.At)
		return
	}
	n, since := e.failuresAtHome(s, t)
	if n < min(e.opts.StuckAfter, e.opts.OfficeMaxRetry) {
		return
	}
	found := StuckPhone{
		Addr: s.Addr, User: s.User, Domain: s.Domain, UserAgent: s.UserAgent,
		Count: n, Since: since, Last: later(since, s.At),
	}
	*e.stuck.touch(p) = found
	e.reports = append(e.reports, found)
}

// failuresAtHome counts how often the user of s fails at a known-good address, and since when.
func (e *Engine) failuresAtHome(s *sight, t *tracker) (n int, since time.Time) {
	newest, oldest := int64(0), int64(maxTime)
	for h := range e.pool.hits(&t.window) {
		if h.rules&e.rules.office != 0 {
			newest = max(newest, h.at())
		}
	}
	for h := range e.pool.hits(&t.window) {
		if h.rules&e.rules.office != 0 && h.who == s.who && h.at() > newest-e.opts.OfficeFindTime.Milliseconds() {
			n++
			oldest = min(oldest, h.at())
		}
	}
	return n, time.UnixMilli(oldest)
}

// well ends the episode of a stuck phone: its user has shown the right password.
func (e *Engine) well(s *sight) { e.stuck.remove(phone{s.home, s.who | failed}) }

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
