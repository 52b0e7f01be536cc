package firewall_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

func TestTablesThatAreNotNeededAreNotMade(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		kerneltest.UseIPTables(t, "legacy")
		b := open(t, firewall.Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Teardown(); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"} {
			if names, err := os.ReadFile(file); err != nil || string(names) != "raw\n" {
				t.Errorf("%s: %q, %v", file, names, err)
			}
		}
	})
}

func TestSeveralJumpsBecomeOne(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		b := open(t, firewall.Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		kerneltest.Command(t, "iptables -t raw -A PREROUTING -j ACCEPT")
		kerneltest.Command(t, "iptables -t raw -A PREROUTING -j FSBAN")
		kerneltest.Command(t, "iptables -t raw -A PREROUTING -s 192.0.2.1 -j FSBAN") // not ours
		if g := b.Verify(t.Context()); len(g.Made) != 1 || g.Err != nil {
			t.Errorf("%+v", g)
		}
		want := "-P PREROUTING ACCEPT\n-A PREROUTING -j FSBAN\n-A PREROUTING -j ACCEPT\n-A PREROUTING -s 192.0.2.1/32 -j FSBAN\n"
		if got := kerneltest.Command(t, "iptables -t raw -S PREROUTING"); got != want {
			t.Errorf("the chain is\n%s, want\n%s", got, want)
		}
	})
}

func TestChainThatIsNotThereHoldsUpNoOther(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		b := open(t, firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "DOCKER-USER"}, {Table: "filter", Chain: "INPUT"}, {Table: "raw", Chain: "PREROUTING"}}})
		_, err := setUp(b)
		if want := "ipv4: jump to FSBAN from filter/DOCKER-USER: there is no such chain (firewall.chains)"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		if got := rules(t); strings.Count(got, "-A INPUT -j FSBAN") != 2 || strings.Count(got, "-A PREROUTING -j FSBAN") != 2 {
			t.Errorf("it made\n%s", got)
		}
		kerneltest.Command(t, "iptables -N DOCKER-USER")
		kerneltest.Command(t, "ip6tables -N DOCKER-USER")
		if _, err := setUp(b); err != nil || strings.Count(rules(t), "-A DOCKER-USER -j FSBAN") != 2 {
			t.Errorf("with the chain: %v\n%s", err, rules(t))
		}
	})
}

func TestChainOfOneFamilyIsNoted(t *testing.T) {
	for _, with := range []string{"iptables", "ip6tables"} {
		other, lacking := "ip6tables", "ipv6"
		if with == other {
			other, lacking = "iptables", "ipv4"
		}
		t.Run(with, func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				if kind == "nftables" {
					return // it has no chains of others
				}
				dockerRules(t, with)
				r := startKind(t, kind, firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "DOCKER-USER"}, {Table: "filter", Chain: "INPUT"}}})
				note := lacking + " has no chain filter/DOCKER-USER, unlike the other family: fsban drops no packets of this family there"
				r.until("said", func() bool { return slices.Equal(r.Status().Notes, []string{note}) })
				r.ban("192.0.2.1", time.Hour)
				r.ban("2001:db8::1", time.Hour)
				r.settle()
				r.checked()
				if s := r.Status(); !s.Enforcing || s.Err != nil || s.Failures > 0 {
					t.Errorf("%+v", s)
				}
				inputs := 2
				if strings.HasPrefix(kind, "rules") {
					inputs = 0 // it has one hook only
				}
				if got := rules(t); strings.Count(got, "-A DOCKER-USER -j FSBAN") != 1 || strings.Count(got, "-A INPUT -j FSBAN") != inputs {
					t.Errorf("it made\n%s", got)
				}
				dockerRules(t, other)
				r.until("complete", func() bool {
					s := r.Status()
					return s.Enforcing && len(s.Notes) == 0 && strings.Count(rules(t), "-A DOCKER-USER -j FSBAN") == 2
				})
				r.betweenChecks("iptables -F FORWARD", "iptables -F DOCKER-USER", "iptables -X DOCKER-USER", "ip6tables -F FORWARD", "ip6tables -F DOCKER-USER", "ip6tables -X DOCKER-USER")
				r.until("refused", func() bool {
					s := r.Status()
					return !s.Enforcing && strings.HasSuffix(s.Err.Error(), "jump to FSBAN from filter/DOCKER-USER: there is no such chain (firewall.chains)") && len(s.Notes) == 0
				})
			})
		})
	}
}

func TestRulesBeforeAForeignChainAreNoted(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		dockerRules(t, "iptables")
		dockerRules(t, "ip6tables")
		b := open(t, firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "DOCKER-USER"}}})
		look := func(want ...string) {
			t.Helper()
			if g := b.Verify(t.Context()); g.Err != nil || !slices.Equal(g.Notes, want) {
				t.Errorf("%+v, want the notes %q", g, want)
			}
		}
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		look()
		kerneltest.Command(t, "iptables -I FORWARD 1 -i lo -j LOG")
		look()
		kerneltest.Command(t, "iptables -I FORWARD 2 -p udp -j ACCEPT")
		look("ipv4: in filter/FORWARD rule 2 accepts packets before the jump to DOCKER-USER: they are not dropped in filter/DOCKER-USER")
		kerneltest.Command(t, "iptables -D FORWARD 2")
		kerneltest.Command(t, "ip6tables -D FORWARD -j DOCKER-USER")
		look("ipv6: no rule jumps to filter/DOCKER-USER: no packets are dropped there")
	})
}

// The jump moves before the rules that docker inserts at the head of FORWARD.
func TestJumpFromForwardStandsBeforeDockers(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		b := open(t, firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "FORWARD"}}})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"iptables", "ip6tables"} {
			dockerRules(t, program)
		}
		if g := b.Verify(t.Context()); g.Err != nil || len(g.Made) != 2 {
			t.Errorf("%+v", g)
		}
		for _, program := range []string{"iptables", "ip6tables"} {
			if got := kerneltest.Command(t, program+" -S FORWARD"); !strings.HasPrefix(got, "-P FORWARD DROP\n-A FORWARD -j FSBAN\n-A FORWARD -j DOCKER-USER\n") {
				t.Errorf("the chain is\n%s", got)
			}
		}
	})
}

func TestLockThatIsHeldHoldsUpNoBans(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		r := start(t, firewall.Options{})
		release := kerneltest.HoldLock(t)
		r.ban("192.0.2.1", time.Hour)
		r.checked()
		r.checked()
		if s := r.Status(); !s.Enforcing || s.Pending > 0 || s.Failures > 0 {
			t.Errorf("with all rules in their place: %+v", s)
		}
		if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, []string{"192.0.2.1/32"}) {
			t.Errorf("the kernel holds %q", got)
		}
		release()
	})
}

func TestFlushIsRepairedAtOnceIfTheKernelReportsIt(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		r := enforce(t, open(t, firewall.Options{}), newBook(), firewall.EnforcerOptions{Check: time.Hour})
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		r.ban("192.0.2.1", time.Hour)
		r.settle()
		whole := rules(t)
		for i, line := range []string{"iptables -t raw -F", "nft flush ruleset"} {
			want := r.Status().Repairs
			r.until("repaired after "+line, func() bool {
				if i == 0 || want == r.Status().Repairs {
					kerneltest.Command(t, line) // more than once: the listening begins a moment after the start
				}
				time.Sleep(100 * time.Millisecond)
				return r.Status().Repairs > want
			})
			r.until("whole after "+line, func() bool { return rules(t) == whole })
		}
	})
}
