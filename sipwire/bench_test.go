package sipwire

import (
	"bytes"
	"testing"
)

// BenchmarkScan is the cost of scanning a recorded message.
func BenchmarkScan(b *testing.B) {
	var payloads [][]byte
	size := 0
	for _, d := range recorded(b, "hep-subscribe-bruteforce-one-nonce") {
		var p Packet
		if err := ParseHEP(d, &p); err != nil {
			b.Fatal(err)
		}
		payloads = append(payloads, bytes.Clone(p.Payload))
		size += len(p.Payload)
	}
	s := NewScanner()
	b.SetBytes(int64(size / len(payloads)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Scan(payloads[i%len(payloads)])
	}
}
