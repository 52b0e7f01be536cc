package firewall_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/backend"
	"fsban/internal/kerneltest"
	"fsban/sipwire"
	"fsban/sipwire/nflog"
)

const tapGroup = 5060

func tapOf(t testing.TB, list ...string) firewall.Tap {
	return firewall.Tap{Group: tapGroup, Threshold: nflog.Threshold, Ports: ports(t, list...)}
}

// A listener collects the messages that the kernel copies.
type listener struct {
	*nflog.Reader
	mu   sync.Mutex
	seen []string // "FROM > TO text"
}

// overhear receives the tap's packets until the test ends.
func overhear(t testing.TB) *listener {
	t.Helper()
	r, err := nflog.Open(nflog.Options{Group: tapGroup})
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{Reader: r}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, func(p *sipwire.Packet) {
			l.mu.Lock()
			defer l.mu.Unlock()
			text, _, _ := strings.Cut(string(p.Payload), "\r\n")
			l.seen = append(l.seen, fmt.Sprintf("%v %v > %v %s %d", p.Transport, p.From, p.To, text, len(p.Payload)))
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; ctx.Err() == nil {
			t.Errorf("the reader ended with %v", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *listener) heard(line string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.seen, line)
}

// startTap starts an enforcer with a tap in force.
func startTap(t testing.TB, kind string, opts firewall.Options, tap firewall.Tap) *rig {
	t.Helper()
	r := startKind(t, kind, opts)
	if err := r.SetTap(t.Context(), tap); err != nil {
		t.Fatal(err)
	}
	r.until("tapped", func() bool {
		s := r.Tap()
		if s.Err != nil {
			t.Fatal(s.Err)
		}
		return s.On
	})
	return r
}

// sip returns a message of a length, or a little more, that names itself.
func sip(name string, length int) string {
	head := "OPTIONS sip:" + name + " SIP/2.0\r\nVia: SIP/2.0/UDP x;branch=z9hG4bK1\r\nFrom: <sip:x@x>;tag=1\r\nTo: <sip:x@x>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n"
	const end = "l: 0\r\n\r\n"
	if fill := length - len(head) - len(end) - len("X: \r\n"); fill > 0 {
		head += "X: " + strings.Repeat("x", fill) + "\r\n"
	}
	return head + end
}

func write(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func line(transport string, from, to net.Addr, name string, length int) string {
	return fmt.Sprintf("%s %v > %v OPTIONS sip:%s SIP/2.0 %d", transport, from, to, name, length)
}

// pairs are a phone and a server of each family.
var tapPairs = [][2]string{{"198.51.100.7", "203.0.113.1"}, {"2001:db8:1::7", "2001:db8::1"}}

func TestBothDirectionsOfSIPAreCopied(t *testing.T) {
	for name, hooks := range hookSets {
		t.Run(name, func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				heard := overhear(t)
				r := startTap(t, kind, firewall.Options{Hooks: hooks}, tapOf(t, "udp/5060", "udp/5070-5080", "tcp/5060"))
				for _, pair := range tapPairs {
					for _, port := range []uint16{5060, 5075} {
						server := listenOn(t, pair[1], port)
						phone := server.dial(pair[0])
						write(t, phone, sip("request", 0))
						if _, err := server.conn.WriteToUDPAddrPort([]byte(sip("answer", 0)), phone.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
							t.Fatal(err)
						}
						r.until("request heard", func() bool {
							return heard.heard(line("UDP", phone.LocalAddr(), phone.RemoteAddr(), "request", len(sip("request", 0))))
						})
						r.until("answer heard", func() bool {
							return heard.heard(line("UDP", phone.RemoteAddr(), phone.LocalAddr(), "answer", len(sip("answer", 0))))
						})
					}
					conn, arrived := dialTCP(t, pair[0], netip.AddrPortFrom(netip.MustParseAddr(pair[1]), 5060))
					long := sip("request", 30_000)
					write(t, conn, long)
					write(t, arrived, sip("answer", 0))
					r.until("request heard", func() bool {
						return heard.heard(line("TCP", conn.LocalAddr(), conn.RemoteAddr(), "request", len(long)))
					})
					r.until("answer heard", func() bool {
						return heard.heard(line("TCP", conn.RemoteAddr(), conn.LocalAddr(), "answer", len(sip("answer", 0))))
					})
				}
				if s := heard.Stats(); s.Lost+s.Overflows+s.Malformed+s.Dropped > 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// dialTCP opens a connection to a port, and returns both ends.
func dialTCP(t testing.TB, from string, to netip.AddrPort) (conn, arrived net.Conn) {
	t.Helper()
	assign(t, from)
	assign(t, to.Addr().String())
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err = net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, listener.Addr().(*net.TCPAddr))
	if err == nil {
		arrived, err = listener.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Close(), arrived.Close() })
	return conn, arrived
}

// Media and banned addresses cost the tap nothing, although what they send looks like SIP.
func TestOnlySIPOfAllowedAddressesIsCopied(t *testing.T) {
	for name, hooks := range hookSets {
		t.Run(name, func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				heard := overhear(t)
				r := startTap(t, kind, firewall.Options{Hooks: hooks}, tapOf(t, "udp/5060"))
				for i, pair := range tapPairs {
					server, media := listenOn(t, pair[1], 5060), listenOn(t, pair[1], 16384)
					phone, banned := server.dial(pair[0]), server.dial([]string{"198.51.100.8", "2001:db8:1::8"}[i])
					rtp := media.dial(pair[0])
					r.ban(banned.LocalAddr().(*net.UDPAddr).IP.String(), time.Hour)
					r.settle()
					before := heard.Stats().Packets
					for range 5 {
						write(t, banned, sip("banned", 0))
						write(t, rtp, sip("media", 0))
						if _, err := media.conn.WriteToUDPAddrPort([]byte(sip("media", 0)), rtp.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
							t.Fatal(err)
						}
					}
					write(t, phone, sip("fence", 0))
					r.until("fence heard", func() bool {
						return heard.heard(line("UDP", phone.LocalAddr(), phone.RemoteAddr(), "fence", len(sip("fence", 0))))
					})
					if n := heard.Stats().Packets - before; n != 1 {
						t.Errorf("%s: %d packets were copied, not 1", pair[0], n)
					}
				}
			})
		})
	}
}

func TestFragmentsAreReassembled(t *testing.T) {
	for _, conntrack := range []bool{false, true} {
		t.Run(fmt.Sprintf("conntrack %v", conntrack), func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				if conntrack { // which makes the kernel reassemble packets on arrival
					kerneltest.Command(t, "iptables -A INPUT -m conntrack --ctstate INVALID -j DROP")
					kerneltest.Command(t, "ip6tables -A INPUT -m conntrack --ctstate INVALID -j DROP")
				}
				heard := overhear(t)
				r := startTap(t, kind, firewall.Options{}, tapOf(t, "udp/5060", "tcp/5060"))
				for _, pair := range tapPairs {
					server := listenOn(t, pair[1], 5060)
					phone := server.dial(pair[0])
					kerneltest.Command(t, "ip link set lo mtu 1500") // loopback's own lets every message pass whole
					for _, length := range []int{2000, 9000} {
						write(t, phone, sip("request", length))
						if _, err := server.conn.WriteToUDPAddrPort([]byte(sip("answer", length)), phone.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
							t.Fatal(err)
						}
						r.until("request heard", func() bool { return heard.heard(line("UDP", phone.LocalAddr(), phone.RemoteAddr(), "request", length)) })
						r.until("answer heard", func() bool { return heard.heard(line("UDP", phone.RemoteAddr(), phone.LocalAddr(), "answer", length)) })
					}
				}
				if s := heard.Stats(); s.Dropped > 0 || s.Lost > 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestTheTapIsRepaired(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		heard := overhear(t)
		r := startTap(t, kind, firewall.Options{}, tapOf(t, "udp/5060"))
		server := listenOn(t, "203.0.113.1", 5060)
		phone := server.dial("198.51.100.7")
		flushes := []string{"iptables -F", "iptables -F FSBAN-TAP-IN", "iptables -D INPUT 1", "iptables -I INPUT 1 -p udp -j ACCEPT"}
		if kind == "nftables" {
			flushes = []string{"nft flush ruleset", "nft flush chain inet fsban tap_input", "nft delete chain inet fsban tap_input"}
		}
		for i, flush := range flushes {
			before := r.Status().Repairs
			r.betweenChecks(flush)
			r.until("repaired after "+flush, func() bool { return r.Status().Repairs > before })
			r.checked()
			name := fmt.Sprintf("after%d", i)
			write(t, phone, sip(name, 0))
			r.until("heard "+name, func() bool {
				return heard.heard(line("UDP", phone.LocalAddr(), phone.RemoteAddr(), name, len(sip(name, 0))))
			})
		}
		// Nothing is left to repair.
		before := r.Status().Repairs
		r.checked()
		r.checked()
		if now := r.Status().Repairs; now != before {
			t.Errorf("%d repairs more without a cause", now-before)
		}
	})
}

func TestTheTapFollowsItsPortsAndEnds(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		kerneltest.Command(t, "iptables -A INPUT -p tcp --dport 22 -j ACCEPT")
		kerneltest.Command(t, "ip6tables -A OUTPUT -p tcp --sport 22 -j ACCEPT")
		opts := firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}}}
		r := startKind(t, kind, opts)
		print := func() string {
			if kind == "nftables" {
				return ruleset(t)
			}
			return rules(t)
		}
		without := print()
		for _, port := range []string{"udp/5060", "udp/5080"} {
			if err := r.SetTap(t.Context(), tapOf(t, port)); err != nil {
				t.Fatal(err)
			}
			number := strings.TrimPrefix(port, "udp/")
			r.until("the rules of "+port, func() bool { return r.Tap().On && strings.Contains(print(), number) })
			other := map[string]string{"5060": "dport 5080", "5080": "dport 5060"}[number]
			if text := print(); strings.Contains(text, other) || !strings.Contains(text, "dport "+number) || !strings.Contains(text, "sport "+number) {
				t.Errorf("%s:\n%s", port, text)
			}
		}
		again := openKind(t, kind, opts)
		again.SetTap(tapOf(t, "udp/5080"))
		before := print()
		if err := setUpKind(again); err != nil {
			t.Fatal(err)
		}
		if after := print(); after != before {
			t.Errorf("a second start changed\n%s\nto\n%s", before, after)
		}
		if err := r.SetTap(t.Context(), firewall.Tap{}); err != nil {
			t.Fatal(err)
		}
		r.until("removed", func() bool { return print() == without })
		if s := r.Tap(); s.On || s.Err != nil {
			t.Errorf("%+v", s)
		}
	})
}

