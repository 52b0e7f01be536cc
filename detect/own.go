package detect

import (
	"net/netip"
	"slices"

	"fsban/sipwire"
)

// ownAddrs distinguishes FreeSWITCH's addresses from those of its peers: its own requests are no attempts.
type ownAddrs struct {
	given   []netip.Addr              // of SetOwn
	clients map[netip.Addr]netip.Addr // the first client of each address that has answered a request
	many    map[netip.Addr]bool       // addresses that have answered several clients
}

// maxOwn bounds each table of learned addresses.
const maxOwn = 4096

// SetOwn sets FreeSWITCH's addresses. An address that answers requests of several clients is taken for one of them in any case.
func (s *SIP) SetOwn(addrs []netip.Addr) { s.own.given = slices.Clone(addrs) }

// isServer reports whether an address is FreeSWITCH's, or serves several clients.
func (s *SIP) isServer(addr netip.Addr) bool {
	return s.own.has(addr) || s.nonces.Serves(addr)
}

func (o *ownAddrs) has(addr netip.Addr) bool {
	return o.many[addr] || slices.Contains(o.given, addr)
}

// learn notes an answered request.
func (o *ownAddrs) learn(t *sipwire.Transaction) {
	server := t.Server.Addr()
	if o.many[server] || server.IsUnspecified() {
		return
	}
	if o.clients == nil {
		o.clients, o.many = make(map[netip.Addr]netip.Addr), make(map[netip.Addr]bool)
	}
	switch first, seen := o.clients[server]; {
	case !seen && len(o.clients) < maxOwn:
		o.clients[server] = t.Client.Addr()
	case seen && first != t.Client.Addr() && len(o.many) < maxOwn:
		o.many[server] = true
	}
}
