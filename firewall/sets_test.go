package firewall_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/backend"
	"fsban/internal/kerneltest"
)

// restore feeds saved text to a program.
func restore(t *testing.T, saved string, program string, args ...string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdin = strings.NewReader(saved)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New(string(bytes.TrimSpace(out))))
	}
	return nil
}

// enforced returns a backend in force with two bans.
func enforced(t *testing.T, kind string, opts firewall.Options) firewall.Backend {
	t.Helper()
	b := openKind(t, kind, opts)
	if _, err := setUp(b); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(time.Hour)
	orders := []firewall.Order{
		{Prefix: kerneltest.Prefix("192.0.2.7"), Add: true, Until: until},
		{Prefix: kerneltest.Prefix("2001:db8::/64"), Add: true, Until: until},
	}
	if failed, err := b.Apply(orders); err != nil || len(failed) > 0 {
		t.Fatal(failed, err)
	}
	return b
}

// A host that saved its rules while fsban ran boots with them, before the daemon starts: both families, and saved sets too.
func TestSavedRulesAreRestoredAfterMakeSets(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		opts := firewall.Options{MaxBans: 5000}
		kerneltest.Command(t, "iptables -A INPUT -p tcp --dport 23 -j DROP")
		kerneltest.Command(t, "ip6tables -A INPUT -p tcp --dport 23 -j DROP")
		b := enforced(t, firewall.IPTables, opts)
		saved := map[string]string{"iptables": kerneltest.Command(t, "iptables-save"), "ip6tables": kerneltest.Command(t, "ip6tables-save")}
		sets := kerneltest.Command(t, "ipset save")
		if _, err := b.Teardown(); err != nil {
			t.Fatal(err)
		}
		for program, text := range saved {
			kerneltest.Command(t, program+" -F INPUT")
			if restore(t, text, program+"-restore") == nil {
				t.Errorf("%s-restore needs no set", program)
			}
		}

		if made, err := backend.MakeSets(firewall.Auto, opts); err != nil || !slices.Equal(made, []string{"set fsban4", "set fsban6"}) {
			t.Errorf("made %q, %v", made, err)
		}
		for program, text := range saved {
			if err := restore(t, text, program+"-restore"); err != nil {
				t.Errorf("%s-restore: %v", program, err)
			}
			if !strings.Contains(kerneltest.Command(t, program+"-save"), "--dport 23") {
				t.Errorf("%s: the host's own rule was not restored", program)
			}
		}
		if err := restore(t, sets, "ipset", "restore", "-exist"); err != nil {
			t.Errorf("ipset restore: %v", err)
		}
		if made, err := backend.MakeSets(firewall.IPTables, opts); err != nil || len(made) > 0 {
			t.Errorf("the second time: made %q, %v", made, err)
		}
		if made, err := setUp(b); err != nil || len(made) > 0 {
			t.Errorf("the daemon makes %q, %v", made, err)
		}
		if got := kerneltest.Banned(t, b); len(got) != 2 {
			t.Errorf("restored bans: %q", got)
		}
	})
}

// A ruleset saved by nft contains fsban's whole table. It can be loaded into an empty kernel, and while fsban runs,
// which repairs the rules that are there twice then.
func TestSavedNftablesRulesetIsRestored(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		b := enforced(t, firewall.NFTables, firewall.Options{})
		before := ruleset(t)
		file := filepath.Join(t.TempDir(), "nftables.conf")
		if err := os.WriteFile(file, []byte(kerneltest.Command(t, "nft list ruleset")), 0o600); err != nil {
			t.Fatal(err)
		}
		kerneltest.Command(t, "nft -f "+file)
		if _, err := setUp(b); err != nil {
			t.Error(err)
		}
		if after := ruleset(t); after != before {
			t.Errorf("beside the running fsban:\n%s\nwant\n%s", after, before)
		}
		kerneltest.Command(t, "nft flush ruleset")
		kerneltest.Command(t, "nft -f "+file)
		if made, err := setUp(b); err != nil || len(made) > 0 {
			t.Errorf("into an empty kernel: the daemon makes %q, %v", made, err)
		}
		if after := ruleset(t); after != before {
			t.Errorf("into an empty kernel:\n%s\nwant\n%s", after, before)
		}
	})
}

func TestMakeSetsLeavesAForeignSet(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		kerneltest.Command(t, "ipset create fsban4 hash:ip")
		made, err := backend.MakeSets(firewall.IPTables, firewall.Options{})
		if !errors.Is(err, firewall.ErrForeign) || !slices.Equal(made, []string{"set fsban6"}) {
			t.Errorf("made %q, %v", made, err)
		}
		if got := kerneltest.Command(t, "ipset list fsban4 -t"); !strings.Contains(got, "Type: hash:ip\n") {
			t.Errorf("the foreign set is now\n%s", got)
		}
	})
}

func TestMakeSetsOfOtherBackends(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		for _, kind := range []string{firewall.NFTables, firewall.Rules, firewall.None} {
			if made, err := backend.MakeSets(kind, firewall.Options{}); err != nil || len(made) > 0 {
				t.Errorf("%s: made %q, %v", kind, made, err)
			}
		}
		path := os.Getenv("PATH")
		t.Setenv("PATH", t.TempDir())
		if made, err := backend.MakeSets(firewall.Auto, firewall.Options{}); err != nil || len(made) > 0 {
			t.Errorf("auto without iptables: made %q, %v", made, err)
		}
		if _, err := backend.MakeSets(firewall.IPTables, firewall.Options{}); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("iptables, which is missing: %v", err)
		}
		t.Setenv("PATH", path)
		if got := kerneltest.Command(t, "ipset list -n"); got != "" {
			t.Errorf("sets: %s", got)
		}
	})
}
