package detect

import (
	"bytes"
	"testing"
	"time"
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
