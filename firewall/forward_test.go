package firewall_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

// forwarding are the addresses of one family: two peers outside, and a container that they reach through this host.
var forwarding = []struct{ iptables, banned, bystander, container string }{
	{"iptables", "198.51.100.7", "198.51.100.8", "172.17.0.2"},
	{"ip6tables", "2001:db8:1::7", "2001:db8:1::8", "2001:db8:2::2"},
}

func TestForwardedPacketsOfABannedAddressDoNotArrive(t *testing.T) {
	for _, hook := range []firewall.Hook{{Table: "filter", Chain: "FORWARD"}, {Table: "filter", Chain: "DOCKER-USER"}, {Table: "raw", Chain: "PREROUTING"}} {
		t.Run(hook.String(), func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				if kind == "nftables" && hook.Chain == "DOCKER-USER" {
					return // a chain of iptables
				}
				outside, inside := router(t)
				for _, f := range forwarding {
					dockerRules(t, f.iptables)
				}
				r := startKind(t, kind, firewall.Options{Hooks: []firewall.Hook{hook}})
				for _, f := range forwarding {
					server := inside.listen(f.container)
					flow, fresh := outside.dial(f.banned, server), outside.dial(f.banned, server)
					bystander := outside.dial(f.bystander, server)
					bothArrive := func(when string) {
						t.Helper()
						for _, conn := range []*net.UDPConn{flow, fresh} {
							send(t, conn)
							if from := server.next(); from != f.banned {
								t.Fatalf("%s the ban of %s a packet of %s arrived", when, f.banned, from)
							}
							if conn == flow {
								server.reply(flow)
							}
						}
					}
					bothArrive("before")
					bothArrive("before") // the flow stands by now

					r.ban(f.banned, time.Hour)
					r.settle()
					for _, conn := range []*net.UDPConn{flow, fresh, bystander} {
						send(t, conn)
					}
					if from := server.next(); from != f.bystander {
						t.Errorf("in spite of the ban of %s a packet of %s arrived", f.banned, from)
					}
					r.until("counted", func() bool { return r.packets(f.banned) == 2 })

					r.unban(f.banned)
					r.settle()
					bothArrive("after")
				}
			})
		})
	}
}

// Forwarded packets do not pass filter/INPUT. This also shows that the packets of these tests are forwarded.
func TestForwardedPacketsPassInput(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		outside, inside := router(t)
		r := startKind(t, kind, firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}}})
		for _, f := range forwarding {
			server := inside.listen(f.container)
			banned := outside.dial(f.banned, server)
			r.ban(f.banned, time.Hour)
			r.settle()
			send(t, banned)
			if from := server.next(); from != f.banned {
				t.Errorf("a packet of %s arrived", from)
			}
			if n := r.packets(f.banned); n != 0 {
				t.Errorf("%d packets of %s were thrown away", n, f.banned)
			}
		}
	})
}

// dockerRules makes the rules of docker for one family, and rules that admins add to its chain. Packets of an established flow pass
// by the rules for ESTABLISHED, and by no other.
func dockerRules(t testing.TB, iptables string) {
	t.Helper()
	for _, rule := range []string{
		"-P FORWARD DROP",
		"-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
		"-A FORWARD -m conntrack --ctstate NEW -j ACCEPT",
		"-N DOCKER-USER",
		"-I FORWARD 1 -j DOCKER-USER",
		"-A DOCKER-USER -m conntrack --ctstate ESTABLISHED -j ACCEPT",
		"-A DOCKER-USER -j RETURN",
	} {
		kerneltest.Command(t, iptables+" "+rule)
	}
}

// router makes this network namespace one that forwards between two others: the world, and a container.
func router(t testing.TB) (outside, inside *place) {
	t.Helper()
	sysctl(t, "ipv4/ip_forward", "1")
	sysctl(t, "ipv6/conf/all/forwarding", "1")
	outside = beside(t, "outside", "198.51.100.1/24", "2001:db8:1::1/64")
	inside = beside(t, "inside", "172.17.0.1/16", "2001:db8:2::1/64")
	for _, f := range forwarding {
		outside.assign(f.banned, f.bystander)
		inside.assign(f.container)
	}
	for _, f := range forwarding {
		outside.reaches(inside, f.banned, f.container)
	}
	return outside, inside
}

