package policy

import "slices"

// predictNext fills in the decisions that the next auth_failure of the address of s would lead to.
func (e *Engine) predictNext(w *AddressState, s *observation) {
	phone, tried := lastFailure(w.Evidence)
	phone.Addr, phone.At, phone.Kind = s.Addr, e.time(), AuthFailure
	if tried {
		d := e.predict(phone)
		w.Next = &d
	}
	phone.User = e.unusedUser(s.key)
	w.NextNewUser = e.predict(phone)
}

// lastFailure returns the newest auth_failure of a list, or else its last attempt.
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

// unusedUser returns the name of a user without counts in the window of k.
func (e *Engine) unusedUser(k key) string {
	t := e.trackers.get(k)
	for user := "another"; ; user += "'" {
		tried := false
		if t != nil {
			for h := range e.pool.hits(&t.window) {
				tried = tried || h.sameUser(e.userHash(user))
			}
		}
		if !tried {
			return user
		}
	}
}

// predict returns the decision of Observe on a, which is no success and not newer than the time of the engine. It changes nothing: a
// copy of the engine decides. Evidence and Reports are left out.
func (e *Engine) predict(a Attempt) Decision {
	s := e.examine(a)
	d := e.copyFor(&s).Observe(a)
	d.Evidence, d.Reports = nil, nil
	return d
}

// copyFor returns an engine with the state of the address of s. Of other addresses it has only the state of the guards. It shares
// with e the parts that an attempt does not change, and the cache of user agents.
func (e *Engine) copyFor(s *observation) *Engine {
	o := e.opts
	o.KeepEvidence, o.Records = 1, false
	l := NewEngine(nil, e.never, o)
	l.rules, l.seed, l.now, l.graces = e.rules, e.seed, e.now, e.graces
	if t := e.trackers.get(s.key); t != nil {
		l.pool.copy(&l.trackers.touch(s.key).window, &e.pool, &t.window)
	}
	l.offences.newest, l.known.hour, l.known.thisHour, l.known.lastHour = e.offences.newest, e.known.hour, e.known.thisHour, e.known.lastHour
	copyEntry(&l.known.table, &e.known.table, s.knownKey)
	copyEntry(&l.offences.table, &e.offences.table, s.key)
	copyEntry(&l.offences.table, &e.offences.table, s.knownKey)
	l.guards.rate, l.guards.knownGood = e.guards.rate, e.guards.knownGood
	l.guards.rate.bans, l.guards.knownGood.bans = slices.Clone(e.guards.rate.bans), slices.Clone(e.guards.knownGood.bans)
	l.guards.outage.active, l.guards.outage.since, l.guards.outage.until = e.guards.outage.active, e.guards.outage.since, e.guards.outage.until
	l.guards.outage.banned = slices.Clone(e.guards.outage.banned)
	copyEntry(&l.guards.outage.phones, &e.guards.outage.phones, phone{s.knownKey, s.user})
	if s.known && !e.guards.outage.active { // it may be the one too many; they are fewer than outageLimit
		for k, at := range e.guards.outage.failing.all() {
			*l.guards.outage.failing.touch(k) = *at
		}
	}
	return l
}

// copyEntry copies the entry of k.
func copyEntry[K hashed, V any](to, from *table[K, V], k K) {
	if v := from.get(k); v != nil {
		*to.touch(k) = *v
	}
}
