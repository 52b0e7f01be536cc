package detect

import (
	"hash/maphash"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"fsban/policy"
	"fsban/sipwire"
)

// Bounds of a scan, within a minute. Requests beyond them count.
//
// Ordinary peers that never log in, such as carriers, proxies, session border controllers and monitoring, ask for few targets again and
// again. A scanner asks for many. Phones behind one NAT may ask for as many, but each from a port of its own.
const (
	scanTargets     = 20  // new targets from one port to one port of FreeSWITCH
	scanRequests    = 300 // requests from one port to one port of FreeSWITCH
	scanAddrTargets = 100 // new targets from all ports of an address

	scanWindow = time.Minute
	scanMemory = 10 * time.Minute // for at least so long a target is not new again
	scanWarm   = time.Hour        // from when on the targets of all ports count: till then phones have logged in, and their address is known
)

const (
	maxProbes = 1 << 13
	maxKnown  = 1 << 14
	tableSet  = 8 // entries of a set of a table: a new entry takes the place of the oldest in its set
)

// scans find requests without credentials that look for something: a server, a user, a way in. An address that has logged in is not
// suspected. It allocates only when made.
type scans struct {
	seed    maphash.Seed
	began   int64 // when the first packet came; unix microseconds, as all times here
	probes  []probe
	known   []knownAddr
	evicted uint64
}

// A probe is the memory of one port of an address, or of all its ports.
type probe struct {
	key      uint64
	began    int64 // of the minute
	last     int64
	turned   int64 // when older was newer
	requests uint32
	targets  uint32 // new ones
	newer    targets
	older    targets
}

// targets are a set of hashes of targets, a bit each.
type targets [8]uint64

func (s *targets) has(t uint64) bool { return s[t/64%8]&(1<<(t%64)) != 0 }
func (s *targets) add(t uint64)      { s[t/64%8] |= 1 << (t % 64) }

// A knownAddr is an address that has logged in, or to which FreeSWITCH itself sends requests.
type knownAddr struct {
	key uint64
	at  int64
}

func newScans() *scans {
	return &scans{seed: maphash.MakeSeed(), probes: make([]probe, maxProbes), known: make([]knownAddr, maxKnown)}
}

// addrKey hashes an address, of IPv6 its /64. It is never 0.
func addrKey(seed maphash.Seed, addr netip.Addr) uint64 {
	b := addr.As16()
	if addr.Is6() {
		clear(b[8:])
	}
	return maphash.Bytes(seed, b[:]) | 1
}

// know notes an address that has logged in.
func (s *scans) know(addr netip.Addr, at time.Time) {
	key := addrKey(s.seed, addr)
	set := s.known[key/tableSet%(maxKnown/tableSet)*tableSet:][:tableSet]
	place := &set[0]
	for i := range set {
		if set[i].key == key {
			place = &set[i]
			break
		}
		if set[i].at < place.at {
			place = &set[i]
		}
	}
	*place = knownAddr{key, at.UnixMicro()}
}

func (s *scans) knows(addr netip.Addr) bool {
	key := addrKey(s.seed, addr)
	set := s.known[key/tableSet%(maxKnown/tableSet)*tableSet:][:tableSet]
	for i := range set {
		if set[i].key == key {
			return true
		}
	}
	return false
}

// counts reports whether a transaction of an unknown address is part of a scan.
func (s *scans) counts(t *sipwire.Transaction) bool {
	at := t.At.UnixMicro()
	client := addrKey(s.seed, t.Client.Addr())
	server := addrKey(s.seed, t.Server.Addr())
	ports := uint64(t.Client.Port())<<16 | uint64(t.Server.Port())
	const spread = 0x9e3779b97f4a7c15 // an odd constant: a bijection that mixes the bits
	one := s.probe((client^server*spread+ports)*spread|1, at)
	fresh := one.count(t.Target, at)
	if fresh && one.targets > scanTargets || one.requests > scanRequests {
		return true
	}
	all := s.probe((client^server*spread)*spread|1, at)
	fresh = all.count(t.Target, at)
	return fresh && all.targets > scanAddrTargets && at-s.began > scanWarm.Microseconds()
}

