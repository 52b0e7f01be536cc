package firewall

import (
	"net"
	"testing"
	"time"
)

// hookSets are the places where bans are tried with real packets.
var hookSets = map[string][]Hook{
	"raw":            {{"raw", "PREROUTING"}},
	"filter":         {{"filter", "INPUT"}},
	"raw and filter": {{"raw", "PREROUTING"}, {"filter", "INPUT"}},
}

func TestPacketsOfABannedAddressDoNotArrive(t *testing.T) {
	for name, hooks := range hookSets {
		t.Run(name, func(t *testing.T) {
			onKernels(t, func(t *testing.T) {
				r := start(t, Options{Hooks: hooks})
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
					return d["ipv4"] == Dropped{3, 3 * 48} && d["ipv6"] == Dropped{3, 3 * 68}
				})
			})
		})
	}
}

func TestFlowThatStandsStops(t *testing.T) {
	for name, hooks := range hookSets {
		t.Run(name, func(t *testing.T) {
			onKernels(t, func(t *testing.T) {
				// The rule of most firewalls, which lets through whatever has been let through before.
				command(t, "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
				server := listen(t, "203.0.113.1")
				banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
				r := start(t, Options{Hooks: hooks})
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

func TestBansOutliveTheirEnforcer(t *testing.T) {
	onKernels(t, func(t *testing.T) {
		server := listen(t, "203.0.113.1")
		banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
		r := start(t, Options{})
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
	onKernels(t, func(t *testing.T) {
		server := listen(t, "203.0.113.1")
		banned := server.dial("198.51.100.7")
		r := start(t, Options{Hooks: []Hook{{"raw", "PREROUTING"}, {"filter", "INPUT"}}})
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
				return got == Dropped{want, want * 48}
			})
		}
	})
}