// A place is a network namespace with one link to this one, which is its gateway.
type place struct {
	t        testing.TB
	netns    *os.File
	gateways []netip.Prefix
}

// beside makes a network namespace with a link. The near end of the link has the given name and the addresses of the gateway.
func beside(t testing.TB, link string, gateways ...string) *place {
	t.Helper()
	p := &place{t: t}
	here := currentNetns(t)
	p.do(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatalf("a network namespace beside this one: %v", err)
		}
		p.netns = currentNetns(t)
		kerneltest.Command(t, fmt.Sprintf("ip link add uplink type veth peer name %s netns /proc/%d/fd/%d", link, os.Getpid(), here.Fd()))
		kerneltest.Command(t, "ip link set uplink up")
	})
	kerneltest.Command(t, "ip link set "+link+" up")
	for _, g := range gateways {
		kerneltest.Command(t, "ip address add "+g+" dev "+link+" nodad")
		p.gateways = append(p.gateways, netip.MustParsePrefix(g))
	}
	return p
}

// do runs f with the network of the place.
func (p *place) do(f func()) {
	p.t.Helper()
	runtime.LockOSThread() // a namespace belongs to the thread, its sockets and its processes
	here := currentNetns(p.t)
	defer func() {
		if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
			p.t.Errorf("back to the network namespace of the test: %v", err)
			return // and the thread ends with the test
		}
		runtime.UnlockOSThread()
	}()
	if p.netns != nil {
		if err := unix.Setns(int(p.netns.Fd()), unix.CLONE_NEWNET); err != nil {
			p.t.Fatalf("enter a network namespace: %v", err)
		}
	}
	f()
}

// assign gives the place addresses in the network of a gateway, and a route through it. They can be used at once (nodad).
func (p *place) assign(addresses ...string) {
	p.t.Helper()
	p.do(func() {
		for _, address := range addresses {
			addr := netip.MustParseAddr(address)
			for _, g := range p.gateways {
				if g.Contains(addr) {
					kerneltest.Command(p.t, fmt.Sprintf("ip address add %v/%d dev uplink nodad", addr, g.Bits()))
					kerneltest.Command(p.t, fmt.Sprintf("ip route replace default via %v", g.Addr()))
				}
			}
		}
	})
}

// listen opens a UDP socket in the place.
func (p *place) listen(address string) *server {
	p.t.Helper()
	s := &server{t: p.t}
	p.do(func() {
		var err error
		if s.conn, err = net.ListenUDP("udp", udpAddr(address)); err != nil {
			p.t.Fatal(err)
		}
	})
	p.t.Cleanup(func() { _ = s.conn.Close() })
	s.addr = s.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	return s
}

// dial opens a UDP socket in the place, to a server in another one.
func (p *place) dial(address string, s *server) *net.UDPConn {
	p.t.Helper()
	var conn *net.UDPConn
	p.do(func() {
		var err error
		if conn, err = net.DialUDP("udp", udpAddr(address), net.UDPAddrFromAddrPort(s.addr)); err != nil {
			p.t.Fatal(err)
		}
	})
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// reaches waits until a packet arrives: a new link loses the first ones.
func (p *place) reaches(other *place, from, to string) {
	p.t.Helper()
	server := other.listen(to)
	conn := p.dial(from, server)
	var err error
	for range 1000 {
		_, _ = conn.Write([]byte{0})
		_ = server.conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err = server.conn.Read(make([]byte, 1)); err == nil {
			return
		}
	}
	p.t.Fatalf("%s does not reach %s: %v", from, to, err)
}

// currentNetns is the network namespace of this thread, open until the test ends.
func currentNetns(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func udpAddr(address string) *net.UDPAddr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), 0))
}

// sysctl changes a setting of the network namespace of this thread.
func sysctl(t testing.TB, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}