// probe returns the entry of key: the old one, a free one, or the oldest of its set.
func (s *scans) probe(key uint64, at int64) *probe {
	set := s.probes[key/tableSet%(maxProbes/tableSet)*tableSet:][:tableSet]
	place := &set[0]
	for i := range set {
		if set[i].key == key {
			return &set[i]
		}
		if set[i].last < place.last {
			place = &set[i]
		}
	}
	if place.key != 0 && at-place.last < scanMemory.Microseconds() {
		s.evicted++
	}
	*place = probe{key: key}
	return place
}

// count counts a request, and reports whether its target is new.
func (p *probe) count(target uint64, at int64) (fresh bool) {
	memory, window := scanMemory.Microseconds(), scanWindow.Microseconds()
	switch age := at - p.turned; {
	case at-p.last > memory, at < p.began-window: // forgotten, or the clock was put back
		*p = probe{key: p.key, turned: at}
	case age > memory:
		p.older, p.newer, p.turned = p.newer, targets{}, at
	}
	if at-p.began > window {
		p.began, p.requests, p.targets = at, 0, 0
	}
	p.last = max(p.last, at)
	p.requests++
	fresh = !p.newer.has(target) && !p.older.has(target)
	p.newer.add(target)
	if fresh {
		p.targets++
	}
	return fresh
}

// probing reports whether the answer to a request without credentials leaves it a probe. Calls and registrations are left to the events
// of FreeSWITCH. A request in a dialog may be older than FreeSWITCH itself. Of methods other than OPTIONS, FreeSWITCH has accepted or
// handled all but those with these answers.
func probing(t *sipwire.Transaction) bool {
	switch t.Method {
	case sipwire.MethodRegister, sipwire.MethodInvite, sipwire.MethodCancel, sipwire.MethodPrack:
		return false
	case sipwire.MethodOptions:
		return !t.InDialog
	}
	const merged, notImplemented = 482, 501
	return !t.InDialog && (t.Status >= 400 && t.Status < 500 && t.Status != merged || t.Status == notImplemented)
}

// agents are the user agents that are scanners by their name. Verdicts are cached: the cache has a fixed size, a newer name replaces an
// older one.
type agents struct {
	seed     maphash.Seed
	patterns []*regexp.Regexp
	verdicts [512]struct {
		name    uint64
		scanner bool
	}
}

// monitors are scanners' names that monitoring uses, for OPTIONS.
var monitors = regexp.MustCompile(`(?i)^sipsak\b`)

func newAgents(patterns ...*regexp.Regexp) agents {
	return agents{seed: maphash.MakeSeed(), patterns: patterns}
}

// Scanners returns the patterns of user agents that have a rule for scans.
func Scanners(rules []policy.Rule) (patterns []*regexp.Regexp) {
	for i := range rules {
		if r := &rules[i]; r.UserAgent != nil && slices.Contains(r.Kinds, policy.Scan) {
			patterns = append(patterns, r.UserAgent)
		}
	}
	return patterns
}

// scanner reports whether a user agent is a scanner's.
func (g *agents) scanner(name []byte, method sipwire.Method) bool {
	if len(name) == 0 {
		return false
	}
	hash := maphash.Bytes(g.seed, name)
	v := &g.verdicts[hash%uint64(len(g.verdicts))]
	if v.name != hash {
		v.name, v.scanner = hash, false
		for _, re := range g.patterns {
			v.scanner = v.scanner || re.Match(name)
		}
	}
	return v.scanner && (method != sipwire.MethodOptions || !monitors.Match(name))
}

// scan gives a the kind of a scan, if an unchallenged request without credentials is part of one.
func (s *SIP) scan(t *sipwire.Transaction, a *policy.Attempt) Outcome {
	named := s.agents.scanner(t.UserAgent, t.Method) && (t.Method != sipwire.MethodInvite || t.Status >= 400 && !t.Proceeded)
	if !named && (!probing(t) || s.scans.knows(t.Client.Addr()) || !s.scans.counts(t)) {
		return NoAttempt
	}
	a.Kind = policy.Scan
	s.answered(a, t)
	return Attempt
}
