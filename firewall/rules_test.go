package firewall_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/xtables"
	"fsban/internal/kerneltest"
)

func TestRulesAreLimited(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		b := openKind(t, "rules", firewall.Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		var ops []firewall.Order
		for i := range xtables.MaxRules {
			ops = append(ops, firewall.Order{Prefix: nth(i), Add: true})
		}
		if failed, err := b.Apply(ops); len(failed) > 0 || err != nil {
			t.Fatal(len(failed), err)
		}
		more := []firewall.Order{{Prefix: kerneltest.Prefix("192.0.2.1"), Add: true}, {Prefix: kerneltest.Prefix("2001:db8::1"), Add: true}, {Prefix: nth(0), Add: true, Until: time.Now().Add(time.Hour)}}
		failed, err := b.Apply(more)
		if len(failed) != 2 || !errors.Is(err, xtables.ErrTooManyRules) || !strings.Contains(err.Error(), "2000 rules") || !strings.Contains(err.Error(), "install ipset") {
			t.Errorf("%d failed: %v", len(failed), err)
		}
		if n := len(kerneltest.Banned(t, b)); n != xtables.MaxRules {
			t.Errorf("%d bans are in force", n)
		}
	})
}

func TestEachFamilyOfRulesMayFillWhatTheOtherLeaves(t *testing.T) {
	onBackendOf(t, "rules nft", func(t *testing.T) {
		r := startKind(t, "rules nft", firewall.Options{})
		r.ban("198.51.100.7", time.Hour)
		r.ban("198.51.100.8", time.Hour)
		r.ban("2001:db8::/64", time.Hour)
		r.settle()
		if got, want := fmt.Sprint(r.Status().Sets), "map[ipv4:{2 1999} ipv6:{1 1998}]"; got != want {
			t.Errorf("sets %s, want %s", got, want)
		}
	})
}

func TestRulesExpireAndAreRemoved(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		server := listen(t, "203.0.113.1")
		banned := server.dial("198.51.100.7")
		r := enforce(t, openKind(t, "rules", firewall.Options{}), newBook(), firewall.EnforcerOptions{Check: time.Hour}) // which would take it away
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		r.ban("198.51.100.8", time.Hour)
		r.ban("198.51.100.9", firewall.Forever)
		r.settle()
		for length := 2 * time.Second; len(kerneltest.Banned(t, r.backend)) < 3; length *= 2 { // it may be over before the kernel has it
			r.ban("198.51.100.7", length)
			r.settle()
		}
		r.stop() // nobody is there to end it
		b := openKind(t, "rules", firewall.Options{}).(*xtables.Rules)
		r.until("over", func() bool {
			send(t, banned)
			_ = server.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			_, err := server.conn.Read(make([]byte, 64))
			return err == nil
		})
		if got := kerneltest.Command(t, "iptables -t raw -S FSBAN"); strings.Count(got, "-A ") != 3 {
			t.Errorf("the chain is\n%s", got)
		}
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		got := kerneltest.Command(t, "iptables -t raw -S FSBAN")
		if strings.Count(got, "-A ") != 2 || strings.Contains(got, "198.51.100.7") || !strings.Contains(got, "-A FSBAN -s 198.51.100.9/32 -j DROP") {
			t.Errorf("after a check the chain is\n%s", got)
		}
		if got := kerneltest.Banned(t, b); !slices.Equal(got, []string{"198.51.100.8/32", "198.51.100.9/32"}) {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestRulesOfAnotherConfigurationAreRepaired(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		first := startKind(t, "rules", firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}}, Target: firewall.Reject})
		first.ban("192.0.2.1", firewall.Forever)
		first.ban("2001:db8::/64", time.Hour)
		first.settle()
		first.stop()
		kerneltest.Command(t, "iptables -A FSBAN -j ACCEPT") // not ours
		second := startKind(t, "rules", firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}}, Ports: ports(t, "udp/5060", "tcp/5060")})
		want := "-N FSBAN\n-A FSBAN -s 192.0.2.1/32 -p udp -m multiport --dports 5060 -j DROP\n-A FSBAN -s 192.0.2.1/32 -p tcp -m multiport --dports 5060 -j DROP\n"
		if got := kerneltest.Command(t, "iptables -S FSBAN"); got != want {
			t.Errorf("the chain is\n%s, want\n%s", got, want)
		}
		if len(second.adopted) != 2 {
			t.Errorf("adopted %v", second.adopted)
		}
		if got := kerneltest.Banned(t, second.backend); !slices.Equal(got, []string{"192.0.2.1/32", "2001:db8::/64"}) {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestRulesThatOthersRemoveAreMadeAgain(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		r := startKind(t, "rules", firewall.Options{})
		for i := range 5 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
		}
		r.settle()
		want := kerneltest.Banned(t, r.backend)
		for _, lines := range [][]string{
			{"iptables -t raw -F FSBAN"}, {"iptables -t raw -D FSBAN 3"}, {"iptables -t raw -F", "iptables -t raw -X FSBAN"}, {"iptables -t raw -I FSBAN 1 -j ACCEPT"},
		} {
			r.betweenChecks(lines...)
			r.until("made again", func() bool {
				return slices.Equal(kerneltest.Banned(t, r.backend), want) && !strings.Contains(rules(t), "ACCEPT\n-A") && strings.Contains(rules(t), "-A PREROUTING -j FSBAN")
			})
		}
		r.unban("192.0.2.3")
		r.settle()
		if got := kerneltest.Banned(t, r.backend); len(got) != 4 {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestRulesAreOfOneTable(t *testing.T) {
	_, err := xtables.NewRules(firewall.Options{Hooks: []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "INPUT"}}})
	if want := "firewall.chains: one rule a ban is made in one table only, not in raw and filter"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
