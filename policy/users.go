package policy

import (
	"hash/maphash"
	"math"
	"slices"
	"time"
)

// users are the users that failed lately, wherever from, the one longest unattacked first. A user here is what the peer
// claimed with the domain that it claimed: the same number of two tenants is two users.
type users struct {
	table[account, user]
	places           int   // that the failures of all have together
	maxPlaces        int   // beyond them users are forgotten
	findTime         int64 // of a distributed attack, in milliseconds
	keep             int   // of each user's newest failures
	suspiciousAfter  int
	distributedAfter int
	logins           []SuspiciousLogin // the last ones, oldest first
}

type user struct {
	name, domain string
	failures     failures
	since        int64 // the distributed attack on it, in unix milliseconds; 0: none
	last         int64 // its last failure
}

const (
	maxLogins     = 256 // suspicious logins remembered
	placesOfAUser = 16  // on average, at MaxUsers
)

func (u *users) init() {
	u.table = newTable[account](0, func(left *user) { u.places -= cap(left.failures.hits) })
}

// set puts options into force.
func (u *users) set(o *Options) {
	u.limit, u.maxPlaces = o.MaxUsers, placesOfAUser*o.MaxUsers
	threshold := func(n int) int {
		if n < 0 {
			return math.MaxInt
		}
		return min(n, maxPrefixes)
	}
	u.suspiciousAfter, u.distributedAfter = threshold(o.SuspiciousAfter), threshold(o.DistributedAfter)
	u.findTime, u.keep = o.DistributedFindTime.Milliseconds(), 0
	if o.SuspiciousAfter > 0 {
		u.keep = u.suspiciousAfter
	}
}

// An account is a user of a domain: a hash of both.
type account uint64

func (e *Engine) account(name, domain string) account {
	return account(maphash.String(e.seed, name)*31 + maphash.String(e.seed, domain))
}

func (a account) hash(maphash.Seed) uint64 { return uint64(a) }

// attacked notes a failure of its user. While a back end is down failures say nothing of users. What carries no user is
// passed over.
func (e *Engine) attacked(s *sight) {
	if s.User == "" || e.outage.active {
		return
	}
	u := e.users.touch(e.account(s.User, s.Domain))
	u.name, u.domain, u.last = s.User, s.Domain, max(u.last, s.ms)
	from := uint32(s.key.hash(e.seed)) &^ failed
	e.users.note(u, newHit(s.ms, from, 0))
	switch n := u.failures.prefixes; {
	case u.since != 0 && n < (e.users.distributedAfter+1)/2:
		u.since = 0
	case u.since == 0 && n >= e.users.distributedAfter:
		u.since = max(min(u.last, u.failures.oldest()), 1)
		e.reports = append(e.reports, u.attack(n))
	}
}

// note adds a failure to those of a user, and forgets the users longest unattacked if all have too many.
func (u *users) note(who *user, h hit) {
	was := cap(who.failures.hits)
	who.failures.add(h, u.findTime, u.keep)
	u.places += cap(who.failures.hits) - was
	for u.places > u.maxPlaces && u.length > 1 {
		u.evict()
	}
}

// failuresOf returns how many failures of an account count for a success at the time given; at most suspiciousAfter.
func (e *Engine) failuresOf(a account, ms int64) int {
	u := e.users.get(a)
	if u == nil {
		return 0
	}
	return u.failures.since(max(ms, u.last)-e.opts.SuspiciousFindTime.Milliseconds(), e.users.keep)
}

// remember keeps a suspicious login for Suspicious.
func (u *users) remember(l SuspiciousLogin) {
	if len(u.logins) == maxLogins {
		u.logins = slices.Delete(u.logins, 0, 1)
	}
	u.logins = append(u.logins, l)
}

// Suspicious returns the last suspicious logins, 256 at most, oldest first.
func (e *Engine) Suspicious() []SuspiciousLogin { return slices.Clone(e.users.logins) }

// Distributed returns the attacks that go on now.
func (e *Engine) Distributed() []DistributedAttack {
	var list []DistributedAttack
	for _, u := range e.users.all() {
		n := u.failures.prefixesSince(e.now - e.users.findTime)
		if u.since != 0 && n >= (e.users.distributedAfter+1)/2 {
			list = append(list, u.attack(n))
		}
	}
	return list
}

func (u *user) attack(prefixes int) DistributedAttack {
	return DistributedAttack{User: u.name, Domain: u.domain, Addresses: prefixes, Since: time.UnixMilli(u.since), Last: time.UnixMilli(u.last)}
}
