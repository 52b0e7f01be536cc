package policy

import (
	"net/netip"
	"time"
)

// A SuspiciousLogin is a success from an address that was not known-good, with evidence that its password was guessed. The address
// does not become known-good by it.
type SuspiciousLogin struct {
	User      string // untrusted, as in an Attempt
	Domain    string
	Addr      netip.Addr
	UserAgent string
	At        time.Time

	Evidence LoginEvidence
	Likely   bool // a guessed password is more likely than a mistyped one
	Failures int  // failures on this user from the network of Addr, an IPv4 /24 or an IPv6 /48
	Users    int  // other users that the address failed on
	Prefixes int  // prefixes that failed on this user, Addr's included; at most 64
}

func (SuspiciousLogin) report() {}

// A LoginEvidence is the reason why a login is suspicious. The set is closed and small: safe as a metric label.
type LoginEvidence uint8

// The kinds of evidence, strongest first.
const (
	Spray       LoginEvidence = iota // the address failed on other users: it tries many users
	Distributed                      // many prefixes fail on the user, and one of this network has got in
	OwnFailures                      // the address, or its network, failed on this user alone: mistyped, or guessed with patience
	FewPrefixes                      // one to three other prefixes failed on this user again and again
	NumLoginEvidence
)

var loginEvidenceNames = [NumLoginEvidence]string{"spray", "distributed", "own_failures", "few_prefixes"}

func (v LoginEvidence) String() string { return loginEvidenceNames[v] }

// MarshalText writes the name.
func (v LoginEvidence) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the name.
func (v *LoginEvidence) UnmarshalText(text []byte) error {
	return fromName(v, text, loginEvidenceNames[:], "login evidence")
}

const (
	sprayUsers    = 3 // failures on so many other users are a spray, however low SuspiciousAfter is
	fewPrefixes   = 3
	likelyGuesses = 4 // times SuspiciousAfter: failures beyond those of a person who mistypes
)

// loginEvidence returns the report of a suspicious login, and false for one without evidence.
//
// Strangers that try a user now and then are none: short numbers are tried every day. The evidence is failures that have to do with
// this login: of its address or network, or of very few prefixes that guess the password of this user in earnest.
func (e *Engine) loginEvidence(s *observation, a account) (SuspiciousLogin, bool) {
	if e.opts.SuspiciousAfter < 0 {
		return SuspiciousLogin{}, false
	}
	r := SuspiciousLogin{User: s.User, Domain: s.Domain, Addr: s.Addr, UserAgent: s.UserAgent, At: s.At, Users: e.otherUsers(s)}
	after, total, attacked := e.users.suspiciousAfter, 0, false
	if u := e.users.get(a); u != nil {
		own := e.prefixID(s)
		for _, p := range u.failures.since(max(s.ms, u.last) - e.opts.SuspiciousFindTime.Milliseconds()) {
			if p.count == 0 { // nothing proves its failures
				continue
			}
			r.Prefixes++
			total += int(p.count)
			if p.id.network() == own.network() {
				r.Failures += int(p.count)
			}
		}
		attacked = e.underAttack(u)
	}
	if v, ok := e.evidenceByName(s); ok {
		r.Failures, total, attacked = max(r.Failures, v.own), max(total, v.total), attacked || v.attacked
		r.Prefixes = max(r.Prefixes, v.prefixes)
	}
	switch {
	case r.Users >= max(after, sprayUsers):
		r.Evidence, r.Likely = Spray, true
	case r.Failures > 0 && attacked:
		r.Evidence, r.Likely = Distributed, true
	case r.Failures >= after:
		r.Evidence, r.Likely = OwnFailures, r.Failures >= likelyGuesses*after && !e.outageWithin(e.opts.SuspiciousFindTime)
	case r.Prefixes <= fewPrefixes && total >= after*max(r.Prefixes, 2):
		r.Evidence = FewPrefixes
	default:
		return SuspiciousLogin{}, false
	}
	return r, true
}

// outageWithin reports whether there was an outage lately: phones at new addresses fail then, too.
func (e *Engine) outageWithin(d time.Duration) bool {
	until := e.guards.outage.until
	return until != 0 && e.now-until < d.Milliseconds()
}

// otherUsers returns the number of users that the address of s failed on within the windows of its rules, without its own.
func (e *Engine) otherUsers(s *observation) (n int) {
	t := e.trackers.get(s.key)
	if t == nil {
		return 0
	}
	for h := range e.pool.hits(&t.window) {
		if h.subject&(failed|unproven) != failed || h.sameUser(s.user) {
			continue
		}
		for earlier := range e.pool.hits(&t.window) {
			if earlier == h {
				n++
				break
			}
			if earlier.subject&(failed|unproven) == failed && earlier.sameUser(h.subject) {
				break
			}
		}
	}
	return n
}

// prefixID identifies the counted prefix of s within its network: a /24, or a /48 of IPv6.
func (e *Engine) prefixID(s *observation) prefixID {
	bits, within := 48, uint16(s.key.hash(e.seed))
	switch l, ok := e.never.translation.of(s.Addr); {
	case s.Addr.Is4():
		addr := s.prefix.Addr().As4()
		bits, within = 24, uint16(addr[3])
	case ok:
		bits = l.bits(24)
	case s.prefix.Bits() <= 64:
		addr := s.prefix.Addr().As16()
		within = uint16(addr[6])<<8 | uint16(addr[7])
	}
	network, _ := s.Addr.Prefix(min(bits, s.prefix.Bits()))
	hash := keyOf(network).hash(e.seed)
	return prefixID{uint16(hash >> 16), uint16(hash), within}
}

// remember keeps a suspicious login for SuspiciousLogins.
func (u *users) remember(l SuspiciousLogin) {
	if len(u.logins) == maxLogins {
		copy(u.logins, u.logins[1:])
		u.logins = u.logins[:maxLogins-1]
	}
	u.logins = append(u.logins, l)
}

// SuspiciousLogins returns the last suspicious logins, 256 at most, oldest first.
func (e *Engine) SuspiciousLogins() []SuspiciousLogin {
	return append([]SuspiciousLogin(nil), e.users.logins...)
}
