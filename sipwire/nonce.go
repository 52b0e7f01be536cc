package sipwire

import (
	"net/netip"
	"time"
)

const (
	maxNonces  = 1 << 16
	maxServers = 64

	// nonceTTL is FreeSWITCH's nonce-ttl, to which it adds the Expires of the challenged request.
	nonceTTL   = time.Minute
	maxExpires = time.Hour
)

// A Standing is the state of a nonce at its server, as far as it can be seen from outside.
type Standing uint8

// The standings.
const (
	NonceUnknown Standing = iota // never issued as far as was seen, or forgotten
	NonceExpired
	NonceOld  // in its lifetime, and unknown to the server if that has restarted since
	NonceLive // known to the server
)

// An Issue is the issue of a nonce.
type Issue struct {
	Client, Server netip.AddrPort
	Method         Method        // of the challenged request
	Expires        time.Duration // of the challenged request
	At             time.Time
}

// Nonces are the nonces that servers have issued lately. It holds maxNonces and maxServers; beyond that the nonces nearest to their
// end are forgotten, and further servers count as restarted all the time. It allocates when made, and once for each server.
type Nonces struct {
	entries []nonceEntry
	servers map[netip.Addr]*server
	evicted uint64
	restart int64 // of the servers, unix microseconds: older nonces are old
}

// A nonceEntry has no pointers, so that garbage collections do not read the table.
type nonceEntry struct {
	nonce  Nonce
	client [16]byte
	server [16]byte
	at     int64 // unix microseconds
	until  int64
	port   uint16 // of the server
	method Method
}

// A server is an address that has issued nonces.
type server struct {
	client netip.Addr // of its first nonce
	many   bool       // it has issued nonces to other clients too

	// From the first time, at the latest, to the second it has forgotten no nonce: in unix microseconds.
	from, to int64
}

// NewNonces returns an empty Nonces.
func NewNonces() *Nonces {
	return &Nonces{entries: make([]nonceEntry, maxNonces), servers: make(map[netip.Addr]*server)}
}

// Evicted returns how many nonces were forgotten before their end.
func (n *Nonces) Evicted() uint64 { return n.evicted }

// Add notes the issue of a nonce.
func (n *Nonces) Add(nonce Nonce, by *Issue) {
	at := by.At.UnixMicro()
	set := n.set(nonce)
	place := &set[0]
	for i := range set {
		e := &set[i]
		if e.nonce == nonce {
			place = e
			break
		}
		if e.until < place.until {
			place = e
		}
	}
	if place.nonce != nonce && place.until > at {
		n.evicted++
	}
	*place = nonceEntry{
		nonce: nonce, client: by.Client.Addr().As16(), server: by.Server.Addr().As16(), port: by.Server.Port(), at: at, method: by.Method,
		until: at + (nonceTTL + min(by.Expires, maxExpires)).Microseconds(),
	}
	switch s := n.servers[by.Server.Addr()]; {
	case s != nil:
		s.many = s.many || s.client != by.Client.Addr()
	case len(n.servers) < maxServers:
		n.servers[by.Server.Addr()] = &server{client: by.Client.Addr(), from: at, to: at}
	}
}

// Serves reports whether addr has issued nonces to several clients. A client of it, such as a carrier, may issue some to it alone.
func (n *Nonces) Serves(addr netip.Addr) bool {
	s := n.servers[addr]
	return s != nil && s.many
}

// Look returns the standing of an answer to a nonce at a time, and whether it is that of the client to which the nonce was issued.
func (n *Nonces) Look(nonce Nonce, client netip.Addr, at time.Time) (standing Standing, own bool) {
	e := n.find(nonce)
	if e == nil {
		return NonceUnknown, false
	}
	own = e.client == client.As16()
	us := at.UnixMicro()
	switch {
	case us > e.until:
		return NonceExpired, own
	case e.at < n.restart:
		return NonceOld, own
	case us-e.at <= nonceTTL.Microseconds(), n.kept(e, us):
		return NonceLive, own
	}
	return NonceOld, own
}

// Issued reports whether a server issued a nonce to a client for a method.
func (n *Nonces) Issued(nonce Nonce, client netip.Addr, by netip.AddrPort, method Method) bool {
	e := n.find(nonce)
	return e != nil && e.client == client.As16() && e.server == by.Addr().As16() && e.port == by.Port() && e.method == method
}

// kept reports whether the server of e has forgotten no nonce from its issue to at, save perhaps in the last nonceTTL.
func (n *Nonces) kept(e *nonceEntry, at int64) bool {
	s := n.servers[netip.AddrFrom16(e.server).Unmap()]
	return s != nil && s.from <= e.at && at-s.to <= nonceTTL.Microseconds()
}

// Confirm notes that a server accepted an answer to a nonce at a time: it has forgotten none since the issue of that one.
func (n *Nonces) Confirm(nonce Nonce, at time.Time) {
	e := n.find(nonce)
	if e == nil {
		return
	}
	s := n.servers[netip.AddrFrom16(e.server).Unmap()]
	switch us := at.UnixMicro(); {
	case s == nil:
	case s.to < e.at: // it may have restarted in between
		s.from, s.to = e.at, us
	default:
		s.from, s.to = min(s.from, e.at), max(s.to, us)
	}
}

// Reject notes that a server called a nonce stale at a time. If that is before the end of the nonce, the server may have restarted.
func (n *Nonces) Reject(nonce Nonce, at time.Time) {
	e, us := n.find(nonce), at.UnixMicro()
	if e == nil || us > e.until {
		return
	}
	if s := n.servers[netip.AddrFrom16(e.server).Unmap()]; s != nil && s.to < us {
		s.from, s.to = us, us
	}
}

// Restart notes that the servers restarted at a time: they know no nonce from before.
func (n *Nonces) Restart(at time.Time) {
	us := at.UnixMicro()
	n.restart = max(n.restart, us)
	for _, s := range n.servers {
		if s.from < us {
			s.from, s.to = us, max(s.to, us)
		}
	}
}

func (n *Nonces) find(nonce Nonce) *nonceEntry {
	set := n.set(nonce)
	for i := range set {
		if set[i].nonce == nonce && set[i].until != 0 {
			return &set[i]
		}
	}
	return nil
}

func (n *Nonces) set(nonce Nonce) []nonceEntry {
	first := uint64(nonce) / setSize % (maxNonces / setSize) * setSize
	return n.entries[first : first+setSize]
}

// parseAddr reads an address without brackets, without allocation for those of IPv4.
func parseAddr(text []byte) (netip.Addr, bool) {
	const longest = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")
	if len(text) == 0 || len(text) > longest {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(string(text))
	return addr.WithZone("").Unmap(), err == nil && !addr.IsUnspecified()
}
