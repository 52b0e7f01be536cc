package policy

import (
	"hash/maphash"
	"math"
	"slices"
	"time"
)

// users holds the users with failures from any address, the one longest not attacked first. A user is the claimed name with the claimed
// domain: the same number of two tenants is two users.
type users struct {
	table[account, user]
	slots            int   // capacity of the failures of all users
	maxSlots         int   // bound of slots: beyond it users are evicted
	findTime         int64 // of a distributed attack, in milliseconds
	keepFor          int64 // failures are kept for this time, in milliseconds
	suspiciousAfter  int
	distributedAfter int
	logins           []SuspiciousLogin // the last ones, oldest first
	names            *users            // by name alone, in any domain; nil in that table itself
}

type user struct {
	name, domain string
	failures     failures
	since        int64 // the distributed attack on it, in unix milliseconds; 0: none
	last         int64 // its last failure
}

const (
	maxLogins    = 256 // suspicious logins remembered
	slotsPerUser = 12  // on average, at MaxUsers
)

func (u *users) init() {
	u.names = new(users)
	u.names.initTable()
	u.initTable()
}

func (u *users) initTable() {
	u.table = newTable[account](0, func(_ account, left *user) { u.slots -= cap(left.failures.prefixes) })
}

// set puts options into force.
func (u *users) set(o *Options) {
	u.limit, u.maxSlots = o.MaxUsers, slotsPerUser*o.MaxUsers
	threshold := func(n int) int {
		if n < 0 {
			return math.MaxInt
		}
		return min(n, maxPrefixes)
	}
	u.suspiciousAfter, u.distributedAfter = threshold(o.SuspiciousAfter), threshold(o.DistributedAfter)
	u.findTime = o.DistributedFindTime.Milliseconds()
	if u.names != nil {
		fewer := *o
		fewer.MaxUsers = max(o.MaxUsers/namesShare, 1)
		u.names.set(&fewer)
	}
	u.keepFor = max(u.findTime, o.SuspiciousFindTime.Milliseconds())
}

// An account is a user of a domain: a hash of both.
type account uint64

func (e *Engine) account(name, domain string) account {
	return account(maphash.String(e.seed, name)*31 + maphash.String(e.seed, domain))
}

func (a account) hash(maphash.Seed) uint64 { return uint64(a) }

// countUserFailure counts a failure for its user. Those of known-good addresses during an outage, and attempts without a user, are ignored.
func (e *Engine) countUserFailure(s *observation) {
	if s.User == "" || e.guards.outage.active && s.known {
		return
	}
	u := e.users.touch(e.account(s.User, s.Domain))
	u.name, u.domain, u.last = s.User, s.Domain, max(u.last, s.ms)
	n := uint16(1)
	if s.unproven() { // an attack, of whomever: no evidence against a login from there
		n = 0
	}
	e.users.addFailure(u, e.prefixID(s), n, s.ms)
	defer func() { e.countNameFailure(s, u, n) }()
	switch list := u.failures.since(u.last - e.users.findTime); {
	case u.since != 0 && len(list) < (e.users.distributedAfter+1)/2:
		u.since = 0
	case u.since == 0 && len(list) >= e.users.distributedAfter:
		u.since = max(min(u.last, list[0].last), 1)
		e.pending.reports = append(e.pending.reports, u.attack(len(list)))
	}
}

// addFailure counts n failures of a user, and evicts the users longest not attacked while all have too many slots.
func (u *users) addFailure(to *user, prefix prefixID, n uint16, at int64) {
	slots := cap(to.failures.prefixes)
	to.failures.add(prefix, n, at, u.keepFor)
	u.slots += cap(to.failures.prefixes) - slots
	for u.slots > u.maxSlots && u.length > 1 {
		u.evict()
	}
}

// compact releases memory after most users were removed.
func (u *users) compact() {
	if !u.table.compact() {
		return
	}
	for _, moved := range u.all() {
		moved.failures.moved()
	}
}

// DistributedAttacks returns the attacks that are going on.
func (e *Engine) DistributedAttacks() []DistributedAttack {
	var list []DistributedAttack
	for _, u := range e.users.all() {
		if e.underAttack(u) {
			list = append(list, u.attack(len(u.failures.since(e.now-e.users.findTime))))
		}
	}
	for _, u := range e.users.names.all() {
		known := func(a DistributedAttack) bool { return a.User == u.name }
		if now := len(u.failures.since(e.now - e.users.names.findTime)); u.domain == anyDomain && u.since != 0 &&
			now >= (e.users.names.distributedAfter+1)/2 && !slices.ContainsFunc(list, known) {
			list = append(list, u.attack(now))
		}
	}
	return list
}

// underAttack reports whether a distributed attack on u was reported and is going on.
func (e *Engine) underAttack(u *user) bool {
	return u.since != 0 && len(u.failures.since(e.now-e.users.findTime)) >= (e.users.distributedAfter+1)/2
}

func (u *user) attack(prefixes int) DistributedAttack {
	return DistributedAttack{User: u.name, Domain: u.domain, Addresses: prefixes, Since: time.UnixMilli(u.since), Last: time.UnixMilli(u.last)}
}

// users.names watches users by name alone, in whatever domain: a peer can choose the domain of each failure, and FreeSWITCH may check the
// user in another one. Failures of known-good addresses do not count here: the phones of many tenants have the same numbers.

// namesShare is the part of MaxUsers that is the bound of names.
const namesShare = 32

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
