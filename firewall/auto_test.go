package firewall_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fsban/firewall"
	"fsban/firewall/backend"
	"fsban/firewall/xtables"
	"fsban/internal/kerneltest"
	"fsban/internal/netns"
)

func TestAutoTakesWhatWorks(t *testing.T) {
	for name, test := range map[string]struct {
		broken, want, why string
	}{
		"everything":     {"", "iptables", "iptables with ipset works here"},
		"no iptables":    {"iptables", "nftables", "nftables works here; iptables with ipset does not: find iptables (install the package iptables)"},
		"a broken match": {"match", "nftables", "nftables works here; iptables with ipset does not: ipv4: try a rule in raw/FSBAN-TRY"},
	} {
		t.Run(name, func(t *testing.T) {
			kerneltest.OnKernel(t, func(t *testing.T) {
				nft, _ := exec.LookPath("nft")
				ipset, _ := exec.LookPath("ipset")
				switch test.broken {
				case "iptables":
					t.Setenv("PATH", t.TempDir())
				case "match":
					t.Setenv("XTABLES_LIBDIR", t.TempDir())
				}
				b, why, err := backend.Open(t.Context(), firewall.Auto, firewall.Options{})
				if err != nil || b.Name() != test.want || !strings.HasPrefix(why, test.why) {
					t.Fatalf("%v, %q, %v", b, why, err)
				}
				defer func() { _ = b.Close() }()
				_ = os.Unsetenv("XTABLES_LIBDIR")
				if got := kerneltest.Command(t, nft+" list ruleset") + kerneltest.Command(t, ipset+" list -n"); strings.Contains(strings.ToLower(got), "fsban") {
					t.Errorf("the trial left\n%s", got)
				}
			})
		})
	}
}

func TestAutoSaysWhyNothingWorks(t *testing.T) {
	kerneltest.Parallel(t)
	netns.Run(t, func(t *testing.T) {
		// Outside its own namespaces it may do nothing: this process keeps its capabilities, the next one has none.
		out, err := exec.CommandContext(t.Context(), "setpriv", "--bounding-set=-net_admin,-net_raw", os.Args[0], "-test.run=^TestAutoWithoutPermission$", "-test.v").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestAutoWithoutPermission") {
			t.Errorf("%v\n%s", err, out)
		}
	}, "setpriv")
}

// TestAutoWithoutPermission is a part of TestAutoSaysWhyNothingWorks.
func TestAutoWithoutPermission(t *testing.T) {
	if !netns.Inside() {
		return
	}
	_, _, err := backend.Open(t.Context(), firewall.Auto, firewall.Options{})
	if err == nil || strings.Count(err.Error(), "not permitted: fsban needs CAP_NET_ADMIN") < 3 || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}

func TestAbandonedBackendIsRemoved(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		old, fresh := openKind(t, "nft", firewall.Options{}), openKind(t, "nftables", firewall.Options{})
		for range 2 {
			for _, b := range []firewall.Backend{old, fresh} {
				if _, err := setUp(b); err != nil {
					t.Fatal(err)
				}
			}
			if removed, err := backend.Abandoned(fresh); err != nil || !slices.Contains(removed, "set fsban4") {
				t.Errorf("removed %q, %v", removed, err)
			}
			if got := ruleset(t); strings.Contains(got, "table ip raw {\n\tchain FSBAN") || !strings.Contains(got, "table inet fsban") {
				t.Errorf("it left\n%s", got)
			}
			if removed, err := backend.Abandoned(old); err != nil || !slices.Equal(removed, []string{"table inet fsban"}) {
				t.Errorf("removed %q, %v", removed, err)
			}
		}
	})
}

func TestTeardownKnowsEveryBackend(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		for _, kind := range []string{"nft", "nftables", "rules nft"} {
			if _, err := setUp(openKind(t, kind, firewall.Options{})); err != nil {
				t.Fatal(err)
			}
		}
		removed, _, err := backend.Teardown()
		if got := ruleset(t) + kerneltest.Command(t, "ipset list -n"); err != nil || len(removed) < 5 || strings.Contains(strings.ToLower(got), "fsban") {
			t.Errorf("removed %q, %v, and left\n%s", removed, err, got)
		}
		t.Setenv("PATH", t.TempDir())
		if removed, _, err := backend.Teardown(); err != nil || len(removed) > 0 {
			t.Errorf("without iptables it removed %q, %v", removed, err)
		}
	})
}

func TestSurroundings(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		if _, err := setUp(open(t, firewall.Options{})); err != nil {
			t.Fatal(err)
		}
		if got := xtables.Surroundings(t.Context()); len(got) > 0 {
			t.Errorf("alone: %q", got)
		}
		for _, line := range []string{
			"iptables-legacy -t raw -N FSBAN", "iptables -N f2b-sshd", "ip6tables -N DOCKER-USER", "nft add table inet firewalld",
			"iptables -N ufw-before-input", "nft add table ip crowdsec", "iptables -t nat -N KUBE-SERVICES",
		} {
			kerneltest.Command(t, line)
		}
		got := xtables.Surroundings(t.Context())
		for _, begin := range []string{
			"iptables is iptables-nft here, and there are rules of iptables-legacy too", "iptables-legacy has a chain FSBAN from before a change of variant",
			"firewalld makes", "ufw makes", "docker makes", "kubernetes makes", "fail2ban makes", "crowdsec makes",
		} {
			if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, begin) }) {
				t.Errorf("no %q in %q", begin, got)
			}
		}
		if len(got) != 8 {
			t.Errorf("%d sentences: %q", len(got), got)
		}
	})
}

func TestSurroundingsWithoutAnyPrograms(t *testing.T) {
	t.Setenv("PATH", filepath.Join(t.TempDir(), "empty"))
	_ = xtables.Surroundings(t.Context())
}
