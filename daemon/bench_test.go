package daemon

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fsban/config"
	"fsban/firewall/backend"
	"fsban/internal/fakeswitch"
)

// BenchmarkBanLatency measures the time from the write of the last failure to the socket until the kernel holds the ban, with a
// real event socket on loopback, the whole daemon and the real kernel, in namespaces of its own: a thousand bans, idle and at
// 12,000 events a second. No goroutine spins, so every wake-up is included, FreeSWITCH's too. "own" is the part that the daemon
// measures: from the event read to the kernel's answer.
func BenchmarkBanLatency(b *testing.B) {
	addr := netip.MustParseAddr("10.0.0.0") // the kernel keeps the bans of the previous daemon
	b.Run("quiet", func(b *testing.B) { benchmarkBanLatency(b, 0, &addr) })
	b.Run("12000_events_a_second", func(b *testing.B) { benchmarkBanLatency(b, 12_000, &addr) })
	if _, _, err := backend.Teardown(); err != nil { // otherwise the next benchmark's daemon adopts the bans
		b.Error(err)
	}
}

func benchmarkBanLatency(b *testing.B, events int, addr *netip.Addr) {
	fs := newSwitch(b, fakeswitch.Options{})
	cfg := configFor(b, fs)
	cfg.Firewall.Backend = config.BackendIPTables
	cfg.Policy.BanRate = 0 // no held bans
	cfg.Policy.IgnoreIP = append(cfg.Policy.IgnoreIP, "198.18.0.0/15")
	applied := &appliedBans{at: make(chan time.Time, 1)}
	r := startWith(b, fs, cfg, Options{}, func(d *Daemon) {
		applied.Histogram, d.metrics.latency = d.metrics.latency, applied
	})
	r.ready()
	ctx, cancel := context.WithCancel(b.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer cancel()
	flood.Go(func() { noise(ctx, fs, events) })

	var took []time.Duration
	for range 1000 {
		*addr = addr.Next()
		r.fail(addr.String(), 4)
		r.settled()
		last := fakeswitch.Frames(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: *addr, User: "1000"}, time.Now())
		began := time.Now()
		fs.EmitRaw(last)
		select {
		case at := <-applied.at:
			took = append(took, at.Sub(began))
		case <-time.After(20 * time.Second):
			b.Fatal("never in the kernel")
		}
	}
	report(b, "", took)
	report(b, "own-", applied.own)
	b.ReportMetric(0, "ns/op")
}

func report(b *testing.B, name string, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), name+"p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), name+"p99-µs")
}

// noise emits events at the given rate: wrong passwords of never-banned addresses.
func noise(ctx context.Context, fs *fakeswitch.Switch, events int) {
	const each, batches = 3, 1000 // events of one wrong password; batches a second
	batch := make([][]byte, batches)
	addr := netip.MustParseAddr("198.18.0.0")
	for i := range batch {
		for range events / each / batches {
			addr = addr.Next()
			batch[i] = append(batch[i], fakeswitch.Frames(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: addr}, time.Now())...)
		}
	}
	ticker := time.NewTicker(time.Second / batches)
	defer ticker.Stop()
	for began, told := time.Now(), 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for due := int(time.Since(began).Seconds() * batches); told < due; told++ {
			fs.EmitRaw(batch[told%batches])
		}
	}
}

// appliedBans reports when the daemon receives the kernel's confirmation of a ban, and keeps the latencies that the daemon
// measured.
type appliedBans struct {
	prometheus.Histogram
	at  chan time.Time
	own []time.Duration
}

func (a *appliedBans) Observe(seconds float64) {
	now := time.Now()
	a.own = append(a.own, time.Duration(seconds*float64(time.Second)))
	a.Histogram.Observe(seconds)
	a.at <- now
}

// BenchmarkBanLatencyWithATap measures the same, every other ban with a tap: FreeSWITCH mirrors the request, writes its events, and
// mirrors the answer. Without a tap nothing waits. ratio is the quotient of the two medians.
func BenchmarkBanLatencyWithATap(b *testing.B) {
	b.Cleanup(func() { // after the daemon's
		if _, _, err := backend.Teardown(); err != nil {
			b.Error(err)
		}
	})
	fs := newSwitch(b, fakeswitch.Options{})
	cfg := configFor(b, fs)
	cfg.Firewall.Backend = config.BackendIPTables
	cfg.Policy.BanRate = 0 // no held bans
	cfg.SIP.Tap, cfg.SIP.HEP.Listen = config.TapHEP, "127.0.0.1:0"
	applied := &appliedBans{at: make(chan time.Time, 1)}
	r := startWith(b, fs, cfg, Options{}, func(d *Daemon) {
		applied.Histogram, d.metrics.latency = d.metrics.latency, applied
	})
	r.ready()
	r.eventually("it listens for HEP", func() bool { return r.sources.tap.hep.Load() != nil })
	conn, err := net.Dial("udp", r.sources.tap.hep.Load().Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	addr := netip.MustParseAddr("11.0.0.0")
	var without, with []time.Duration
	for i := range 1000 {
		addr = addr.Next()
		frames := fakeswitch.Frames(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: addr, User: "1000"}, time.Now())
		r.eventually("the tap is idle", func() bool { return r.sources.tap.hepStats().Datagrams == uint64(len(with)*6) })
		r.sources.tap.joinStats() // the last message was taken in, too
		r.sources.tap.setAlive(false)
		if tapped := i%2 == 1; tapped {
			sip := onWire(b, frames, addr)
			r.mirror(sip.challenge, sip.challenged, sip.answer, sip.refused)
			r.fail(addr.String(), 4)
			r.settled()
			_, _ = conn.Write(sip.answer)
			began := time.Now()
			fs.EmitRaw(frames)
			_, _ = conn.Write(sip.refused)
			with = append(with, applied.next(b).Sub(began))
			continue
		}
		r.fail(addr.String(), 4)
		r.settled()
		began := time.Now()
		fs.EmitRaw(frames)
		without = append(without, applied.next(b).Sub(began))
	}
	if got := r.metric("fsban_sip_joined_total"); !strings.Contains(got, "proof=nonce 2500\n") {
		b.Fatalf("not every failure was joined with its request:\n%s", got)
	}
	report(b, "without-", without)
	report(b, "with-", with)
	b.ReportMetric(float64(with[len(with)/2])/float64(without[len(without)/2]), "ratio")
	b.ReportMetric(0, "ns/op")
}

// next waits for the next ban.
func (a *appliedBans) next(b *testing.B) time.Time {
	b.Helper()
	select {
	case at := <-a.at:
		return at
	case <-time.After(20 * time.Second):
		b.Fatal("never in the kernel")
		return time.Time{}
	}
}
