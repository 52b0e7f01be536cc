package esl_test

import (
	"bytes"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/percipia/eslgo"
	"github.com/percipia/eslgo/command"

	"fsban/detect"
	"fsban/esl"
	"fsban/internal/fakeswitch"
	"fsban/policy"
)

// recordedAt is the time of the recorded events.
var recordedAt = time.UnixMicro(1795363922458042)

// eventReaders are the sub-benchmarks of BenchmarkEvents: each reads b.N events of size bytes from conn.
var eventReaders = []struct {
	name string
	read func(b *testing.B, conn net.Conn, size int) error
}{
	{"discard", func(b *testing.B, conn net.Conn, size int) error {
		buf := make([]byte, 64<<10)
		for left := b.N * size; left > 0; {
			n, err := conn.Read(buf[:min(left, len(buf))])
			if err != nil {
				return err
			}
			left -= n
		}
		return nil
	}},
	{"lines", func(b *testing.B, conn net.Conn, size int) error {
		buf := make([]byte, 64<<10)
		for left := b.N * size; left > 0; {
			n, err := conn.Read(buf[:min(left, len(buf))])
			if err != nil {
				return err
			}
			left -= n
			for text, i := buf[:n], 0; i >= 0; text = text[i+1:] {
				i = bytes.IndexByte(text, '\n')
			}
		}
		return nil
	}},
	{"frames", func(b *testing.B, conn net.Conn, _ int) error {
		r := esl.NewReader(conn)
		for range b.N {
			if _, err := r.Next(); err != nil {
				return err
			}
		}
		return nil
	}},
	{"events", func(b *testing.B, conn net.Conn, _ int) error {
		return parse(b.N, conn, esl.NewFields(wanted...), func(ev *esl.Event) {
			for i := range wanted {
				ev.Get(i)
			}
		})
	}},
	{"detect", func(b *testing.B, conn net.Conn, _ int) error {
		d := detect.New(detect.Options{})
		return parse(b.N, conn, d.Fields(), func(ev *esl.Event) { d.Event(ev, recordedAt) })
	}},
	{"decide", func(b *testing.B, conn net.Conn, _ int) error {
		d := detect.New(detect.Options{})
		engine := policy.NewEngine(policy.DefaultRules(), policy.NeverBan{}, policy.Options{})
		return parse(b.N, conn, d.Fields(), func(ev *esl.Event) {
			if a, outcome := d.Event(ev, recordedAt); outcome == detect.Attempt {
				engine.Observe(a)
			}
		})
	}},
}

// BenchmarkEvents measures the cost of one event, from the socket to an attempt. Each sub-benchmark includes the work of the
// one before it; all of them read the same recorded bytes from a loopback connection: 1,000 addresses with a wrong password,
// three events each, repeated. "lines" is the minimum: it finds the end of each line. eslgo is the library's own connection.
//
// cpu-ns/op is the CPU time of the reading thread, for eslgo that of the whole process, which reads with many. Elapsed time is
// longer if other processes need the processors.
func BenchmarkEvents(b *testing.B) {
	const events = 3 * 1000
	stream := failures(1000)
	size := len(stream) / events
	for _, bench := range eventReaders {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(size))
			conn := feed(b, stream)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			began := cpuTime(b, thisThread)
			b.ResetTimer()
			if err := bench.read(b, conn, size); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(cpuTime(b, thisThread)-began)/float64(b.N), "cpu-ns/op")
		})
	}
	b.Run("eslgo", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(size))
		benchmarkESLGo(b, stream)
	})
}

const (
	thisThread  = 1 // RUSAGE_THREAD
	thisProcess = syscall.RUSAGE_SELF
)

// cpuTime is the CPU time of this thread or process.
func cpuTime(b *testing.B, whose int) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(whose, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// wanted lists the headers to read.
var wanted = []string{
	"Event-Name", "Event-Subclass", "Event-Date-Timestamp", "profile-name", "network-ip", "network-port", "from-user",
	"to-user", "to-host", "username", "user-agent", "auth-result", "registration-type",
}

// failures returns the events that FreeSWITCH sends if n addresses try a wrong password.
func failures(n int) []byte {
	var stream []byte
	addr := netip.MustParseAddr("192.0.2.0")
	for range n {
		addr = addr.Next()
		c := fakeswitch.Caller{Addr: addr}
		stream = append(stream, fakeswitch.Frames(fakeswitch.WrongPassword, c, time.UnixMicro(1795363922458042))...)
	}
	return stream
}

func parse(n int, conn net.Conn, fields *esl.Fields, use func(*esl.Event)) error {
	r, ev := esl.NewReader(conn), esl.NewEvent(fields)
	for range n {
		f, err := r.Next()
		if err != nil {
			return err
		}
		if err := ev.Parse(f.Body); err != nil {
			return err
		}
		use(ev)
	}
	return nil
}

// feed returns a connection that delivers stream again and again.
func feed(b *testing.B, stream []byte) net.Conn {
	addr := serve(b, func(conn net.Conn) {
		for {
			if _, err := conn.Write(stream); err != nil {
				return
			}
		}
	})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}

// benchmarkESLGo reads the events and the same headers with eslgo.
func benchmarkESLGo(b *testing.B, stream []byte) {
	addr := serve(b, func(conn net.Conn) {
		greet(conn)
		for {
			if _, err := conn.Write(stream); err != nil {
				return
			}
		}
	})
	opts := eslgo.DefaultInboundOptions
	opts.Logger = nil
	conn, err := opts.Dial(addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	var seen atomic.Int64
	last := int64(b.N)
	done := make(chan struct{})
	conn.RegisterEventListener(eslgo.EventListenAll, func(ev *eslgo.Event) {
		for _, name := range wanted {
			ev.GetHeader(name)
		}
		if seen.Add(1) == last {
			close(done)
		}
	})
	began := cpuTime(b, thisProcess)
	b.ResetTimer()
	if _, err := conn.SendCommand(b.Context(), command.Event{Format: "plain", Listen: []string{"ALL"}}); err != nil {
		b.Fatal(err)
	}
	<-done
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b, thisProcess)-began)/float64(b.N), "cpu-ns/op")
}
