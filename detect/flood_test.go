package detect

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"fsban/policy"
	"fsban/sipwire"
)

// A deluge is traffic in time order. FreeSWITCH answers nothing in a second after one with more than limit requests, as sofia-sip does
// (agent_recv_request of nta.c).
type deluge struct {
	sip    *SIP
	limit  int
	down   bool // FreeSWITCH answers nothing at all
	counts map[netip.Addr]int
	first  map[netip.Addr]time.Duration
	n      int
}

// A sender sends requests at a rate from several ports and, where spread is more than 1, from as many addresses in turn.
type sender struct {
	addr      string
	rate      int
	spread    int
	method    string
	identical bool
	from, to  int // seconds
}

// play plays some seconds of senders.
func (d *deluge) play(seconds int, senders ...sender) {
	d.counts, d.first = make(map[netip.Addr]int), make(map[netip.Addr]time.Duration)
	server := netip.MustParseAddrPort(freeswitch)
	random := rand.New(rand.NewPCG(1, 2))
	before := 0
	for second := range seconds {
		var due []sender
		for _, s := range senders {
			if second >= s.from && (s.to == 0 || second < s.to) {
				for range s.rate {
					due = append(due, s)
				}
			}
		}
		random.Shuffle(len(due), func(i, j int) { due[i], due[j] = due[j], due[i] })
		for i, s := range due {
			at := wireStart.Add(time.Duration(second)*time.Second + time.Duration(i)*time.Second/time.Duration(len(due)))
			d.request(s, server, at, !d.down && before <= d.limit)
		}
		before = len(due)
	}
}

func (d *deluge) request(s sender, server netip.AddrPort, at time.Time, answered bool) {
	d.n++
	n, method := d.n, s.method
	if s.identical {
		n = 0
	}
	if method == "" {
		method = "REGISTER"
	}
	addr := netip.MustParseAddr(s.addr)
	if s.spread > 1 {
		b := addr.As4()
		k := d.n * 7919 % s.spread
		b[1], b[2], b[3] = b[1]+byte(k>>16), byte(k>>8), byte(k)
		addr = netip.AddrFrom4(b)
	}
	client := netip.AddrPortFrom(addr, uint16(5060+d.n%16))
	common := fmt.Sprintf("Via: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK%d\r\nFrom: <sip:1@pbx>;tag=f\r\nTo: <sip:1@pbx>\r\nCall-ID: c%d\r\nCSeq: %d %s\r\n", n, n, n+1, method)
	d.packet(&sipwire.Packet{From: client, To: server, At: at, Payload: []byte(method + " sip:pbx SIP/2.0\r\n" + common + "\r\n")})
	if answered && method != "ACK" {
		at = at.Add(time.Millisecond)
		d.packet(&sipwire.Packet{From: server, To: client, At: at, Payload: []byte("SIP/2.0 " + challenge(fmt.Sprint(d.n)) + common + "\r\n")})
	}
}

func (d *deluge) packet(p *sipwire.Packet) {
	a, outcome := d.sip.Packet(p, p.At)
	if outcome == Attempt && a.Kind == policy.Flood {
		if d.counts[a.Addr]++; d.counts[a.Addr] == 1 {
			d.first[a.Addr] = p.At.Sub(wireStart)
		}
	}
}

func TestAFloodCountsItsCauses(t *testing.T) {
	office := sender{addr: "198.51.100.20", rate: 90}                  // 300 phones that repeat their registrations
	strangers := sender{addr: "100.64.0.0", rate: 800, spread: 10_000} // each seldom
	for name, tc := range map[string]struct {
		senders []sender
		down    bool
		want    []string
		within  time.Duration
	}{
		"one sender":                    {[]sender{{addr: "203.0.113.5", rate: 5000, from: 1}, office, strangers}, false, []string{"203.0.113.5"}, 6 * time.Second},
		"one sender of equal packets":   {[]sender{{addr: "203.0.113.5", rate: 5000, from: 1, identical: true}, office, strangers}, false, []string{"203.0.113.5"}, 6 * time.Second},
		"little above the limit":        {[]sender{{addr: "203.0.113.5", rate: 400, from: 1}, {addr: "198.51.100.20", rate: 60}, strangers}, false, []string{"203.0.113.5"}, 6 * time.Second},
		"several senders":               {[]sender{{addr: "203.0.113.5", rate: 1500}, {addr: "203.0.113.6", rate: 1000}, {addr: "203.0.113.7", rate: 700}, office, strangers}, false, []string{"203.0.113.5", "203.0.113.6", "203.0.113.7"}, 6 * time.Second},
		"ACK":                           {[]sender{{addr: "203.0.113.5", rate: 3000, method: "ACK"}, office}, false, []string{"203.0.113.5"}, 6 * time.Second},
		"INVITE":                        {[]sender{{addr: "203.0.113.5", rate: 3000, method: "INVITE"}, office}, false, []string{"203.0.113.5"}, 6 * time.Second},
		"forged, from many addresses":   {[]sender{{addr: "10.0.0.0", rate: 5000, spread: 20_000}, office, strangers}, false, nil, 0},
		"many phones after an outage":   {[]sender{{addr: "198.51.100.20", rate: 600, to: 1}, {addr: "198.51.100.21", rate: 600, to: 2}, strangers}, false, nil, 0},
		"FreeSWITCH is down":            {[]sender{{addr: "198.51.100.20", rate: 190}, strangers}, true, nil, 0},
		"below the limit, all answered": {[]sender{{addr: "203.0.113.5", rate: 600}, {addr: "203.0.113.6", rate: 300}}, false, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := deluge{sip: NewSIP(), limit: 1000, down: tc.down}
			d.play(8, tc.senders...)
			var got []string
			for addr := range maps.Keys(d.counts) {
				got = append(got, addr.String())
				if d.counts[addr] < 3 || d.first[addr] > tc.within {
					t.Errorf("%v: %d attempts, the first after %v", addr, d.counts[addr], d.first[addr])
				}
			}
			if slices.Sort(got); !slices.Equal(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
			if deaf := d.sip.Stats().Deaf; (deaf > 0) != (name != "below the limit, all answered") {
				t.Errorf("deaf for %d s", deaf)
			}
		})
	}
}

