package daemon

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsban/internal/fakeswitch"
	"fsban/internal/testenv"
)

// The metrics server accepts a bounded number of connections, closes and counts the others at once, and reuses free places.
func TestVisitorsAreBoundedAndCounted(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.HTTP.Listen = testenv.Address(t)
	r := start(t, fs, cfg)
	r.ready()
	var open []net.Conn
	leave := func() {
		for _, c := range open {
			_ = c.Close()
		}
		open = nil
	}
	defer leave()
	// A connection without a request lasts until the request timeout, so this may take a while.
	r.eventually("one is closed at once", func() bool {
		for range maxVisitors {
			c, err := net.Dial("tcp", cfg.HTTP.Listen)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		return r.turnedAway.Load() > 0
	})
	last := open[len(open)-1]
	_ = last.SetReadDeadline(time.Now().Add(patience))
	if n, err := last.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("the last one: %d bytes, %v", n, err)
	}
	leave()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	page := ""
	r.eventually("there is a place again", func() bool {
		resp, err := client.Get("http://" + cfg.HTTP.Listen + "/metrics")
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		page = string(body)
		return err == nil
	})
	if !strings.Contains(page, "\nfsban_http_connections_dropped_total ") || strings.Contains(page, "\nfsban_http_connections_dropped_total 0\n") {
		t.Errorf("they are not counted:\n%s", page)
	}
}

// Any peer that reaches the port can cause failed handshakes: they are logged at debug level, and only to fsban's log.
func TestHandshakesThatFailAreNoNoise(t *testing.T) {
	var noise syncBuffer
	log.SetOutput(&noise)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	certificate(t, cfg.State.Directory, "web", nil, nil)
	cfg.HTTP.Listen, cfg.HTTP.WebConfigFile = testenv.Address(t), filepath.Join(cfg.State.Directory, "web.yml")
	if err := os.WriteFile(cfg.HTTP.WebConfigFile, []byte("tls_server_config: {cert_file: web.crt, key_file: web.key}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, fs, cfg)
	r.ready()
	r.eventually("the handshake has failed", func() bool {
		c, err := net.Dial("tcp", cfg.HTTP.Listen)
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		_, _ = c.Write([]byte("GET /metrics HTTP/1.0\r\n\r\n"))
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.ReadAll(c)
		return strings.Contains(r.log.String(), `level=DEBUG msg="http: TLS handshake error`)
	})
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if text := noise.String(); text != "" {
		t.Errorf("beside the log:\n%s", text)
	}
}

// One client cannot take the places of the others, except on this host, where each user has all addresses of 127.0.0.0/8.
func TestVisitorsOfOneAddressAreBounded(t *testing.T) {
	t.Parallel()
	conn := func(addr string) net.Conn {
		return remote{addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))}
	}
	v := &visitors{}
	let := func(addr string) bool { return v.enter(origin(conn(addr))) }
	for i := range 200 {
		if got := let(fmt.Sprintf("203.0.113.9:%d", 1+i)); got != (i < maxPerVisitor) {
			t.Fatalf("connection %d: %v", i, got)
		}
		if got := let(fmt.Sprintf("[2001:db8::%x]:1", 1+i)); got != (i < maxPerVisitor) {
			t.Fatalf("address %d of a /64: %v", i, got)
		}
	}
	if let("[::ffff:203.0.113.9]:1") {
		t.Error("the IPv4-mapped form counts by itself")
	}
	if !let("203.0.113.10:1") || !let("[2001:db8:0:1::1]:1") {
		t.Error("others are turned away")
	}
	for i := range maxVisitors - 2*maxPerVisitor - 2 {
		if !let("127.0.0.1:1") {
			t.Fatalf("connection %d of this host", i)
		}
	}
	if let("198.51.100.1:1") || let("127.0.0.1:1") {
		t.Error("more than maxVisitors")
	}
	v.leave(origin(conn("203.0.113.9:1")))
	if !let("203.0.113.9:7") || let("203.0.113.9:8") {
		t.Error("a free place is used once")
	}
	for from, n := range v.of {
		for range n {
			v.leave(from)
		}
	}
	if v.open != 0 || len(v.of) != 0 {
		t.Errorf("%d open, %v", v.open, v.of)
	}
}

// remote is a connection from an address.
type remote struct {
	net.Conn
	addr *net.TCPAddr
}

func (r remote) RemoteAddr() net.Addr { return r.addr }
