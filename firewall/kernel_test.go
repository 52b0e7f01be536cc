package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"fsban/internal/netns"
)

// onKernels runs f on the real kernel in namespaces of its own, once with each kind of iptables.
func onKernels(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	for _, kind := range []string{"nft", "legacy"} {
		t.Run(kind, func(t *testing.T) {
			parallel(t)
			netns.Run(t, func(t *testing.T) {
				useIPTables(t, kind)
				f(t)
			}, "iptables-"+kind, "ip6tables-"+kind, "ipset")
		})
	}
}

// onKernel is onKernels where the kind of iptables makes no difference.
func onKernel(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	parallel(t)
	netns.Run(t, func(t *testing.T) {
		useIPTables(t, "nft")
		f(t)
	}, "iptables-nft", "ip6tables-nft", "ipset")
}

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
	parallel(t)
	netns.Run(t, func(t *testing.T) {
		if kind != "nftables" {
			useIPTables(t, strings.TrimPrefix(kind, "rules "))
		}
		f(t)
	}, "nft", "iptables-nft", "iptables-legacy", "ipset")
}

// openKind opens a backend, which is closed with the test.
func openKind(t testing.TB, kind string, opts Options) Backend {
	t.Helper()
	var b Backend
	var err error
	switch {
	case kind == "nftables":
		b, err = NewNFTables(opts)
	case strings.HasPrefix(kind, "rules"):
		if len(opts.Hooks) > 1 {
			opts.Hooks = opts.Hooks[:1] // it cannot do more
		}
		b, err = NewRules(opts)
	default:
		return open(t, opts)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// parallel runs the processes of several tests side by side. In its process a test is alone, and may change PATH.
func parallel(t *testing.T) {
	if !netns.Inside() {
		t.Parallel()
	}
}

// useIPTables makes iptables the one of that kind, whatever the host's is.
func useIPTables(t testing.TB, kind string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, part := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(name + "-" + kind + part)
			if err == nil {
				err = os.Symlink(path, filepath.Join(dir, name+part))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// open returns a backend that is closed with the test.
func open(t testing.TB, opts Options) *IPTables {
	t.Helper()
	b, err := NewIPTables(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// setUp does what an enforcer does first.
func setUp(b Backend) (made []string, err error) {
	made, err = b.setup()
	g := b.guard(context.Background())
	return append(made, g.made...), errors.Join(err, g.err)
}

// start opens a backend, runs an enforcer on it and waits until it is enforcing.
func start(t testing.TB, opts Options) *rig {
	t.Helper()
	return startKind(t, "", opts)
}

func startKind(t testing.TB, kind string, opts Options) *rig {
	t.Helper()
	r := enforce(t, &gate{Backend: openKind(t, kind, opts)}, newBook(), EnforcerOptions{Check: 50 * time.Millisecond, RetryMin: 20 * time.Millisecond, RetryMax: 50 * time.Millisecond})
	r.until("enforcing", func() bool { return r.Status().Enforcing })
	return r
}

// A gate keeps the enforcer from checking while a test changes the kernel.
type gate struct {
	Backend
	mu     sync.Mutex
	checks int
}

func (g *gate) setup() ([]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Backend.setup()
}

func (g *gate) guard(ctx context.Context) guarded {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer func() { g.checks++ }()
	return g.Backend.guard(ctx)
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
		command(r.t, line)
	}
}

// until waits for something that is about to happen.
func (r *rig) until(what string, happened func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !happened(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not %s after a minute: %+v", what, r.Status())
		}
	}
}

// settle waits until the kernel has taken all orders.
func (r *rig) settle() {
	r.t.Helper()
	r.until("settled", func() bool { return r.Status().Pending == 0 })
}

// command runs a program and returns what it printed.
func command(t testing.TB, line string) string {
	t.Helper()
	words := strings.Fields(line)
	out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return string(out)
}

// changing is what sets print that changes by itself.
var changing = regexp.MustCompile(` packets \d+ bytes \d+| timeout [1-9]\d*| initval \S+`)

// rules prints the packet filter and the sets of this namespace.
func rules(t testing.TB) string {
	t.Helper()
	var s strings.Builder
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, table := range tables {
			fmt.Fprintf(&s, "%s -t %s\n%s", program, table, command(t, program+" -t "+table+" -S"))
		}
	}
	s.WriteString(changing.ReplaceAllString(command(t, "ipset save"), ""))
	return s.String()
}

// A server is a UDP socket that tells who reaches it.
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
	if err := netns.Assign(prefix(address)); err != nil {
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

// next returns the address whose packet arrives next.
func (s *server) next() string {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	_, from, err := s.conn.ReadFromUDPAddrPort(make([]byte, 64))
	if err != nil {
		s.t.Fatal(err)
	}
	return from.Addr().Unmap().String()
}

// reply answers whom s has just heard.
func (s *server) reply(to *net.UDPConn) {
	s.t.Helper()
	if _, err := s.conn.WriteToUDPAddrPort([]byte("SIP/2.0 401"), to.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		s.t.Fatal(err)
	}
	_ = to.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := to.Read(make([]byte, 64)); err != nil {
		s.t.Fatal(err)
	}
}

// packets is what the kernel has thrown away of one ban.
func (r *rig) packets(p string) uint64 {
	r.t.Helper()
	entries, err := r.Entries()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Prefix == prefix(p) {
			return e.Packets
		}
	}
	r.t.Fatalf("%s is not in the kernel", p)
	return 0
}
