package firewall

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRulesAreLimited(t *testing.T) {
	onKernels(t, func(t *testing.T) {
		b := openKind(t, "rules", Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		var ops []op
		for i := range MaxRules {
			ops = append(ops, op{prefix: nth(i), add: true})
		}
		if failed, err := b.apply(ops); len(failed) > 0 || err != nil {
			t.Fatal(len(failed), err)
		}
		more := []op{{prefix: prefix("192.0.2.1"), add: true}, {prefix: prefix("2001:db8::1"), add: true}, {prefix: nth(0), add: true, until: time.Now().Add(time.Hour)}}
		failed, err := b.apply(more)
		if len(failed) != 2 || !errors.Is(err, ErrTooManyRules) || !strings.Contains(err.Error(), "2000 rules") || !strings.Contains(err.Error(), "install ipset") {
			t.Errorf("%d failed: %v", len(failed), err)
		}
		if n := len(inKernel(t, b)); n != MaxRules {
			t.Errorf("%d bans are in force", n)
		}
	})
}

func TestEachFamilyOfRulesMayFillWhatTheOtherLeaves(t *testing.T) {
	onBackendOf(t, "rules nft", func(t *testing.T) {
		r := startKind(t, "rules nft", Options{})
		r.ban("198.51.100.7", time.Hour)
		r.ban("198.51.100.8", time.Hour)
		r.ban("2001:db8::/64", time.Hour)
		r.settle()
		if got, want := fmt.Sprint(r.Status().Sets), "map[ipv4:{2 1999} ipv6:{1 1998}]"; got != want {
			t.Errorf("sets %s, want %s", got, want)
		}
	})
}

func TestRulesEndByThemselvesAndAreTakenAway(t *testing.T) {
	onKernels(t, func(t *testing.T) {
		server := listen(t, "203.0.113.1")
		banned := server.dial("198.51.100.7")
		r := enforce(t, openKind(t, "rules", Options{}), newBook(), EnforcerOptions{Check: time.Hour}) // which would take it away
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		r.ban("198.51.100.7", 2*time.Second)
		r.ban("198.51.100.8", time.Hour)
		r.ban("198.51.100.9", Forever)
		r.settle()
		r.stop() // nobody is there to end it
		b := openKind(t, "rules", Options{}).(*Rules)
		r.until("over", func() bool {
			send(t, banned)
			_ = server.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			_, err := server.conn.Read(make([]byte, 64))
			return err == nil
		})
		if got := command(t, "iptables -t raw -S FSBAN"); strings.Count(got, "-A ") != 3 {
			t.Errorf("the chain is\n%s", got)
		}
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		got := command(t, "iptables -t raw -S FSBAN")
		if strings.Count(got, "-A ") != 2 || strings.Contains(got, "198.51.100.7") || !strings.Contains(got, "-A FSBAN -s 198.51.100.9/32 -j DROP") {
			t.Errorf("after a check the chain is\n%s", got)
		}
		if got := inKernel(t, b); !slices.Equal(got, []string{"198.51.100.8/32", "198.51.100.9/32"}) {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestRulesOfAnotherConfigurationArePutRight(t *testing.T) {
	onKernels(t, func(t *testing.T) {
		first := startKind(t, "rules", Options{Hooks: []Hook{{"filter", "INPUT"}}, Target: Reject})
		first.ban("192.0.2.1", Forever)
		first.ban("2001:db8::/64", time.Hour)
		first.settle()
		first.stop()
		command(t, "iptables -A FSBAN -j ACCEPT") // not ours
		second := startKind(t, "rules", Options{Hooks: []Hook{{"filter", "INPUT"}}, Ports: ports(t, "udp/5060", "tcp/5060")})
		want := "-N FSBAN\n-A FSBAN -s 192.0.2.1/32 -p udp -m multiport --dports 5060 -j DROP\n-A FSBAN -s 192.0.2.1/32 -p tcp -m multiport --dports 5060 -j DROP\n"
		if got := command(t, "iptables -S FSBAN"); got != want {
			t.Errorf("the chain is\n%s, want\n%s", got, want)
		}
		if len(second.adopted) != 2 {
			t.Errorf("adopted %v", second.adopted)
		}
		if got := inKernel(t, second.backend); !slices.Equal(got, []string{"192.0.2.1/32", "2001:db8::/64"}) {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestRulesThatOthersRemoveAreMadeAgain(t *testing.T) {
	onKernels(t, func(t *testing.T) {
		r := startKind(t, "rules", Options{})
		for i := range 5 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
		}
		r.settle()
		want := inKernel(t, r.backend)
		for _, lines := range [][]string{
			{"iptables -t raw -F FSBAN"}, {"iptables -t raw -D FSBAN 3"}, {"iptables -t raw -F", "iptables -t raw -X FSBAN"}, {"iptables -t raw -I FSBAN 1 -j ACCEPT"},
		} {
			r.betweenChecks(lines...)
			r.until("made again", func() bool {
				return slices.Equal(inKernel(t, r.backend), want) && !strings.Contains(rules(t), "ACCEPT\n-A") && strings.Contains(rules(t), "-A PREROUTING -j FSBAN")
			})
		}
		r.unban("192.0.2.3")
		r.settle()
		if got := inKernel(t, r.backend); len(got) != 4 {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestRulesAreOfOneTable(t *testing.T) {
	_, err := NewRules(Options{Hooks: []Hook{{"raw", "PREROUTING"}, {"filter", "INPUT"}}})
	if want := "firewall.chains: one rule a ban is made in one table only, not in raw and filter"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
