package firewall_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsban/firewall"
	"fsban/firewall/xtables"
	"fsban/internal/kerneltest"
)

// The cost of bans for each packet, compared with fail2ban's rules. bench/kernel.sh makes tables of it.

// filter restores the rules of fail2ban for n bans, one each, in a chain that INPUT jumps to. Other rules of the table
// are removed.
func filter(b *testing.B, n int) {
	b.Helper()
	restore := func(rules string, args ...string) {
		cmd := exec.CommandContext(b.Context(), "iptables-restore", args...)
		cmd.Stdin = strings.NewReader("*filter\n" + rules + "COMMIT\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("iptables-restore: %v: %s", err, out)
		}
	}
	restore(":f2b-cti -\n-A INPUT -j f2b-cti\n-A f2b-cti -j RETURN\n")
	const atOnce = 500 // a user's socket buffer holds the messages of a few more
	for from := 0; from < n; from += atOnce {
		var rules strings.Builder
		for i := from; i < min(n, from+atOnce); i++ {
			fmt.Fprintf(&rules, "-I f2b-cti 1 -s %s -j DROP\n", nth(i))
		}
		restore(rules.String(), "--noflush")
	}
}

// BenchmarkPacket is a UDP packet on its way through the kernel, from another network namespace over a veth pair to a socket
// without a reader. All of it happens on one CPU, in the sender's call: an iteration is the cost of the packet, including its
// sending. Each run should measure one backend only: the others leave empty tables, which cost a little too.
func BenchmarkPacket(b *testing.B) {
	path := newPath(b)
	b.Run("no firewall", path.legitimate)
	for name, fill := range map[string]func(b *testing.B, n int){
		"ipset, iptables-nft":             func(b *testing.B, n int) { filled(b, "nft", n) },
		"ipset, iptables-legacy":          func(b *testing.B, n int) { filled(b, "legacy", n) },
		"nftables":                        func(b *testing.B, n int) { filled(b, "nftables", n) },
		"one rule a ban, iptables-nft":    func(b *testing.B, n int) { kerneltest.UseIPTables(b, "nft"); filter(b, n) },
		"one rule a ban, iptables-legacy": func(b *testing.B, n int) { kerneltest.UseIPTables(b, "legacy"); filter(b, n) },
	} {
		for _, n := range []int{0, 1000, 10_000, 50_000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				fill(b, n)
				b.Run("legitimate", path.legitimate)
				if n > 0 {
					b.Run("banned", func(b *testing.B) { path.banned(b, n) })
				}
			})
		}
	}
}

// A path leads from another network namespace to a socket in this one.
type path struct {
	senders func(from []netip.Addr) []int // opens sockets in the other namespace
}

// newPath makes a veth pair and a namespace for its other end, where everybody in 10.0.0.0/8 lives.
func newPath(b *testing.B) *path {
	b.Helper()
	there := kerneltest.Beside(b, []string{"203.0.113.1/24"}, []string{"203.0.113.2/24", "10.0.0.1/32"})
	kerneltest.Command(b, "ip route add 10.0.0.0/8 via 203.0.113.2")
	there(func() error {
		return exec.CommandContext(b.Context(), "ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo").Run()
	})
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		b.Cleanup(func() { _ = unix.Close(socket) })
		err = unix.Bind(socket, &unix.SockaddrInet4{Port: 5060})
	}
	if err != nil {
		b.Fatal(err)
	}
	return &path{func(from []netip.Addr) (sockets []int) {
		there(func() error {
			for _, addr := range from {
				s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				sockets = append(sockets, s)
				if err := unix.Bind(s, &unix.SockaddrInet4{Addr: addr.As4()}); err != nil {
					return err
				}
				if err := unix.Connect(s, &unix.SockaddrInet4{Addr: [4]byte{203, 0, 113, 1}, Port: 5060}); err != nil {
					return err
				}
			}
			return nil
		})
		return sockets
	}}
}

// legitimate sends packets of an address that is not banned, and wants all of them to reach the socket.
func (p *path) legitimate(b *testing.B) {
	b.Helper()
	if arrived := p.send(b, []netip.Addr{netip.MustParseAddr("10.255.0.1")}); arrived != b.N {
		b.Fatalf("%d of %d packets arrived", arrived, b.N)
	}
}

// banned sends packets of addresses that stand at regular distances among n bans, and wants none of them to arrive.
func (p *path) banned(b *testing.B, n int) {
	b.Helper()
	var from []netip.Addr
	for i := range 16 {
		from = append(from, nth(n*(2*i+1)/32).Addr())
	}
	if arrived := p.send(b, from); arrived != 0 {
		b.Fatalf("%d of %d packets arrived", arrived, b.N)
	}
}

