package firewall

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
			onKernel(t, func(t *testing.T) {
				nft, _ := exec.LookPath("nft")
				ipset, _ := exec.LookPath("ipset")
				switch test.broken {
				case "iptables":
					t.Setenv("PATH", t.TempDir())
				case "match":
					t.Setenv("XTABLES_LIBDIR", t.TempDir())
				}
				b, why, err := Auto(t.Context(), Options{})
				if err != nil || b.Name() != test.want || !strings.HasPrefix(why, test.why) {
					t.Fatalf("%v, %q, %v", b, why, err)
				}
				defer func() { _ = b.Close() }()
				_ = os.Unsetenv("XTABLES_LIBDIR")
				if got := command(t, nft+" list ruleset") + command(t, ipset+" list -n"); strings.Contains(strings.ToLower(got), "fsban") {
					t.Errorf("the trial left\n%s", got)
				}
			})
		})
	}
}

func TestAutoSaysWhyNothingWorks(t *testing.T) {
	parallel(t)
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
	_, _, err := Auto(t.Context(), Options{})
	if err == nil || strings.Count(err.Error(), "not permitted: fsban needs CAP_NET_ADMIN") < 3 || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
}

func TestAbandonedBackendIsTakenAway(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		old, fresh := openKind(t, "nft", Options{}), openKind(t, "nftables", Options{})
		for range 2 {
			for _, b := range []Backend{old, fresh} {
				if _, err := setUp(b); err != nil {
					t.Fatal(err)
				}
			}
			if removed, err := Abandoned(fresh); err != nil || !slices.Contains(removed, "set fsban4") {
				t.Errorf("removed %q, %v", removed, err)
			}
			if got := ruleset(t); strings.Contains(got, "table ip raw {\n\tchain FSBAN") || !strings.Contains(got, "table inet fsban") {
				t.Errorf("it left\n%s", got)
			}
			if removed, err := Abandoned(old); err != nil || !slices.Equal(removed, []string{"table inet fsban"}) {
				t.Errorf("removed %q, %v", removed, err)
			}
		}
	})
}

func TestTeardownKnowsEveryBackend(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		for _, kind := range []string{"nft", "nftables", "rules nft"} {
			if _, err := setUp(openKind(t, kind, Options{})); err != nil {
				t.Fatal(err)
			}
		}
		removed, err := Teardown()
		if got := ruleset(t) + command(t, "ipset list -n"); err != nil || len(removed) < 5 || strings.Contains(strings.ToLower(got), "fsban") {
			t.Errorf("removed %q, %v, and left\n%s", removed, err, got)
		}
		t.Setenv("PATH", t.TempDir())
		if removed, err := Teardown(); err != nil || len(removed) > 0 {
			t.Errorf("without iptables it removed %q, %v", removed, err)
		}
	})
}

func TestSurroundingsAreSaid(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		if _, err := setUp(open(t, Options{})); err != nil {
			t.Fatal(err)
		}
		if got := Surroundings(t.Context()); len(got) > 0 {
			t.Errorf("alone: %q", got)
		}
		for _, line := range []string{
			"iptables-legacy -t raw -N FSBAN", "iptables -N f2b-sshd", "ip6tables -N DOCKER-USER", "nft add table inet firewalld",
			"iptables -N ufw-before-input", "nft add table ip crowdsec", "iptables -t nat -N KUBE-SERVICES",
		} {
			command(t, line)
		}
		got := Surroundings(t.Context())
		for _, begin := range []string{
			"iptables is iptables-nft here, and there are rules of iptables-legacy too", "chain FSBAN is among the rules of iptables-legacy",
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
	_ = Surroundings(t.Context())
}
