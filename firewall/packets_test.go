package firewall_test

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

// hookSets are the places where bans are tried with real packets.
var hookSets = map[string][]firewall.Hook{
	"raw":            {{Table: "raw", Chain: "PREROUTING"}},
	"filter":         {{Table: "filter", Chain: "INPUT"}},
	"raw and filter": {{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "INPUT"}},
}

func TestPacketsOfABannedAddressDoNotArrive(t *testing.T) {
	for name, hooks := range hookSets {
		t.Run(name, func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				r := startKind(t, kind, firewall.Options{Hooks: hooks})
				for _, test := range []struct {
					ban, server string
					banned      []string
					allowed     string
				}{
					{"198.51.100.7/32", "203.0.113.1", []string{"198.51.100.7"}, "198.51.100.8"},
					{"192.0.2.0/24", "203.0.113.1", []string{"192.0.2.0", "192.0.2.255"}, "192.0.3.0"},
					{"2001:db8:1::7/128", "2001:db8::1", []string{"2001:db8:1::7"}, "2001:db8:1::8"},
					{"2001:db8:2::/64", "2001:db8::1", []string{"2001:db8:2::", "2001:db8:2:0:ffff:ffff:ffff:ffff"}, "2001:db8:2:1::"},
				} {
					server := listen(t, test.server)
					var banned []*net.UDPConn
					for _, address := range test.banned {
						banned = append(banned, server.dial(address))
					}
					allowed := server.dial(test.allowed)
					for i, conn := range banned {
						send(t, conn)
						if from := server.next(); from != test.banned[i] {
							t.Fatalf("before the ban of %s a packet of %s arrived", test.ban, from)
						}
					}

					r.ban(test.ban, time.Hour)
					r.settle()
					for _, conn := range banned {
						send(t, conn)
					}
					send(t, allowed)
					if from := server.next(); from != test.allowed {
						t.Errorf("in spite of the ban of %s a packet of %s arrived", test.ban, from)
					}
					r.until("counted", func() bool { return r.packets(test.ban) == uint64(len(banned)) })

					r.unban(test.ban)
					r.settle()
					for i, conn := range banned {
						send(t, conn)
						if from := server.next(); from != test.banned[i] {
							t.Errorf("after the unban of %s a packet of %s arrived", test.ban, from)
						}
					}
				}
				r.until("counted by family", func() bool {
					d := r.Status().Dropped
					return d["ipv4"] == firewall.Dropped{3, 3 * 48} && d["ipv6"] == firewall.Dropped{3, 3 * 68}
				})
			})
		})
	}
}

func TestEstablishedFlowIsCut(t *testing.T) {
	for name, hooks := range hookSets {
		t.Run(name, func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				// The rule of most firewalls: accept packets of established flows.
				kerneltest.Command(t, "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
				server := listen(t, "203.0.113.1")
				banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
				r := startKind(t, kind, firewall.Options{Hooks: hooks})
				for range 3 {
					send(t, banned)
					server.next()
					server.reply(banned)
				}
				r.ban("198.51.100.7", time.Hour)
				r.settle()
				for range 3 {
					send(t, banned)
				}
				send(t, allowed)
				if from := server.next(); from != "198.51.100.8" {
					t.Errorf("a packet of %s arrived", from)
				}
				r.until("counted", func() bool { return r.packets("198.51.100.7") == 3 })
			})
		})
	}
}

func TestEstablishedConnectionIsCut(t *testing.T) {
	for name, hooks := range hookSets {
		t.Run(name, func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				kerneltest.Command(t, "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
				r := startKind(t, kind, firewall.Options{Hooks: hooks})
				banned, allowed := connection(t, "198.51.100.7", "203.0.113.1"), connection(t, "198.51.100.8", "203.0.113.1")
				for _, c := range []*stream{banned, allowed} {
					if !c.passes(30 * time.Second) {
						t.Fatal("nothing passes before the ban")
					}
				}
				r.ban("198.51.100.7", time.Hour)
				r.settle()
				if banned.passes(300 * time.Millisecond) {
					t.Error("the connection of a banned address goes on")
				}
				if !allowed.passes(30 * time.Second) {
					t.Error("the connection of another address does not")
				}
				r.until("counted", func() bool { return r.packets("198.51.100.7") > 0 })
			})
		})
	}
}

