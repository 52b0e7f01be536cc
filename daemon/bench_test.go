package daemon

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"fsban/config"
	"fsban/internal/fakeswitch"
)

// BenchmarkBanLatency is the time from handing the last failure to the socket until the kernel holds the ban: a real event
// socket on loopback, the whole daemon, the real kernel, in namespaces of their own.
func BenchmarkBanLatency(b *testing.B) {
	fs := newSwitch(b, fakeswitch.Options{})
	cfg := configFor(b, fs)
	cfg.Firewall.Backend = config.BackendIPTables
	cfg.Policy.BanRate = 0 // it is the way that is measured, not the guard
	r := start(b, fs, cfg)
	r.ready()
	inKernel := func() uint64 {
		var m dto.Metric
		if err := r.metrics.latency.Write(&m); err != nil {
			b.Fatal(err)
		}
		return m.GetHistogram().GetSampleCount()
	}
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		addr := fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255)
		r.fail(addr, 4)
		r.settled()
		began := time.Now()
		r.fail(addr, 1)
		for inKernel() <= uint64(i) {
			if time.Since(began) > 10*time.Second {
				b.Fatal("never in the kernel")
			}
			runtime.Gosched()
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
