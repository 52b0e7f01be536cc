package replay

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkLog replays mod_cti's log with failures of 10,000 addresses, one a second on average.
func BenchmarkLog(b *testing.B) {
	const lines = 100_000
	rng := rand.New(rand.NewPCG(1, 1))
	var text []byte
	at := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	for range lines {
		at = at.Add(time.Duration(rng.IntN(2000)) * time.Millisecond)
		text = append(text, ctiLine(netip.AddrFrom4([4]byte{198, 51, byte(rng.IntN(40)), byte(rng.IntN(250))}), fmt.Sprint(1000+rng.IntN(400)), at)...)
	}
	name := filepath.Join(b.TempDir(), "cti_fail2ban.log")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if r, err := Run(testConfig(), []string{name}, Options{}); err != nil || r.Understood != lines {
			b.Fatalf("%d of %d lines understood, %v", r.Understood, lines, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*lines), "ns/line")
}
