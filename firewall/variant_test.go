package firewall_test

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/backend"
	"fsban/internal/kerneltest"
	"fsban/internal/netns"
)

// onBothVariants runs f in namespaces of its own with the names of the variant used first and of the one used then.
func onBothVariants(t *testing.T, f func(t *testing.T, before, now string)) {
	t.Helper()
	for _, order := range [][2]string{{"nft", "legacy"}, {"legacy", "nft"}} {
		t.Run(order[0]+" to "+order[1], func(t *testing.T) {
			kerneltest.Parallel(t)
			netns.Run(t, func(t *testing.T) { f(t, order[0], order[1]) },
				"nft", "iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy", "ipset")
		})
	}
}

// rulesOf are the rules of a variant, of both families.
func rulesOf(t *testing.T, variant string) string {
	t.Helper()
	return kerneltest.Command(t, "iptables-"+variant+"-save") + kerneltest.Command(t, "ip6tables-"+variant+"-save")
}

// After a change of variant an unban lets the address in, and foreign rules stay.
func TestChangeOfVariantLeavesNothing(t *testing.T) {
	for _, way := range []string{"", "rules "} {
		t.Run("backend "+way, func(t *testing.T) {
			onBothVariants(t, func(t *testing.T, before, now string) {
				servers := []*server{listen(t, "203.0.113.1"), listen(t, "2001:db8::1")}
				addresses := []string{"198.51.100.7", "2001:db8:1::7"}
				banned := []*net.UDPConn{servers[0].dial(addresses[0]), servers[1].dial(addresses[1])}
				allowed := []*net.UDPConn{servers[0].dial("198.51.100.8"), servers[1].dial("2001:db8:1::8")}
				kerneltest.UseIPTables(t, before)
				for _, line := range []string{"iptables -t raw -N FSBANANA", "iptables -t raw -A PREROUTING -j FSBANANA", "ip6tables -t filter -N OTHER"} {
					kerneltest.Command(t, line)
				}
				old := startKind(t, way+before, firewall.Options{})
				for _, a := range addresses {
					old.ban(a, time.Hour)
				}
				old.settle()
				old.stop()

				kerneltest.UseIPTables(t, now)
				b := openKind(t, way+now, firewall.Options{})
				r := enforce(t, b, old.book, firewall.EnforcerOptions{Check: 50 * time.Millisecond})
				r.until("in force", func() bool { s := r.Status(); return s.Enforcing && s.Pending == 0 })
				if got := rulesOf(t, before); strings.Count(got, "-A PREROUTING -j FSBAN\n") != 2 {
					t.Errorf("before it was asked to, it took away what stood:\n%s", got)
				}
				removed, err := backend.Abandoned(b)
				want := []string{
					"jump from ipv4 raw/PREROUTING of iptables-" + before, "ipv4 chain raw/FSBAN of iptables-" + before,
					"jump from ipv6 raw/PREROUTING of iptables-" + before, "ipv6 chain raw/FSBAN of iptables-" + before,
				}
				if err != nil || !slices.Equal(removed, want) {
					t.Errorf("removed %q, %v", removed, err)
				}
				got := rulesOf(t, before)
				if strings.Contains(got, "FSBAN\n") || strings.Contains(got, ":FSBAN ") || !strings.Contains(got, "-A PREROUTING -j FSBANANA\n") || !strings.Contains(got, ":OTHER ") {
					t.Errorf("in iptables-%s it left\n%s", before, got)
				}
				if got := rulesOf(t, now); strings.Count(got, "-A PREROUTING -j FSBAN\n") != 2 {
					t.Errorf("in iptables-%s there is\n%s", now, got)
				}
				if removed, err := backend.Abandoned(b); err != nil || len(removed) > 0 {
					t.Errorf("the second time it removed %q, %v", removed, err)
				}
				for i, a := range addresses {
					send(t, banned[i])
					send(t, allowed[i])
					if from := servers[i].next(); from == a {
						t.Errorf("a packet of %s arrived in spite of its ban", a)
					}
					r.unban(a)
					r.settle()
					send(t, banned[i])
					if from := servers[i].next(); from != a {
						t.Errorf("after the unban of %s a packet of %s arrived", a, from)
					}
				}
			})
		})
	}
}