func TestTheJumpMovesBeforeAnAccept(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		server := listen(t, "203.0.113.1")
		banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
		r := start(t, firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}}})
		send(t, banned) // a flow that stands
		server.next()
		server.reply(banned)
		r.ban("198.51.100.7", time.Hour)
		r.settle()
		before := r.Status()
		r.betweenChecks(
			"iptables -I INPUT 1 -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
			"iptables -I INPUT 1 -p udp -j ACCEPT",
		)
		r.until("first again", func() bool { return r.Status().Repairs == before.Repairs+1 })
		send(t, banned)
		send(t, allowed)
		if from := server.next(); from != "198.51.100.8" {
			t.Errorf("a packet of %s arrived", from)
		}
		want := "-P INPUT ACCEPT\n-A INPUT -j FSBAN\n-A INPUT -p udp -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n"
		if got := kerneltest.Command(t, "iptables -S INPUT"); got != want {
			t.Errorf("the chain is\n%s, want\n%s", got, want)
		}
	})
}

func TestBansOutliveTheirEnforcer(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		server := listen(t, "203.0.113.1")
		banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
		r := startKind(t, kind, firewall.Options{})
		r.ban("198.51.100.7", time.Hour)
		r.settle()
		r.stop()
		send(t, banned)
		send(t, allowed)
		if from := server.next(); from != "198.51.100.8" {
			t.Errorf("a packet of %s arrived", from)
		}
		r.until("counted", func() bool { return r.packets("198.51.100.7") == 1 })
	})
}

func TestDroppedNeverGoesDown(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		server := listen(t, "203.0.113.1")
		banned := server.dial("198.51.100.7")
		r := start(t, firewall.Options{Hooks: []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "INPUT"}}})
		r.ban("198.51.100.7", time.Hour)
		r.settle()
		want := uint64(0)
		for _, interference := range []string{"", "iptables -t raw -F", "iptables -t raw -Z", "iptables -F", "ipset flush fsban4", "iptables -t raw -D FSBAN 1"} {
			if interference != "" {
				r.betweenChecks(interference)
				r.checked()
			}
			for range 3 {
				send(t, banned)
			}
			want += 3
			r.until("counted after "+interference, func() bool {
				got := r.Status().Dropped["ipv4"]
				if got.Packets > want {
					t.Fatalf("%d packets were counted after %q, %d were sent", got.Packets, interference, want)
				}
				return got == firewall.Dropped{want, want * 48}
			})
		}
	})
}

func TestDroppedIsOfThisProcessAndSurvivesWhatOthersFlush(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		server := listen(t, "203.0.113.1")
		banned := server.dial("198.51.100.7")
		three := func() {
			for range 3 {
				send(t, banned)
			}
		}
		counts := func(r *rig, want uint64) {
			r.until(fmt.Sprintf("counted: %d packets", want), func() bool {
				got := r.Status().Dropped["ipv4"]
				if got.Packets > want {
					t.Fatalf("%d packets were counted, %d were sent", got.Packets, want)
				}
				return got == firewall.Dropped{want, want * 48}
			})
		}
		r := startKind(t, kind, firewall.Options{})
		r.ban("198.51.100.7", time.Hour)
		r.settle()
		three()
		counts(r, 3)
		r.stop()
		three() // stopped all the same, and nobody counts
		again := startKind(t, kind, firewall.Options{})
		again.checked()
		three()
		counts(again, 3)
		flush := "iptables -t raw -F"
		if kind == "nftables" {
			flush = "nft flush ruleset"
		}
		again.betweenChecks(flush)
		again.until("banned again", func() bool { return slices.Equal(kerneltest.Banned(t, again.backend), []string{"198.51.100.7/32"}) })
		again.checked()
		counts(again, 3)
		three()
		counts(again, 6)
		again.ban("198.51.100.7", 2*time.Hour) // another end: with one rule a ban, another rule
		again.settle()
		again.checked()
		three()
		counts(again, 9)
	})
}

// A stream is a TCP connection with the data that arrived at its other end.
type stream struct {
	t       testing.TB
	conn    net.Conn
	arrived net.Conn
}

// connection opens a TCP connection between two addresses, which loopback is given.
func connection(t testing.TB, from, to string) *stream {
	t.Helper()
	assign(t, from)
	assign(t, to)
	listener, err := net.Listen("tcp", net.JoinHostPort(to, "0")) //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, listener.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	arrived, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Close(), arrived.Close() })
	return &stream{t, conn, arrived}
}

// passes tells whether something that is written comes out within a time.
func (s *stream) passes(within time.Duration) bool {
	s.t.Helper()
	if _, err := s.conn.Write([]byte("REGISTER")); err != nil {
		s.t.Fatal(err)
	}
	_ = s.arrived.SetReadDeadline(time.Now().Add(within))
	_, err := s.arrived.Read(make([]byte, 8))
	return err == nil
}
