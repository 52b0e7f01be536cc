package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsban/detect"
	"fsban/esl"
	"fsban/internal/fakeswitch"
)

// BenchmarkHostile measures the CPU cost to fsban, from the bytes of the event socket to the decision and the state file, of
// failures with the most expensive user names and source addresses, compared with an ordinary failure, per event and per byte.
// FreeSWITCH spends more on each of them.
func BenchmarkHostile(b *testing.B) {
	const many = 1 << 20
	escapes := strings.Repeat("%41", 2000)
	headers := strings.Repeat("variable_sip_h_X-A: b\n", 2000)
	each := func(n uint32) uint32 { return n * 2654435761 } // pseudo-random, without repetition
	for _, bench := range []struct {
		name string
		act  *act
		what func(n uint32) (addr [4]byte, user, agent uint32)
	}{
		{"an ordinary failure", newAct(b, fakeswitch.WrongPassword, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%20_000), n % 1000, n % 50 }},
		{"everything new each time", newAct(b, fakeswitch.WrongPassword, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"one packet each", newAct(b, fakeswitch.OnePacket, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"one address, all users", newAct(b, fakeswitch.OnePacket, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, 1), each(n), each(n) }},
		{"one user, all addresses", newAct(b, fakeswitch.OnePacket, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), 1, each(n) }},
		{"bans without end", newAct(b, fakeswitch.OnePacket, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n/5%many), each(n), each(n) }},
		{"questions that nobody answers", newAct(b, fakeswitch.NoAuth, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"the same from one address", newAct(b, fakeswitch.NoAuth, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, 1), each(n), each(n) }},
		{"names for the scanners' pattern", newAct(b, fakeswitch.OnePacket, "sipvicious"+strings.Repeat("-sip", 30), ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"names of 6,000 bytes, escaped", newAct(b, fakeswitch.OnePacket, escapes, ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"names of 1 MiB", newAct(b, fakeswitch.OnePacket, strings.Repeat("x", 1<<20), ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"a refused call", newAct(b, fakeswitch.RefusedCall, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"a call with 2,000 headers", newAct(b, fakeswitch.RefusedCall, "", headers), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"a refused address", newAct(b, fakeswitch.RejectedRegister, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"mod_cti's line", newAct(b, fakeswitch.CTILine, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"mod_cti's line, forged within", newAct(b, fakeswitch.CTILine, strings.Repeat("] at[2026-11-22T", 1000), ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, n%many), each(n), each(n) }},
		{"mod_cti's line of one address", newAct(b, fakeswitch.CTILine, "", ""), func(n uint32) ([4]byte, uint32, uint32) { return nthOf(stranger, 1), each(n), each(n) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			h := newHearer(b)
			frames := bench.act.told.events + bench.act.told.frames
			batch := min(5000, 16<<20/len(bench.act.text)+1)
			var stream []byte
			var took time.Duration
			bytesRead, n := 0, uint32(0)
			for left := b.N; left > 0; {
				stream = stream[:0]
				for range min(batch, left/frames+1) {
					addr, user, agent := bench.what(n)
					stream = bench.act.append(stream, addr, user, agent, time.Now())
					n++
					left -= frames
				}
				began := processor(b)
				h.hear(stream)
				took += processor(b) - began
				bytesRead += len(stream)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took.Nanoseconds())/float64(int(n)*frames), "CPU-ns/event")
			b.ReportMetric(float64(took.Nanoseconds())/float64(bytesRead), "CPU-ns/byte")
		})
	}
}

// processor returns the CPU time that this process has used.
func processor(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A hearer is a daemon that gets the bytes of an event socket directly and decides synchronously.
type hearer struct {
	*Daemon
	b        *testing.B
	detector *detect.Detector
	event    *esl.Event
	ticked   time.Time
}

func newHearer(b *testing.B) *hearer {
	cfg := configFor(b, newSwitch(b, fakeswitch.Options{}))
	cfg.Policy.BanRate = 0
	cfg.CTILog.Path = "/nowhere/cti_fail2ban.log" // with two sources, a failure can be reported twice
	d, err := open(cfg, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var keepers sync.WaitGroup
	keepers.Go(func() { _ = d.ledger.Run(ctx) })
	keepers.Go(func() { _ = d.enforcer.Run(ctx) })
	b.Cleanup(func() {
		cancel()
		keepers.Wait()
	})
	d.sources.setConnected(nil)
	detector := detect.New(cfg.Detect())
	return &hearer{Daemon: d, b: b, detector: detector, event: esl.NewEvent(detector.Fields()), ticked: time.Now()}
}

// hear does the work of the reader and of the decision loop.
func (h *hearer) hear(stream []byte) {
	for r := esl.NewReader(bytes.NewReader(stream)); ; {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			h.b.Fatal(err)
		}
		switch f.Type {
		case esl.EventPlain:
			if err := h.event.Parse(f.Body); err != nil {
				h.b.Fatal(err)
			}
			h.sources.onEvent(h.detector, h.event)
		case esl.LogData:
			h.sources.onFrame(h.detector, esl.ParseLog(f))
		}
		h.loop.Drain()
		if now := time.Now(); now.Sub(h.ticked) > time.Second {
			h.ticked = now
			h.loop.Tick(now)
		}
	}
}
