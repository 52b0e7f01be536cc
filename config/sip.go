package config

import (
	"net/netip"
	"slices"
	"strings"

	"fsban/firewall"
)

// SIP configures the taps, which see SIP messages as they cross the wire.
type SIP struct {
	Tap   string   `yaml:"tap"`
	Ports []string `yaml:"ports"` // of FreeSWITCH's profiles; empty: FreeSWITCH is asked
	HEP   HEP      `yaml:"hep"`
}

// HEP configures the listener for HEP datagrams.
type HEP struct {
	Listen  string   `yaml:"listen"`
	Enable  bool     `yaml:"enable"` // ask FreeSWITCH for the capture
	From    []string `yaml:"from"`
	Forward string   `yaml:"forward"` // empty: nowhere
}

// Values of sip.tap.
const (
	TapAuto  = "auto" // nflog where it works, else hep
	TapNFLOG = "nflog"
	TapHEP   = "hep"
	TapBoth  = "both"
	TapOff   = "off"
)

var taps = []string{TapAuto, TapNFLOG, TapHEP, TapBoth, TapOff}

// Senders returns the prefixes of sip.hep.from, which Parse has checked.
func (h *HEP) Senders() []netip.Prefix {
	var list []netip.Prefix
	for _, s := range h.From {
		if p, err := ParsePrefix(s); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// Collector returns the address of sip.hep.forward, which Parse has checked. It is zero if there is none.
func (h *HEP) Collector() netip.AddrPort {
	to, _ := netip.ParseAddrPort(h.Forward)
	return to
}

// TapPorts returns the ports of sip.ports, which Parse has checked.
func (s *SIP) TapPorts() []firewall.Ports {
	var list []firewall.Ports
	for _, p := range s.Ports {
		if ports, err := firewall.ParsePorts(p); err == nil {
			list = append(list, ports)
		}
	}
	return list
}

// maxSenders bounds sip.hep.from, which every datagram is compared with, and maxTapPorts sip.ports, which every packet is.
const (
	maxSenders  = 64
	maxTapPorts = 32
)

func (s *SIP) validate(problem report) {
	if !slices.Contains(taps, s.Tap) {
		problem("sip.tap", "%.60q is none of %s", s.Tap, strings.Join(taps, ", "))
	}
	if len(s.Ports) > maxTapPorts {
		problem("sip.ports", "%d ports: write at most %d; a range is one", len(s.Ports), maxTapPorts)
	}
	for _, p := range s.Ports {
		if ports, err := firewall.ParsePorts(p); err != nil {
			problem("sip.ports", "%v", err)
		} else if ports.Proto != "udp" && ports.Proto != "tcp" {
			problem("sip.ports", "%.60q: SIP is read from udp and tcp", p)
		}
	}
	s.HEP.validate(problem)
}

func (h *HEP) validate(problem report) {
	for _, s := range h.From {
		if _, err := ParsePrefix(s); err != nil {
			problem("sip.hep.from", "%v", err)
		}
	}
	if len(h.From) > maxSenders {
		problem("sip.hep.from", "%d senders: write at most %d, a prefix is one", len(h.From), maxSenders)
	}
	listen, err := netip.ParseAddrPort(h.Listen)
	if err != nil || listen.Port() == 0 {
		problem("sip.hep.listen", "%.80q is not an address with a port, like 127.0.0.1:9060 or [::1]:9060", h.Listen)
		return
	}
	if !listen.Addr().IsLoopback() && len(h.From) == 0 {
		problem("sip.hep.listen", "%v accepts datagrams of other hosts only if sip.hep.from names them: name them, or write 127.0.0.1:%d", listen,
			listen.Port())
	}
	if h.Forward == "" {
		return
	}
	switch to, err := netip.ParseAddrPort(h.Forward); {
	case err != nil || to.Port() == 0 || to.Addr().IsUnspecified():
		problem("sip.hep.forward", "%.80q is not an address with a port, like 192.0.2.20:9060, or \"\" for none", h.Forward)
	case to == listen || listen.Addr().IsUnspecified() && to.Port() == listen.Port() && to.Addr().IsLoopback():
		problem("sip.hep.forward", "%v is the address of sip.hep.listen: the datagrams would go round in circles", to)
	}
}
