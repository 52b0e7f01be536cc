package daemon

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"fsban/config"
	"fsban/firewall"
	"fsban/internal/fakeswitch"
	"fsban/ledger"
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
	cfg.HTTP.Listen = freePort(b)
	r := start(b, fs, cfg)
	r.ready()
	now := time.Now()
	if err := r.do(b.Context(), func(l *loop) {
		for i := range tracked {
			l.engine.Observe(policy.Attempt{Addr: nth(20, i), At: now, Kind: policy.AuthFailure, User: "1000"})
		}
		for i := range bans {
			prefix, until := netip.PrefixFrom(nth(10, i), 32), now.Add(time.Hour)
			l.ledger.Add(ledger.Ban{Prefix: prefix, Since: now, Until: until, Rule: ruleOperator})
			l.enforcer.Ban(prefix, until, firewall.Cause{Read: now})
		}
		l.showPolicy()
	}); err != nil {
		b.Fatal(err)
	}
	r.eventually("all of it is in force and said", func() bool {
		s := r.enforcer.Status()
		return s.Pending == 0 && s.Sets["ipv4"].Entries == bans && r.stats.Load().Tracked == tracked
	})
	if err := r.ledger.Flush(); err != nil { // what is measured is a daemon that has come to rest
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

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
