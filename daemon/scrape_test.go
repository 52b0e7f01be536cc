package daemon

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"fsban/config"
	"fsban/decide"
	"fsban/internal/fakeswitch"
	"fsban/internal/testenv"
	"fsban/policy"
)

// BenchmarkScrape is one scrape over HTTP of a daemon at work: 100,000 bans in the real kernel, 1,000,000 tracked addresses,
// in namespaces of their own.
func BenchmarkScrape(b *testing.B) {
	for _, size := range []struct{ bans, tracked int }{{0, 0}, {100_000, 1_000_000}} {
		b.Run(fmt.Sprintf("%dbans-%dtracked", size.bans, size.tracked), func(b *testing.B) { benchmarkScrape(b, size.bans, size.tracked) })
	}
}

func benchmarkScrape(b *testing.B, bans, tracked int) {
	fs := newSwitch(b, fakeswitch.Options{})
	cfg := configFor(b, fs)
	cfg.Firewall.Backend, cfg.Firewall.Check = config.BackendIPTables, config.Duration(time.Second)
	cfg.HTTP.Listen = testenv.Address(b)
	r := start(b, fs, cfg)
	r.ready()
	now := time.Now()
	for i := range tracked {
		r.loop.OfferLine(decide.Line{Attempt: policy.Attempt{Addr: nth(20, i), At: now, Kind: policy.AuthFailure, User: "1000"}, Read: now}, nil)
	}
	for i := range bans {
		if _, err := r.loop.Ban(b.Context(), decide.BanOrder{Prefix: netip.PrefixFrom(nth(10, i), 32), BanTime: time.Hour, Force: true}); err != nil {
			b.Fatal(err)
		}
	}
	r.eventually("all of it is in force and said", func() bool {
		s := r.enforcer.Status()
		return s.Pending == 0 && s.Sets["ipv4"].Entries == bans && r.loop.Observed().Policy.Tracked == tracked
	})
	if err := r.ledger.Flush(); err != nil { // measure an idle daemon
		b.Fatal(err)
	}
	runtime.GC()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var took []time.Duration
	bytes := 0
	for b.Loop() {
		began := time.Now()
		bytes = scrape(b, client, "http://"+cfg.HTTP.Listen+"/metrics")
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(bytes), "bytes")
}

func scrape(t testing.TB, client *http.Client, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	n, err := io.Copy(io.Discard, response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	return int(n)
}

func nth(first byte, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{first, byte(i >> 16), byte(i >> 8), byte(i)})
}
