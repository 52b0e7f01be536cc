package firewall_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/nft"
	"fsban/firewall/xtables"
	"fsban/internal/kerneltest"
	"fsban/internal/netns"
)

// kinds are the ways of banning for which the same is promised.
var kinds = []string{"nft", "legacy", "nftables", "rules nft", "rules legacy"}

// onBackends runs f on the real kernel in namespaces of its own, once with each way of banning.
func onBackends(t *testing.T, f func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			onBackendOf(t, kind, func(t *testing.T) { f(t, kind) })
		})
	}
}

// onBackendOf is onBackends with one way of banning.
func onBackendOf(t *testing.T, kind string, f func(t *testing.T)) {
	t.Helper()
	kerneltest.Parallel(t)
	onNamespace(t, kind, f)
}

// onNamespace is onBackendOf for a test that is not to run in parallel with others.
func onNamespace(t *testing.T, kind string, f func(t *testing.T)) {
	t.Helper()
	netns.Run(t, func(t *testing.T) {
		if kind != "nftables" {
			kerneltest.UseIPTables(t, strings.TrimPrefix(kind, "rules "))
		}
		f(t)
	}, "nft", "iptables-nft", "iptables-legacy", "ipset")
}

// openKind opens a backend, which is closed with the test.
func openKind(t testing.TB, kind string, opts firewall.Options) firewall.Backend {
	t.Helper()
	var b firewall.Backend
	var err error
	switch {
	case kind == "nftables":
		b, err = nft.New(opts)
	case strings.HasPrefix(kind, "rules"):
		if len(opts.Hooks) > 1 {
			opts.Hooks = opts.Hooks[:1] // it cannot do more
		}
		b, err = xtables.NewRules(opts)
	default:
		return open(t, opts)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// open returns a backend that is closed with the test.
func open(t testing.TB, opts firewall.Options) *xtables.IPTables {
	t.Helper()
	b, err := xtables.NewIPTables(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// setUp makes sets and rules, as an enforcer does at its start.
func setUp(b firewall.Backend) (made []string, err error) {
	made, err = b.Setup()
	g := b.Verify(context.Background())
	return append(made, g.Made...), errors.Join(err, g.Err)
}

// start opens a backend, runs an enforcer on it and waits until it is enforcing.
func start(t testing.TB, opts firewall.Options) *rig {
	t.Helper()
	return startKind(t, "", opts)
}

func startKind(t testing.TB, kind string, opts firewall.Options) *rig {
	t.Helper()
	return started(t, openKind(t, kind, opts), newBook())
}

// startWith is start with a book that has been written before.
func startWith(t testing.TB, book *book, opts firewall.Options) *rig {
	t.Helper()
	return started(t, open(t, opts), book)
}

func started(t testing.TB, b firewall.Backend, book *book) *rig {
	t.Helper()
	r := enforce(t, &gate{Backend: b}, book, firewall.EnforcerOptions{Check: 50 * time.Millisecond, RetryMin: 20 * time.Millisecond, RetryMax: 50 * time.Millisecond})
	r.until("enforcing", func() bool { return r.Status().Enforcing })
	return r
}

// A gate keeps the enforcer from checking while a test changes the kernel.
type gate struct {
	firewall.Backend
	mu     sync.Mutex
	checks int
}

func (g *gate) Setup() ([]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Backend.Setup()
}

func (g *gate) Verify(ctx context.Context) firewall.Verification {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer func() { g.checks++ }()
	return g.Backend.Verify(ctx)
}

// checked waits until the enforcer has checked everything once more.
func (r *rig) checked() {
	r.t.Helper()
	checks := func() int {
		g := r.backend.(*gate)
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.checks
	}
	before := checks()
	r.until("checked", func() bool { return checks() >= before+2 && r.Status().Pending == 0 })
}

// betweenChecks runs the commands of a test while nothing is repaired.
func (r *rig) betweenChecks(lines ...string) {
	r.t.Helper()
	g := r.backend.(*gate)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, line := range lines {
		kerneltest.Command(r.t, line)
	}
}

// until waits for something that is about to happen.
func (r *rig) until(what string, happened func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not %s after two minutes: %+v", what, r.Status())
		}
	}
}

// settle waits until the kernel has taken all orders.
func (r *rig) settle() {
	r.t.Helper()
	r.until("settled", func() bool { return r.Status().Pending == 0 })
}

// changing matches counters and remaining times.
var changing = regexp.MustCompile(` packets \d+ bytes \d+| timeout [1-9]\d*| initval \S+`)

// rules prints the packet filter and the sets of this namespace.
func rules(t testing.TB) string {
	t.Helper()
	var s strings.Builder
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, table := range firewall.Tables {
			fmt.Fprintf(&s, "%s -t %s\n%s", program, table, kerneltest.Command(t, program+" -t "+table+" -S"))
		}
	}
	s.WriteString(changing.ReplaceAllString(kerneltest.Command(t, "ipset save"), ""))
	return s.String()
}

// A server is a UDP socket that reports the senders of packets.
type server struct {
	t    testing.TB
	conn *net.UDPConn
	addr netip.AddrPort
}

// listen opens a UDP socket on address, which loopback is given.
func listen(t testing.TB, address string) *server {
	t.Helper()
	assign(t, address)
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &server{t, conn, conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// dial returns a socket of address, which loopback is given, to the server.
func (s *server) dial(address string) *net.UDPConn {
	s.t.Helper()
	assign(s.t, address)
	from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0))
	conn, err := net.DialUDP("udp", from, net.UDPAddrFromAddrPort(s.addr))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func assign(t testing.TB, address string) {
	t.Helper()
	if err := netns.Assign(kerneltest.Prefix(address)); err != nil {
		t.Fatal(err)
	}
}

// send sends one packet of 20 bytes, with the headers 48 of IPv4 and 68 of IPv6.
func send(t testing.TB, conn *net.UDPConn) {
	t.Helper()
	if _, err := conn.Write([]byte("REGISTER sip:x SIP/2")); err != nil {
		t.Fatal(err)
	}
}

// next returns the source address of the next packet.
func (s *server) next() string {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	_, from, err := s.conn.ReadFromUDPAddrPort(make([]byte, 64))
	if err != nil {
		s.t.Fatal(err)
	}
	return from.Addr().Unmap().String()
}

// reply sends a packet to the last sender.
func (s *server) reply(to *net.UDPConn) {
	s.t.Helper()
	if _, err := s.conn.WriteToUDPAddrPort([]byte("SIP/2.0 401"), to.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		s.t.Fatal(err)
	}
	_ = to.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if _, err := to.Read(make([]byte, 64)); err != nil {
		s.t.Fatal(err)
	}
}

// packets returns the number of packets that one ban dropped.
func (r *rig) packets(p string) uint64 {
	r.t.Helper()
	entries, err := r.Entries()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Prefix == kerneltest.Prefix(p) {
			return e.Packets
		}
	}
	r.t.Fatalf("%s is not in the kernel", p)
	return 0
}
