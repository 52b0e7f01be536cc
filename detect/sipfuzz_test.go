package detect

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"fsban/policy"
	"fsban/sipwire"
)

// FuzzSIP: two messages of any bytes, from a client and from FreeSWITCH in turn, over any transport. Each attempt has an address of theirs,
// a kind, and if only the wire shows that kind a proof and the detail of its kind.
func FuzzSIP(f *testing.F) {
	var w wire
	for _, traffic := range []string{"keep-alive NOTIFY", "blank lines, NULs, words and STUN"} {
		ordinary[traffic](&w)
	}
	w.ask(0, attacker, freeswitch, "MESSAGE", query{"1", "192.0.2.1", runsCommand, "User-Agent: friendly-scanner\r\n"}, bare)
	for i := len(w.packets) - 6; i+1 < len(w.packets); i++ {
		f.Add(w.packets[i].Payload, w.packets[i+1].Payload, uint8(i), false)
	}
	for _, g := range garbage {
		f.Add([]byte(g.message), []byte(accepted), uint8(0), true)
	}
	client, server := netip.MustParseAddrPort(attacker), netip.MustParseAddrPort(freeswitch)
	s, at := NewSIP(), wireStart // tables are slow to make: each run is a day later instead
	f.Fuzz(func(t *testing.T, one, other []byte, transport uint8, unknown bool) {
		at = at.Add(24 * time.Hour)
		from := client
		if unknown { // as in HEP of IPv6
			from = netip.AddrPortFrom(netip.IPv6Unspecified(), client.Port())
		}
		for i := range 60 {
			p := sipwire.Packet{From: from, To: server, Transport: sipwire.Transport(transport % 3), At: at, Payload: one}
			if i%2 == 1 {
				p.From, p.To, p.Payload = p.To, p.From, other
			}
			at = at.Add(time.Duration(transport) * time.Millisecond)
			a, outcome := s.Packet(&p, at)
			if !slices.Contains(WireOutcomes, outcome) {
				t.Fatalf("outcome %q", outcome)
			}
			if outcome != Attempt && outcome != ClockAdrift {
				continue
			}
			if !a.Addr.IsValid() || a.Addr.IsUnspecified() || a.Kind >= policy.NumKinds || a.Source != policy.SIP || a.At.IsZero() {
				t.Fatalf("%+v", a)
			}
			if a.Kind.OnWire() && (a.Proof == policy.UnknownProof || a.Kind.Detailed() != (a.Detail != "")) {
				t.Fatalf("%+v", a)
			}
		}
	})
}
