package hep

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fsban/internal/captures"
	"fsban/sipwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// recorded returns the datagrams of a recording.
func recorded(t *testing.T, name string) (list [][]byte) {
	t.Helper()
	r := sipwire.NewRecording(bytes.NewReader(captures.Read(t, name)))
	for {
		d, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, bytes.Clone(d))
	}
}

// running starts a Listener, whose payloads arrive on the channel.
func running(t *testing.T, o Options) (*Listener, <-chan string) {
	t.Helper()
	l, err := Listen(loopback, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, payloads := make(chan error, 1), make(chan string, 1000)
	go func() { done <- l.Run(ctx, func(p *sipwire.Packet) { payloads <- string(p.Payload) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
	return l, payloads
}

func send(t *testing.T, to netip.AddrPort, datagrams ...[]byte) {
	t.Helper()
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, d := range datagrams {
		if _, err := conn.Write(d); err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits for the counts of a Listener.
func eventually(t *testing.T, l *Listener, ok func(Stats) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(l.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute: %+v", l.Stats())
		}
	}
}

func receive(t *testing.T, payloads <-chan string) string {
	t.Helper()
	select {
	case p := <-payloads:
		return p
	case <-time.After(time.Minute):
		t.Fatal("nothing received within a minute")
		return ""
	}
}

func TestDatagramsOfAllVersionsArriveInOrder(t *testing.T) {
	for _, name := range []string{"sip/hep-version-1-register-wrong.hep", "sip/hep-version-2-register-wrong.hep", "sip/hep-tcp-register-wrong.hep"} {
		l, payloads := running(t, Options{})
		datagrams := recorded(t, name)
		send(t, l.Addr(), datagrams...)
		for _, d := range datagrams {
			if got := receive(t, payloads); !bytes.HasSuffix(d, []byte(got)) {
				t.Errorf("%s: received %q, sent %q", name, got, d)
			}
		}
		if s := l.Stats(); s.Datagrams != uint64(len(datagrams)) || s.Lost != 0 || s.Last.IsZero() {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestOtherDatagramsAreRefusedAndCounted(t *testing.T) {
	l, payloads := running(t, Options{})
	good := recorded(t, "sip/hep-tcp-register-wrong.hep")[0]
	rtcp := []byte("HEP3\x00\x19\x00\x00\x00\x0b\x00\x07\x05\x00\x00\x00\x0f\x00\x0c012345")
	send(t, l.Addr(), []byte("REGISTER sip:x SIP/2.0\r\n\r\n"), nil, rtcp, good)
	receive(t, payloads)
	s := l.Stats()
	if s.Refused != [NumReasons]uint64{NotHEP: 2, NotSIP: 1} || s.Datagrams != 1 {
		t.Errorf("%+v", s)
	}
}

func TestOnlyListedHostsMaySend(t *testing.T) {
	for _, test := range []struct {
		addr string
		want bool
	}{{"127.0.0.1", true}, {"127.9.9.9", true}, {"::1", true}, {"192.0.2.7", true}, {"198.51.100.1", false}, {"2001:db8::1", false}} {
		if got := accepts([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, netip.MustParseAddr(test.addr)); got != test.want {
			t.Errorf("%s: %v", test.addr, got)
		}
	}
}

func TestDatagramsAreForwardedUnchanged(t *testing.T) {
	collector, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	to := collector.LocalAddr().(*net.UDPAddr).AddrPort()
	l, payloads := running(t, Options{Forward: to})
	datagrams := append(recorded(t, "sip/hep-tcp-register-wrong.hep"), []byte("no HEP"))
	send(t, l.Addr(), datagrams...)
	buffer := make([]byte, sipwire.MaxMessage)
	for _, d := range datagrams {
		_ = collector.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := collector.Read(buffer)
		if err != nil || !bytes.Equal(buffer[:n], d) {
			t.Fatalf("forwarded %q, %v; want %q", buffer[:n], err, d)
		}
	}
	eventually(t, l, func(s Stats) bool { return s.Forwarded == uint64(len(datagrams)) && s.ForwardFailed == 0 })

	// Without a collector nothing waits, and reading goes on.
	l.Set(Options{Forward: netip.MustParseAddrPort("[2001:db8::1]:9060")})
	for len(payloads) > 0 {
		<-payloads
	}
	send(t, l.Addr(), datagrams[0])
	receive(t, payloads)
}

// A full buffer of the kernel loses datagrams: all of them are counted.
func TestLossIsCounted(t *testing.T) {
	l, err := Listen(loopback, Options{})
	if err != nil {
		t.Fatal(err)
	}
	const sent = 20_000
	datagram := append(bytes.Clone(recorded(t, "sip/hep-tcp-register-wrong.hep")[0]), make([]byte, 1000)...)
	conn, err := net.Dial("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range sent { // nobody reads yet
		if _, err := conn.Write(datagram); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, func(*sipwire.Packet) {}) }()
	// The count comes with a datagram that was queued after the loss.
	eventually(t, l, func(s Stats) bool {
		_, _ = conn.Write(datagram)
		return s.Lost > 0
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if s := l.Stats(); s.Lost+s.Datagrams < sent {
		t.Errorf("of %d: %+v", sent, s)
	}
}