// send sends one packet an iteration, from each address in turn, and returns how many reached the socket.
func (p *path) send(b *testing.B, from []netip.Addr) (arrived int) {
	b.Helper()
	sockets := p.senders(from)
	defer func() {
		for _, s := range sockets {
			_ = unix.Close(s)
		}
	}()
	onOneCPU(b)
	packet := bytes.Repeat([]byte{'x'}, 400) // about a REGISTER
	write := func(i int) {
		if _, err := unix.Write(sockets[i%len(sockets)], packet); err != nil {
			b.Fatal(err)
		}
	}
	// The socket fills; then the kernel counts dropped packets. The first packet waits for an ARP reply.
	for i := range 1000 {
		write(i)
		if i < 10 {
			time.Sleep(time.Millisecond)
		}
	}
	before, passed := udpErrors(b), received(b)
	i := 0
	for b.Loop() {
		write(i)
		i++
	}
	if got := received(b) - passed; got < i { // the kernel has something to say of its own at times
		b.Fatalf("%d of %d packets came over the wire", got, i)
	}
	return udpErrors(b) - before
}

// onOneCPU keeps the benchmark on one CPU, and with it the kernel's work for its packets.
func onOneCPU(b *testing.B) {
	b.Helper()
	runtime.LockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		b.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		b.Fatal(err)
	}
	// The goroutine ends locked, and its thread with it.
}

// udpErrors is how many packets found the buffer of their socket full.
func udpErrors(b *testing.B) int {
	b.Helper()
	lines := fieldsOf(b, "/proc/thread-self/net/snmp", "Udp:")
	return number(b, lines[1][slices.Index(lines[0], "RcvbufErrors")])
}

// received is how many packets have come in over the veth pair.
func received(b *testing.B) int {
	b.Helper()
	return number(b, fieldsOf(b, "/proc/thread-self/net/dev", "fsban0:")[0][2])
}

// fieldsOf returns the words of the lines of a file that begin with name.
func fieldsOf(b *testing.B, file, name string) (lines [][]string) {
	b.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 0 && words[0] == name {
			lines = append(lines, words)
		}
	}
	return lines
}

func number(b *testing.B, s string) int {
	b.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkBanOneByOne is one ban after the other, each with a rule of its own and after those before it: by fsban's rules
// mode, and by running iptables as fail2ban's action does, without the shell and the checks that fail2ban has around it.
func BenchmarkBanOneByOne(b *testing.B) {
	kerneltest.UseIPTables(b, "nft")
	b.Run("rules", func(b *testing.B) {
		k := openKind(b, "rules nft", firewall.Options{})
		if _, err := setUp(k); err != nil {
			b.Fatal(err)
		}
		defer func() { _, _ = k.Teardown() }()
		percentiles(b, func(i int) {
			if _, err := k.Apply([]firewall.Order{{Prefix: nth(i), Add: true, Until: time.Now().Add(time.Hour)}}); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("iptables", func(b *testing.B) {
		filter(b, 0)
		percentiles(b, func(i int) { kerneltest.Command(b, "iptables -w -I f2b-cti 1 -s "+nth(i).String()+" -j DROP") })
	})
}

// percentiles reports how long the median and the slowest hundredth of the iterations took.
func percentiles(b *testing.B, f func(i int)) {
	b.Helper()
	var all []time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		f(i)
		all = append(all, time.Since(start))
	}
	slices.Sort(all)
	for _, p := range []int{50, 99} {
		b.ReportMetric(float64(all[len(all)*p/100].Nanoseconds()), fmt.Sprintf("p%d-ns", p))
	}
}

// BenchmarkBansByRules are as many bans at once as the rules mode makes.
func BenchmarkBansByRules(b *testing.B) {
	kerneltest.UseIPTables(b, "nft")
	ops := make([]firewall.Order, 0, xtables.MaxRules)
	for i := range cap(ops) {
		ops = append(ops, firewall.Order{Prefix: nth(i), Add: true, Until: time.Now().Add(time.Hour)})
	}
	for b.Loop() {
		b.StopTimer()
		k := openKind(b, "rules nft", firewall.Options{})
		if _, err := k.Teardown(); err != nil {
			b.Fatal(err)
		}
		if _, err := setUp(k); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if _, err := k.Apply(ops); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTap is a packet on the same way with the rules of a tap: media, which passes them, and SIP, whose copy is received on
// another CPU.
func BenchmarkTap(b *testing.B) {
	path := newPath(b)
	for _, kind := range []string{"nft", "legacy", "nftables"} {
		for _, packet := range []struct {
			name  string
			ports []string
		}{{"no tap", nil}, {"media", []string{"udp/5070", "udp/5080", "tcp/5070", "tcp/5080"}}, {"SIP", []string{"udp/5060", "udp/5080", "tcp/5060", "tcp/5080"}}} {
			b.Run(kind+"/"+packet.name, func(b *testing.B) {
				k := filled(b, kind, 0)
				k.SetTap(tapOf(b, packet.ports...))
				if err := setUpKind(k); err != nil {
					b.Fatal(err)
				}
				heard := overhear(b)
				path.legitimate(b)
				if s := heard.Stats(); (s.Packets+s.Lost > 0) != (packet.name == "SIP") {
					b.Errorf("copied: %+v", s)
				}
			})
		}
	}
}
