package policy

import "math"

// users.names watches users by name alone, in whatever domain: a peer can choose the domain of each failure, and FreeSWITCH may check the
// user in another one. Failures of known-good addresses do not count here: the phones of many tenants have the same numbers.

// namesShare is the part of MaxUsers that is the bound of names.
const namesShare = 8

// anyDomain is the domain of a name that strangers failed on in several ones.
const anyDomain = "*"

func (e *Engine) nameOf(name string) account { return e.account(name, anyDomain) }

// countNameFailure counts a stranger's failure for the name of its user, in any domain. exact is the user in its domain; count is 0 if the
// failure is no evidence against a login. An attack that is
// reported for that one, or in one domain alone, is not reported again.
func (e *Engine) countNameFailure(s *observation, exact *user, count uint16) {
	if s.known {
		return
	}
	n := e.users.names
	u := n.touch(e.nameOf(s.User))
	switch { // a source may not know the domain
	case len(u.failures.prefixes) == 0 || u.domain == "":
		u.domain = s.Domain
	case s.Domain != "" && u.domain != s.Domain:
		u.domain = anyDomain
	}
	u.name, u.last = s.User, max(u.last, s.ms)
	n.addFailure(u, e.prefixID(s), count, s.ms)
	list := u.failures.since(u.last - n.findTime)
	switch {
	case exact.since != 0 && u.since == 0:
		u.since = exact.since
	case u.since != 0 && len(list) < (n.distributedAfter+1)/2:
		u.since = 0
	case u.since == 0 && u.domain == anyDomain && len(list) >= n.distributedAfter:
		u.since = max(min(u.last, list[0].last), 1)
		e.pending.reports = append(e.pending.reports, u.attack(len(list)))
	}
}

// evidenceByName returns the evidence against a login that the failures on its user's name give, in whatever domain, and false if they
// were in one domain alone: then they are those of an account.
func (e *Engine) evidenceByName(s *observation) (nameEvidence, bool) {
	u := e.users.names.get(e.nameOf(s.User))
	if s.User == "" || u == nil || u.domain != anyDomain {
		return nameEvidence{}, false
	}
	var v nameEvidence
	own := e.prefixID(s)
	for _, p := range u.failures.since(max(s.ms, u.last) - e.opts.SuspiciousFindTime.Milliseconds()) {
		v.prefixes++
		v.total = min(v.total+int(p.count), math.MaxInt32)
		if p.id.network() == own.network() {
			v.own += int(p.count)
		}
	}
	v.own = max(v.own, e.ownFailures(s)) // under an attack from many addresses the list above holds only the last ones
	v.attacked = u.since != 0 && len(u.failures.since(e.now-e.users.names.findTime)) >= (e.users.names.distributedAfter+1)/2
	return v, true
}

// ownFailures returns the failures of the address of s on its user within the windows of its rules.
func (e *Engine) ownFailures(s *observation) (n int) {
	t := e.trackers.get(s.key)
	if t == nil {
		return 0
	}
	for h := range e.pool.hits(&t.window) {
		if h.subject&(failed|unproven) == failed && h.sameUser(s.user) {
			n++
		}
	}
	return n
}

// A nameEvidence is the failures on a user within SuspiciousFindTime.
type nameEvidence struct {
	prefixes, total, own int
	attacked             bool
}
