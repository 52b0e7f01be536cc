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
	table[uint64, user]
	counters         counters
	suspiciousAfter  int
	distributedAfter int
	logins           []SuspiciousLogin // the last ones, oldest first
}

type user struct {
	name, domain string
	window       window
	since        int64 // the distributed attack on it, in unix milliseconds; 0: none
	last         int64 // its last failure
}

// The rules of a user's window. Whose hit it is there is a hash of the prefix that failed.
const (
	userFailures = iota // all failures
	userPrefixes        // each prefix once
)

const (
	maxPrefixes = 64  // prefixes told apart for one user
	maxLogins   = 256 // suspicious logins remembered
)

func newUsers(dropped func(*user)) users { return users{table: newTable[uint64](0, dropped)} }

// set puts options into force.
func (u *users) set(o *Options) {
	u.limit = o.MaxUsers
	threshold := func(n int) int {
		if n < 0 {
			return math.MaxInt
		}
		return min(n, maxPrefixes)
	}
	u.suspiciousAfter, u.distributedAfter = threshold(o.SuspiciousAfter), threshold(o.DistributedAfter)
	u.counters = counters{
		findTime: [numBits]int64{userFailures: o.SuspiciousFindTime.Milliseconds(), userPrefixes: o.DistributedFindTime.Milliseconds()},
		keep:     [numBits]int{userFailures: min(u.suspiciousAfter, maxPrefixes), userPrefixes: maxPrefixes},
	}
}

// account names a user of a domain.
func (e *Engine) account(name, domain string) uint64 {
	return maphash.String(e.seed, name)*31 + maphash.String(e.seed, domain)
}

// attacked notes a failure of its user. While a back end is down failures say nothing of users. What carries no user is
// passed over.
func (e *Engine) attacked(s *sight) {
	if s.User == "" || e.outage.active {
		return
	}
	e.makeRoom()
	u := e.users.touch(e.account(s.User, s.Domain))
	u.name, u.domain, u.last = s.User, s.Domain, max(u.last, s.ms)
	from := uint32(maphash.Bytes(e.seed, s.key[:])) &^ failed
	h := newHit(s.ms, from, 1<<userFailures|1<<userPrefixes)
	n := e.pool.add(&u.window, h, &e.users.counters, once{all: 1 << userPrefixes})[userPrefixes]
	switch {
	case u.since != 0 && n < (e.users.distributedAfter+1)/2:
		u.since = 0
	case u.since == 0 && n >= e.users.distributedAfter:
		u.since = u.last
		for h := range e.pool.hits(&u.window) {
			if h.rules&(1<<userPrefixes) != 0 {
				u.since = max(min(u.since, h.at()), 1)
			}
		}
		e.reports = append(e.reports, u.attack(n))
	}
}

// failuresOf returns how many failures of an account count for a success at the time given; at most suspiciousAfter.
func (e *Engine) failuresOf(account uint64, ms int64) int {
	u := e.users.get(account)
	if u == nil {
		return 0
	}
	return e.pool.within(&u.window, userFailures, ms-e.opts.SuspiciousFindTime.Milliseconds())
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
		n := e.pool.within(&u.window, userPrefixes, e.now-e.opts.DistributedFindTime.Milliseconds())
		if u.since != 0 && n >= (e.users.distributedAfter+1)/2 {
			list = append(list, u.attack(n))
		}
	}
	return list
}

func (u *user) attack(prefixes int) DistributedAttack {
	return DistributedAttack{User: u.name, Domain: u.domain, Addresses: prefixes, Since: time.UnixMilli(u.since), Last: time.UnixMilli(u.last)}
}
