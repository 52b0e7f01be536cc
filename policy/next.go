package policy

import "slices"

// next fills in what the next auth_failure of the address that s is about would lead to.
func (e *Engine) next(w *Standing, s *sight) {
	phone, tried := lastFailure(w.Evidence)
	phone.Addr, phone.At, phone.Kind = s.Addr, e.time(), AuthFailure
	if tried {
		d := e.foretell(phone)
		w.Next = &d
	}
	phone.User = e.untried(s.key)
	w.Another = e.foretell(phone)
}

// lastFailure returns the newest auth_failure of a list, or what comes last where there is none.
func lastFailure(list []Attempt) (a Attempt, ok bool) {
	for _, a := range slices.Backward(list) {
		if a.Kind == AuthFailure {
			return a, true
		}
	}
	if len(list) == 0 {
		return a, false
	}
	return list[len(list)-1], true
}

// untried returns the name of a user that nothing is counted of in the window of k.
func (e *Engine) untried(k key) string {
	t := e.trackers.get(k)
	for user := "another"; ; user += "'" {
		tried := false
		if t != nil {
			for h := range e.pool.hits(&t.window) {
				tried = tried || h.who&^failed == e.who(user)
			}
		}
		if !tried {
			return user
		}
	}
}

// foretell returns what Observe would decide of a, which is no success and is not newer than what the engine has seen. It
// changes nothing: another engine decides, which knows of this one all that bears on a. Evidence and Reports are left out.
func (e *Engine) foretell(a Attempt) Decision {
	s := e.sight(a)
	d := e.likeness(&s).Observe(a)
	d.Evidence, d.Reports = nil, nil
	return d
}

// likeness returns an engine in which the address of s stands as in e. Of other addresses it knows only what moves the
// guards. It shares with e what an attempt does not change, and what is remembered of user agents.
func (e *Engine) likeness(s *sight) *Engine {
	o := e.opts
	o.KeepEvidence = 1
	l := NewEngine(nil, e.never, o)
	l.rules, l.seed, l.now, l.graces = e.rules, e.seed, e.now, e.graces
	if t := e.trackers.get(s.key); t != nil {
		l.pool.copy(&l.trackers.touch(s.key).window, &e.pool, &t.window)
	}
	l.known.hour, l.known.thisHour, l.known.lastHour = e.known.hour, e.known.thisHour, e.known.lastHour
	copyOf(&l.known.table, &e.known.table, s.home)
	copyOf(&l.offences, &e.offences, s.key)
	l.rate = e.rate
	l.rate.bans = slices.Clone(e.rate.bans)
	l.outage.active, l.outage.since, l.outage.until = e.outage.active, e.outage.since, e.outage.until
	l.outage.banned = slices.Clone(e.outage.banned)
	if s.known && !e.outage.active { // it may be the one too many; they are fewer than outageLimit
		for k, at := range e.outage.failing.all() {
			*l.outage.failing.touch(k) = *at
		}
	}
	return l
}

// copyOf has to know of k what from knows.
func copyOf[V any](to, from *table[key, V], k key) {
	if v := from.get(k); v != nil {
		*to.touch(k) = *v
	}
}