// setUpKind sets a backend up as an enforcer does.
func setUpKind(b firewall.Backend) error {
	if _, err := b.Setup(); err != nil {
		return err
	}
	v := b.Verify(context.Background())
	if v.Err != nil {
		return v.Err
	}
	return v.Tap
}

func TestTeardownRemovesTheTap(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		kerneltest.Command(t, "iptables -A INPUT -p tcp --dport 22 -j ACCEPT")
		kerneltest.Command(t, "ip6tables -P FORWARD DROP")
		before := rules(t) + ruleset(t)
		r := startTap(t, kind, firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "FORWARD"}}}, tapOf(t, "udp/5060", "tcp/5060"))
		r.stop()
		if kind == "legacy" || kind == "rules legacy" { // the rules of the other variant are removed as well
			kerneltest.UseIPTables(t, "nft")
		}
		removed, kept, err := backend.Teardown()
		if err != nil || len(kept) > 0 || len(removed) == 0 {
			t.Errorf("removed %q, kept %q, %v", removed, kept, err)
		}
		if kind == "legacy" || kind == "rules legacy" {
			kerneltest.UseIPTables(t, "legacy")
		}
		if after := rules(t) + ruleset(t); strings.Contains(after, "FSBAN") || strings.Contains(after, "fsban") || !sameRules(before, after) {
			t.Errorf("after the teardown\n%s\nbefore\n%s", after, before)
		}
	})
}

