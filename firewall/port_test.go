package firewall_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

func TestParsePorts(t *testing.T) {
	const notAPort = " is not a port: write udp/5060 or udp/16384-32768, with udp, tcp or sctp"
	for s, want := range map[string]string{
		"udp/5060":             "",
		"tcp/5060-5061":        "",
		"sctp/1-65535":         "",
		"":                     `""` + notAPort,
		"5060":                 `"5060"` + notAPort,
		"udp/":                 `"udp/"` + notAPort,
		"udp/sip":              `"udp/sip"` + notAPort,
		"icmp/1":               `"icmp/1"` + notAPort,
		"UDP/5060":             `"UDP/5060"` + notAPort,
		"udp/5060,5061":        `"udp/5060,5061"` + notAPort,
		"udp/5060-5061-5062":   `"udp/5060-5061-5062"` + notAPort,
		"udp/5060\n":           `"udp/5060\n"` + notAPort,
		"udp/0":                `"udp/0": ports are 1 to 65535`,
		"udp/65536":            `"udp/65536": ports are 1 to 65535`,
		"udp/5060-65536":       `"udp/5060-65536": ports are 1 to 65535`,
		"udp/32768-16384":      `"udp/32768-16384" ends before it begins`,
		"tcp/5060-5060-5060-1": `"tcp/5060-5060-5060-1"` + notAPort,
	} {
		p, err := firewall.ParsePorts(s)
		switch {
		case want == "" && (err != nil || p.String() != s):
			t.Errorf("%q: %v, %v", s, p, err)
		case want != "" && (err == nil || err.Error() != want):
			t.Errorf("%q: error %v, want %s", s, err, want)
		}
	}
}

// ports reads a list of them.
func ports(t testing.TB, list ...string) []firewall.Ports {
	t.Helper()
	var all []firewall.Ports
	for _, s := range list {
		p, err := firewall.ParsePorts(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func TestRejectIsRefusedWhereTheKernelCannot(t *testing.T) {
	for _, test := range []struct {
		opts firewall.Options
		want string
	}{
		{firewall.Options{Target: firewall.Reject}, "firewall.target: the kernel cannot REJECT in raw/PREROUTING: write DROP, or put a chain of filter into firewall.chains, like filter/INPUT"},
		{firewall.Options{Target: firewall.Reject, Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}, {Table: "mangle", Chain: "INPUT"}}}, "firewall.target: the kernel cannot REJECT in mangle/INPUT: write DROP, or put a chain of filter into firewall.chains, like filter/INPUT"},
		{firewall.Options{Target: "TARPIT"}, `firewall.target: "TARPIT" is none of DROP, REJECT`},
		{firewall.Options{Target: firewall.Reject, Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}}}, ""},
		{firewall.Options{}, ""},
	} {
		_, err := test.opts.Complete()
		if test.want == "" && err != nil || test.want != "" && (err == nil || err.Error() != test.want) {
			t.Errorf("%+v: %v, want %s", test.opts, err, test.want)
		}
	}
}

// listenOn opens a UDP socket on one port.
func listenOn(t *testing.T, address string, port uint16) *server {
	t.Helper()
	assign(t, address)
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &server{t, conn, netip.AddrPortFrom(netip.MustParseAddr(address), port)}
}

func TestOnlyThePortsAreClosed(t *testing.T) {
	// The range ends below the ports that the kernel gives away (32768 to 60999): assign tries a new address on one of them.
	list := []string{"udp/5060", "tcp/5060-5061", "udp/16384-32767"}
	for i := range 15 {
		list = append(list, fmt.Sprintf("udp/%d", 7000+2*i)) // more than one rule holds
	}
	onBackends(t, func(t *testing.T, kind string) {
		for _, family := range []struct{ server, banned, allowed string }{
			{"203.0.113.1", "198.51.100.7", "198.51.100.8"}, {"2001:db8::1", "2001:db8:1::7", "2001:db8:2::8"},
		} {
			t.Run(family.server, func(t *testing.T) {
				r := startKind(t, kind, firewall.Options{Ports: ports(t, list...)})
				r.ban(family.banned, time.Hour)
				r.settle()
				for port, closed := range map[uint16]bool{
					5060: true, 16384: true, 20000: true, 32767: true, 7000: true, 7028: true,
					5061: false, 5080: false, 16383: false, 32768: false, 7001: false, 53: false,
				} {
					s := listenOn(t, family.server, port)
					send(t, s.dial(family.banned))
					send(t, s.dial(family.allowed))
					want := family.banned
					if closed {
						want = family.allowed
					}
					if from := s.next(); from != want {
						t.Errorf("port %d: a packet of %s arrived first, want %s", port, from, want)
					}
				}
				r.stop()
			})
		}
	})
}

func TestRejectAnswers(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		r := startKind(t, kind, firewall.Options{Target: firewall.Reject, Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}}})
		for _, family := range [][2]string{{"203.0.113.1", "198.51.100.7"}, {"2001:db8::1", "2001:db8:1::7"}} {
			s := listen(t, family[0])
			banned := s.dial(family[1])
			r.ban(family[1], time.Hour)
			r.settle()
			send(t, banned)
			_ = banned.SetReadDeadline(time.Now().Add(2 * time.Minute))
			if _, err := banned.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: %v, want connection refused", family[1], err)
			}
		}
	})
}

func TestChangedConfigurationLeavesNothingOld(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		clean := func(opts firewall.Options) string {
			t.Helper()
			b := open(t, opts)
			if _, err := setUp(b); err != nil {
				t.Fatal(err)
			}
			return rules(t)
		}
		configurations := []firewall.Options{
			{},
			{Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}, {Table: "filter", Chain: "FORWARD"}}},
			{Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}}, Target: firewall.Reject},
			{Hooks: []firewall.Hook{{Table: "mangle", Chain: "INPUT"}, {Table: "raw", Chain: "PREROUTING"}}, Ports: ports(t, "udp/5060", "tcp/5060")},
			{Ports: ports(t, "udp/5060-5070")},
		}
		for _, opts := range configurations { // so that all tables are there
			clean(opts)
		}
		for _, line := range []string{"-I INPUT 1 -j ACCEPT", "-t raw -A PREROUTING -j ACCEPT", "-t raw -A OUTPUT -m set --match-set fsban4 src -j ACCEPT"} {
			kerneltest.Command(t, "iptables "+line)
		}
		fresh := make([]string, len(configurations))
		for i, opts := range configurations {
			if _, err := open(t, firewall.Options{}).Teardown(); err == nil || !strings.Contains(err.Error(), "in use by a rule") {
				t.Fatal(err)
			}
			fresh[i] = clean(opts)
		}
		for i := range configurations {
			for _, j := range []int{(i + 1) % len(configurations), (i + 2) % len(configurations)} {
				clean(configurations[i])
				if got := clean(configurations[j]); got != fresh[j] {
					t.Errorf("from %+v to %+v there is\n%s, want\n%s", configurations[i], configurations[j], got, fresh[j])
				}
			}
		}
	})
}
