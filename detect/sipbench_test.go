package detect

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"fsban/sipwire"
)

// BenchmarkSIP is the cost of a message: scanned, matched, its nonce looked up, its attempt made. Every request and every response is a new one: the
// branches are numbered.
func BenchmarkSIP(b *testing.B) {
	packets := recordedPackets(b, "hep-subscribe-bruteforce-one-nonce.hep")
	type numbered struct{ digits []byte }
	var branches []numbered
	for i := range packets {
		at := bytes.Index(packets[i].Payload, []byte("z9hG4bK")) + len("z9hG4bK")
		branches = append(branches, numbered{packets[i].Payload[at : at+8]})
	}
	s := NewSIP()
	now := packets[0].At
	attempts := 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := i % len(packets)
		for n, d := i/len(packets), 0; d < 8; d++ {
			branches[k].digits[d] = 'a' + byte(n>>(4*d)&15)
		}
		packets[k].At = now.Add(time.Duration(i) * 50 * time.Microsecond) // 20,000 messages a second
		if _, outcome := s.Packet(&packets[k], packets[k].At); outcome == Attempt {
			attempts++
		}
	}
	b.ReportMetric(float64(attempts)/float64(b.N), "attempts/op")
	if stats := s.Stats(); stats.Unmatched > 0 {
		b.Errorf("%+v", stats)
	}
}

// BenchmarkKinds is the cost of a message of each kind that only the wire shows, and of ordinary ones.
func BenchmarkKinds(b *testing.B) {
	numbered := func(method, to string) []byte {
		return []byte(method + " sip:00000000@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9:5060;rport;branch=z9hG4bK00000000\r\nMax-Forwards: 70\r\n" +
			"From: <sip:1000@192.0.2.1>;tag=0tngkw\r\nTo: " + to + "\r\nCall-ID: mah6cn3znr\r\nCSeq: 2 " + method + "\r\nContact: <sip:1000@10.0.0.9:5060>\r\n" +
			"User-Agent: friendly-phone/1.0\r\nContent-Length: 0\r\n\r\n")
	}
	for name, bm := range map[string]struct {
		request   []byte
		target    bool // another one each time
		answered  bool
		perSecond int
		addresses int
		attempts  bool
	}{
		"keep-alive":     {request: numbered("OPTIONS", "<sip:1000@192.0.2.1>"), answered: true, perSecond: 1000, addresses: 1000},
		"scan":           {request: numbered("OPTIONS", "<sip:1000@192.0.2.1>"), target: true, answered: true, perSecond: 1000, addresses: 1, attempts: true},
		"flood":          {request: numbered("REGISTER", "<sip:1000@192.0.2.1>"), perSecond: 20_000, addresses: 1, attempts: true},
		"forged flood":   {request: numbered("REGISTER", "<sip:1000@192.0.2.1>"), perSecond: 20_000, addresses: 1 << 16},
		"malformed":      {request: bytes.Replace(numbered("OPTIONS", "<sip:1000@192.0.2.1>"), []byte("CSeq"), []byte("QSeq"), 1), perSecond: 1000, addresses: 1, attempts: true},
		"exploit":        {request: numbered("MESSAGE", runsCommand), perSecond: 1000, addresses: 1, attempts: true},
		"ordinary texts": {request: numbered("MESSAGE", "<sip:1001@192.0.2.1>"), perSecond: 1000, addresses: 1000},
	} {
		b.Run(name, func(b *testing.B) {
			s := NewSIP()
			server := netip.MustParseAddrPort(freeswitch)
			request := bytes.Clone(bm.request)
			_, headers, _ := bytes.Cut(request, []byte("\r\n"))
			response := append([]byte("SIP/2.0 200 OK\r\n"), headers...)
			branch, answered := bytes.Index(request, []byte("z9hG4bK"))+7, bytes.Index(response, []byte("z9hG4bK"))+7
			attempts := 0
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				for d := range 8 {
					request[branch+d] = 'a' + byte(i>>(4*d)&15)
				}
				copy(response[answered:], request[branch:branch+8])
				if bm.target {
					copy(request[bytes.IndexByte(request, ':')+1:], request[branch:branch+8])
				}
				k := i % bm.addresses
				client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), 5060)
				at := wireStart.Add(time.Duration(i) * time.Second / time.Duration(bm.perSecond))
				p := sipwire.Packet{From: client, To: server, At: at, Payload: request}
				if _, outcome := s.Packet(&p, at); outcome == Attempt {
					attempts++
				}
				if bm.answered {
					p = sipwire.Packet{From: server, To: client, At: at, Payload: response}
					if _, outcome := s.Packet(&p, at); outcome == Attempt {
						attempts++
					}
				}
			}
			if b.N > 100_000 && (attempts > 0) != bm.attempts {
				b.Errorf("%d attempts of %d messages", attempts, b.N)
			}
		})
	}
}