// Once the causes are banned FreeSWITCH answers again, and nobody counts any more. A smaller sender comes next, if it is a cause too.
func TestAFloodEnds(t *testing.T) {
	d := deluge{sip: NewSIP(), limit: 1000}
	d.play(20, sender{addr: "203.0.113.5", rate: 9000, to: 6}, sender{addr: "203.0.113.6", rate: 1200, to: 12}, sender{addr: "198.51.100.20", rate: 100})
	if d.first[netip.MustParseAddr("203.0.113.6")] < 6*time.Second || len(d.counts) != 2 {
		t.Errorf("%v", d.first)
	}
	deaf := d.sip.Stats().Deaf
	d.play(5, sender{addr: "198.51.100.20", rate: 100})
	if len(d.counts) > 0 || d.sip.Stats().Deaf != deaf {
		t.Errorf("%v after the end", d.counts)
	}
}

// Both taps see each message: no bound is reached sooner.
func TestTwoTapsAreNoFlood(t *testing.T) {
	s := NewSIP()
	for n := range 3000 { // 600 requests a second, of which FreeSWITCH answers each
		at := wireStart.Add(time.Duration(n) * time.Second / 600)
		common := fmt.Sprintf("Via: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK%d\r\nFrom: <sip:1@pbx>;tag=f\r\nTo: <sip:1@pbx>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n", n)
		client, server := netip.MustParseAddrPort(honest), netip.MustParseAddrPort(freeswitch)
		for range 2 {
			s.Packet(&sipwire.Packet{From: client, To: server, At: at, Payload: []byte("OPTIONS sip:pbx SIP/2.0\r\n" + common + "\r\n")}, at)
			s.Packet(&sipwire.Packet{From: server, To: client, At: at, Payload: []byte("SIP/2.0 200 OK\r\n" + common + "\r\n")}, at)
		}
	}
	if s.Stats().Deaf != 0 || s.floods.served[s.floods.latest].total > 601 {
		t.Errorf("%+v, %d requests", s.Stats(), s.floods.served[s.floods.latest].total)
	}
}

// The space-saving list never overstates what is certain, against counts without bound.
func TestTheHeaviestAddressesAreCertain(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var s served
		exact := make(map[uint64]uint32)
		for range 5000 {
			key := uint64(random.ExpFloat64()*float64(1+random.IntN(200))) + 1
			exact[key]++
			s.count(key)
		}
		listed := uint32(0)
		for _, h := range s.heavy {
			if h.count-h.error > exact[h.key] || h.count < exact[h.key] {
				t.Fatalf("%d: %d-%d, it is %d", h.key, h.count, h.error, exact[h.key])
			}
			listed += h.count
		}
		for key, n := range exact {
			if n > 5000/maxHeavy+1 && !slices.ContainsFunc(s.heavy[:], func(h heavy) bool { return h.key == key }) {
				t.Fatalf("%d with %d requests is not listed", key, n)
			}
		}
		if listed != 5000 {
			t.Fatalf("%d listed", listed)
		}
	}
}

func TestPortsOfFreeSWITCHAreBounded(t *testing.T) {
	f := newFloods()
	main := netip.MustParseAddrPort(freeswitch)
	for n := range 10_000 {
		f.request(netip.MustParseAddr("203.0.113.5"), main, true, wireStart)
		f.request(main.Addr(), netip.AddrPortFrom(netip.MustParseAddr("198.51.100.20"), uint16(n)), true, wireStart)
	}
	if s := f.port(main, wireStart.Unix(), false); s == nil || s.total != 10_000 {
		t.Errorf("%+v", s)
	}
}
