package nflog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"github.com/mdlayher/netlink"

	"fsban/internal/kerneltest"
	"fsban/internal/netns"
	"fsban/sipwire"
)

const testGroup = 77

func TestOpenNamesTheRemedy(t *testing.T) {
	for name, tc := range map[string]struct {
		errno unix.Errno
		want  error
	}{
		"no module":     {unix.EINVAL, ErrUnsupported},
		"no permission": {unix.EPERM, ErrNotPermitted},
		"in use":        {unix.EBUSY, ErrInUse},
	} {
		conn := nltest.Dial(kerneltest.Refusing(tc.errno))
		err := openError(testGroup, bind(conn, testGroup))
		if !errors.Is(err, tc.want) || !strings.HasPrefix(err.Error(), "open NFLOG group 77: ") {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.Close()
	}
}

// What bind asks of the kernel.
func TestBindAsksForWholePackets(t *testing.T) {
	var asked []netlink.Message
	conn := nltest.Dial(func(messages []netlink.Message) ([]netlink.Message, error) {
		asked = append(asked, messages...)
		return nltest.Error(0, messages)
	})
	defer func() { _ = conn.Close() }()
	if err := bind(conn, 0x1234); err != nil {
		t.Fatal(err)
	}
	ad, err := netlink.NewAttributeDecoder(asked[0].Data[4:])
	if err != nil || !bytes.Equal(asked[0].Data[:4], []byte{0, 0, 0x12, 0x34}) {
		t.Fatalf("%x, %v", asked[0].Data, err)
	}
	got := make(map[uint16][]byte)
	for ad.Next() {
		got[ad.Type()] = ad.Bytes()
	}
	for kind, want := range map[uint16][]byte{
		cfgCommand: {commandBind}, cfgMode: {0, 0, 0xff, 0xfb, copyPacket, 0}, cfgTimeout: {0, 0, 0, 0}, cfgFlags: {0, flagSequence},
		cfgThreshold: binary.BigEndian.AppendUint32(nil, Threshold), cfgBuffer: binary.BigEndian.AppendUint32(nil, kernelBuffer),
	} {
		if !bytes.Equal(got[kind], want) {
			t.Errorf("attribute %d is %x, want %x", kind, got[kind], want)
		}
	}
}

// onKernel runs f in namespaces of its own, where packets to udp/5060 are copied to the group.
func onKernel(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	netns.Run(t, func(t *testing.T) {
		kerneltest.Command(t, "iptables -A INPUT -p udp --dport 5060 -j NFLOG --nflog-group 77 --nflog-threshold 32")
		f(t)
	}, "iptables")
}

func TestAGroupHasOneReader(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		first, err := Open(Options{Group: testGroup})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Group: testGroup}); !errors.Is(err, ErrInUse) {
			t.Errorf("a second reader: %v", err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := Open(Options{Group: testGroup})
		if err != nil {
			t.Fatal(err)
		}
		_ = again.Close()
	})
}

// dial returns a socket that sends to udp/5060 of loopback.
func dial(t testing.TB) net.Conn {
	t.Helper()
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5060})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Close(), conn.Close() })
	return conn
}

// A socket buffer that is too small loses packets: their number is known, and the reader goes on.
func TestLossIsCounted(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		r, err := Open(Options{Group: testGroup, Buffer: 1})
		if err != nil {
			t.Fatal(err)
		}
		conn := dial(t)
		const sent = 20_000
		text := []byte(strings.Replace(sipRequest, "NAME", "flood", 1))
		for range sent {
			if _, err := conn.Write(text); err != nil {
				t.Fatal(err)
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		done := make(chan error, 1)
		received := make(chan string, 1)
		go func() {
			done <- r.Run(ctx, func(p *sipwire.Packet) {
				if bytes.Contains(p.Payload, []byte("fence")) {
					select {
					case received <- string(p.Payload):
					default:
					}
				}
			})
		}()
		fence := []byte(strings.Replace(sipRequest, "NAME", "fence", 1))
		for heard := false; !heard; {
			_, _ = conn.Write(fence)
			select {
			case <-received:
				heard = true
			case <-time.After(20 * time.Millisecond):
			case err := <-done:
				t.Fatal(err)
			}
		}
		s := r.Stats()
		if s.Lost == 0 || s.Overflows == 0 || s.Packets == 0 || s.Packets+s.Lost < sent || s.Malformed > 0 {
			t.Errorf("%+v of %d packets", s, sent)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
		_ = r.Close()
	})
}

// A message is handed over within milliseconds, also if no other one follows.
func TestASingleMessageDoesNotWait(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		r, err := Open(Options{Group: testGroup})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		ctx, stop := context.WithCancel(t.Context())
		received, done := make(chan time.Time), make(chan error, 1)
		go func() {
			done <- r.Run(ctx, func(*sipwire.Packet) {
				select {
				case received <- time.Now():
				case <-ctx.Done():
				}
			})
		}()
		conn := dial(t)
		best := time.Hour
		for range 20 {
			began := time.Now()
			if _, err := conn.Write([]byte(sipRequest)); err != nil {
				t.Fatal(err)
			}
			best = min(best, (<-received).Sub(began))
		}
		// By default the kernel waits for a second. A tick is 10 ms at most; the best of 20 does not depend on a busy machine.
		if best > 50*time.Millisecond {
			t.Errorf("the fastest of 20 messages took %v", best)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

const sipRequest = "OPTIONS sip:NAME SIP/2.0\r\nVia: SIP/2.0/UDP x;branch=z9hG4bK1\r\nFrom: <sip:x@x>;tag=1\r\nTo: <sip:x@x>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n"

// BenchmarkReceive is the CPU time of a message of 700 bytes on its way from the kernel to the Assembler's packet, at 1,200 messages a
// second and as fast as they come. Sending is not included.
func BenchmarkReceive(b *testing.B) {
	kerneltest.Command(b, "iptables -A INPUT -p udp --dport 5060 -j NFLOG --nflog-group 77 --nflog-threshold 32")
	text := []byte(strings.Replace(sipRequest, "\r\n\r\n", "\r\nX: "+strings.Repeat("x", 700-len(sipRequest)-5)+"\r\n\r\n", 1))
	for name, rate := range map[string]int{"1200 a second": 1200, "20000 a second": 20_000} {
		b.Run(name, func(b *testing.B) {
			r, err := Open(Options{Group: testGroup})
			if err != nil {
				b.Fatal(err)
			}
			conn := dial(b)
			ctx, stop := context.WithCancel(b.Context())
			done, ready, scanned := make(chan int64, 1), make(chan struct{}), make(chan struct{}, 1)
			go func() { // alone on its thread, whose CPU time is measured
				runtime.LockOSThread()
				close(ready)
				n := 0
				_ = r.Run(ctx, func(*sipwire.Packet) {
					if n++; n == b.N {
						scanned <- struct{}{}
					}
				})
				var used unix.Rusage
				_ = unix.Getrusage(unix.RUSAGE_THREAD, &used)
				done <- used.Utime.Nano() + used.Stime.Nano()
			}()
			<-ready
			b.ReportAllocs()
			b.ResetTimer()
			began := time.Now()
			for i := range b.N {
				if i%(rate/100) == 0 {
					time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))))
				}
				_, _ = conn.Write(text)
			}
			select {
			case <-scanned:
			case <-time.After(time.Second):
			}
			b.StopTimer()
			stop()
			b.ReportMetric(float64(<-done)/float64(b.N), "cpu-ns/message")
			s := r.Stats()
			b.ReportMetric(float64(s.Lost)/float64(b.N), "lost/message")
			_ = r.Close()
		})
	}
}