// A set that rules of the other variant name is destroyed with them.
func TestChangeOfBackendAndVariantLeavesNothing(t *testing.T) {
	for _, to := range []string{"nftables", "rules "} {
		t.Run("to "+to, func(t *testing.T) {
			onBothVariants(t, func(t *testing.T, before, now string) {
				for _, variant := range []string{before, now} { // with sets that both of them name
					kerneltest.UseIPTables(t, variant)
					if _, err := setUp(open(t, firewall.Options{})); err != nil {
						t.Fatal(err)
					}
				}
				kind := to
				if to != "nftables" {
					kind += now
				}
				b := openKind(t, kind, firewall.Options{})
				if _, err := setUp(b); err != nil {
					t.Fatal(err)
				}
				removed, err := backend.Abandoned(b)
				if err != nil || !slices.Contains(removed, "set fsban4") || !slices.Contains(removed, "set fsban6") {
					t.Errorf("removed %q, %v", removed, err)
				}
				if got := rulesOf(t, before) + kerneltest.Command(t, "ipset list -n"); strings.Contains(strings.ToLower(got), "fsban") {
					t.Errorf("it left\n%s", got)
				}
			})
		})
	}
}

func TestTeardownKnowsBothVariants(t *testing.T) {
	onBothVariants(t, func(t *testing.T, before, now string) {
		hooks := []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "mangle", Chain: "INPUT"}, {Table: "filter", Chain: "FORWARD"}}
		for _, variant := range []string{before, now} {
			kerneltest.UseIPTables(t, variant)
			if _, err := setUp(open(t, firewall.Options{Hooks: hooks})); err != nil {
				t.Fatal(err)
			}
			kerneltest.Command(t, "iptables -t raw -N OTHER")
		}
		removed, _, err := backend.Teardown()
		if err != nil || len(removed) != 2*2*2*len(hooks)+2 {
			t.Errorf("removed %q, %v", removed, err)
		}
		for _, variant := range []string{before, now} {
			if got := rulesOf(t, variant); strings.Contains(got, "FSBAN") || !strings.Contains(got, ":OTHER ") {
				t.Errorf("in iptables-%s it left\n%s", variant, got)
			}
		}
		if got := kerneltest.Command(t, "ipset list -n"); got != "" {
			t.Errorf("it left the sets %s", got)
		}
		if removed, _, err := backend.Teardown(); err != nil || len(removed) > 0 {
			t.Errorf("the second time it removed %q, %v", removed, err)
		}
	})
}

// Searching the other variant for rules creates no tables there.
func TestLookingIntoTheOtherVariantMakesNothing(t *testing.T) {
	onBothVariants(t, func(t *testing.T, other, now string) {
		kerneltest.UseIPTables(t, now)
		b := open(t, firewall.Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		if other == "nft" { // rules that only nft understands are no error, either
			for _, line := range []string{"nft add table ip raw", "nft add chain ip raw others", "nft add rule ip raw others meta mark set jhash ip saddr mod 4"} {
				kerneltest.Command(t, line)
			}
		}
		look := func() string {
			return kerneltest.Command(t, "cat /proc/thread-self/net/ip_tables_names") + kerneltest.Command(t, "cat /proc/thread-self/net/ip6_tables_names") + kerneltest.Command(t, "nft list tables")
		}
		before := look()
		if removed, err := backend.Abandoned(b); err != nil || len(removed) > 0 {
			t.Errorf("removed %q, %v", removed, err)
		}
		if after := look(); after != before {
			t.Errorf("there was\n%sand there is\n%s", before, after)
		}
	})
}
