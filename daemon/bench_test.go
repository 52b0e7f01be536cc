package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"fsban/config"
	"fsban/detect"
	"fsban/esl"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/policy"
)

// stream is what a FreeSWITCH sends for wrong passwords of 1,000 addresses, and how many events that is.
func stream(at time.Time) (data []byte, events int) {
	for i := range 1000 {
		c := fakeswitch.Caller{Addr: netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), Port: 5060, User: fmt.Sprint(1000 + i%50)}
		data = append(data, fakeswitch.Frames(fakeswitch.WrongPassword, c, at)...)
	}
	return data, bytes.Count(data, []byte("Content-Type: text/event-plain"))
}

// BenchmarkEvent is the cost of one event, from the bytes of the socket to the decision, beside reading the same bytes and
// throwing them away.
func BenchmarkEvent(b *testing.B) {
	now := time.Now()
	data, events := stream(now)
	b.Run("discard", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 64<<10)
		for n := 0; n < b.N; n += events {
			for r := io.Reader(bytes.NewReader(data)); ; {
				if _, err := r.Read(buf); errors.Is(err, io.EOF) {
					break
				}
			}
		}
	})
	b.Run("decide", func(b *testing.B) {
		p := config.Default().Policy
		rule := p.Rule()
		rule.FindTime = time.Nanosecond // nobody is banned: known addresses, over and over
		engine := policy.NewEngine(rule, policy.NewNeverBan(p.IgnoreIP), policy.Options{})
		detector, ev := detect.New(), esl.NewEvent(detect.Fields)
		counted := 0
		pass := func() {
			for r := esl.NewReader(bytes.NewReader(data)); ; {
				f, err := r.Next()
				if err != nil {
					break
				}
				if err := ev.Parse(f.Body); err != nil {
					b.Fatal(err)
				}
				a, outcome := detector.Event(ev, now)
				if outcome == detect.Attempt && engine.Observe(a).Verdict == policy.Counted {
					counted++
				}
			}
		}
		pass()
		if counted != events/3 {
			b.Fatalf("%d failures counted of %d events", counted, events)
		}
		b.ReportAllocs()
		b.ResetTimer()
		for n := 0; n < b.N; n += events {
			pass()
		}
	})
}

// BenchmarkBanLatency is the time from handing the last failure to the socket until the kernel holds the ban: real event
// socket on loopback, real daemon, real kernel.
func BenchmarkBanLatency(b *testing.B) {
	netns.Run(b, func(b *testing.B) {
		fs := newSwitch(b, fakeswitch.Options{})
		cfg := configFor(b, fs)
		cfg.Firewall.Backend = config.BackendIPTables
		r := start(b, fs, cfg)
		r.ready()
		var took []time.Duration
		inKernel := func() uint64 {
			var m dto.Metric
			if err := r.metrics.latency.Write(&m); err != nil {
				b.Fatal(err)
			}
			return m.GetHistogram().GetSampleCount()
		}
		for i := range b.N {
			addr := fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255)
			r.fail(addr, 4)
			r.settled()
			began := time.Now()
			r.fail(addr, 1)
			for inKernel() <= uint64(i) {
				if time.Since(began) > 10*time.Second {
					b.Fatal("never in the kernel")
				}
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	}, "iptables", "ip6tables")
}