// sameRules compares rules without the empty tables that a program of iptables-nft makes when it looks.
func sameRules(a, b string) bool {
	lines := func(s string) (list []string) {
		for l := range strings.Lines(s) {
			if strings.Contains(l, "-A ") || strings.Contains(l, "-N ") || strings.Contains(l, "-P FORWARD DROP") {
				list = append(list, l)
			}
		}
		return list
	}
	return slices.Equal(lines(a), lines(b))
}

func TestAForeignChainOfTheTapsNameStays(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		kerneltest.Command(t, "iptables -N FSBAN-TAP-IN")
		kerneltest.Command(t, "iptables -A FSBAN-TAP-IN -p tcp -j ACCEPT")
		r := start(t, firewall.Options{})
		if err := r.SetTap(t.Context(), tapOf(t, "udp/5060")); err != nil {
			t.Fatal(err)
		}
		r.until("refused", func() bool { return r.Tap().Err != nil })
		if s := r.Tap(); s.On || !strings.Contains(s.Err.Error(), "not made by fsban") {
			t.Errorf("%+v", s)
		}
		if s := r.Status(); !s.Enforcing {
			t.Errorf("no bans: %+v", s)
		}
		if text := kerneltest.Command(t, "iptables -S FSBAN-TAP-IN"); text != "-N FSBAN-TAP-IN\n-A FSBAN-TAP-IN -p tcp -j ACCEPT\n" {
			t.Errorf("the chain is now %q", text)
		}
	})
}

// A tap that changes while the rules are verified is verified again.
func TestATapThatChangesDuringAVerification(t *testing.T) {
	k := newKernel()
	k.slow = 50 * time.Millisecond
	r := enforce(t, k, newBook(), firewall.EnforcerOptions{Check: time.Hour})
	for _, port := range []string{"udp/5060", "udp/5080", "udp/5090"} {
		if err := r.SetTap(t.Context(), tapOf(t, port)); err != nil {
			t.Fatal(err)
		}
	}
	r.until("on", func() bool { return r.Tap().On })
	k.change(func() {
		if k.tap.Ports[0].First != 5090 {
			t.Errorf("the kernel has %v", k.tap.Ports)
		}
	})
	for text, tap := range map[string]firewall.Tap{
		"only packets of udp and tcp": {Ports: ports(t, "sctp/5060")},
		"the limit is 32":             {Ports: make([]firewall.Ports, 33)},
	} {
		if err := r.SetTap(t.Context(), tap); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %s", err, text)
		}
	}
}
