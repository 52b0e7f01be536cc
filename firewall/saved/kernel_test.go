package saved

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"fsban/firewall"
	"fsban/firewall/xtables"
	"fsban/internal/kerneltest"
	"fsban/internal/netns"
)

// ipset restore stops at a set that Find reports as a clash, and at no other one.
func TestIpsetRestoreStopsAtAClash(t *testing.T) {
	const size, others = 1000, "create customers hash:ip\n"
	for name, options := range map[string]string{
		"alike": "", "hashsize": "hash:net hashsize 4096 maxelem 1000 timeout 0 counters", "maxelem": "hash:net maxelem 2000 timeout 0 counters",
		"timeout": "hash:net maxelem 1000 timeout 600 counters", "no timeout": "hash:net maxelem 1000 counters", "counters": "hash:net maxelem 1000 timeout 0",
		"comment": "hash:net maxelem 1000 timeout 0 counters comment", "skbinfo": "hash:net maxelem 1000 timeout 0 counters skbinfo",
		"family": "hash:net family inet6 maxelem 1000 timeout 0 counters", "type": "hash:ip maxelem 1000 timeout 0 counters",
	} {
		t.Run(name, func(t *testing.T) {
			kerneltest.OnKernel(t, func(t *testing.T) {
				saved := ""
				if options != "" {
					kerneltest.Command(t, "ipset create fsban4 "+options)
					if name == "family" { // the kernel does not compare it, but refuses the entries
						kerneltest.Command(t, "ipset add fsban4 2001:db8::1")
					}
					saved = kerneltest.Command(t, "ipset save")
					kerneltest.Command(t, "ipset destroy")
				}
				if _, err := xtables.MakeSets(firewall.Options{MaxBans: size}); err != nil { // as the unit does
					t.Fatal(err)
				}
				if options == "" {
					saved = kerneltest.Command(t, "ipset save fsban4")
				}
				restore := exec.CommandContext(t.Context(), "ipset", "restore", "-exist")
				restore.Stdin = strings.NewReader(saved + others)
				out, err := restore.CombinedOutput()
				follows := strings.Contains(kerneltest.Command(t, "ipset list -n"), "customers\n")
				r := Find(host(t, map[string]string{"etc/iptables/ipsets": saved + others}), size)
				if clash := len(r.Clashes) > 0; clash != (err != nil) || clash == follows {
					t.Errorf("clashes %+v; ipset restore: %v, %s; the set that follows is restored: %v", r.Clashes, err, out, follows)
				}
			})
		})
	}
}

// The real tools refuse the files that Find names, and take them as its comments say.
func TestTheToolsRefuseTheFilesThatFindReports(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		run := func(stdin, line string) (string, error) {
			words := strings.Fields(line)
			cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
			cmd.Stdin = strings.NewReader(stdin)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
		must := func(stdin string, lines ...string) (out string) {
			t.Helper()
			for _, line := range lines {
				var err error
				if out, err = run(stdin, line); err != nil {
					t.Fatalf("%s: %v\n%s", line, err, out)
				}
			}
			return out
		}
		createSet := "ipset create fsban4 hash:net family inet timeout 0"
		forget := []string{"iptables-nft -t raw -F", "iptables-nft -t raw -X", "ipset destroy fsban4"}
		must("", createSet, "ipset add fsban4 192.0.2.7 timeout 600", "iptables-nft -t raw -N FSBAN", "iptables-nft -t raw -A FSBAN -m set --match-set fsban4 src -j DROP",
			"iptables-nft -t raw -I PREROUTING -j FSBAN", "iptables-nft -t raw -A PREROUTING -p udp --dport 9 -j DROP")
		rules, sets, ruleset := must("", "iptables-nft-save"), must("", "ipset save"), must("", "nft list ruleset")
		must("", forget...)

		r := Find(host(t, map[string]string{"etc/iptables/rules.v4": rules, "etc/ipset.conf": sets, "etc/nftables.conf": ruleset}), 0)
		if !slices.Equal(r.NeedSets, []string{"/etc/iptables/rules.v4"}) || !slices.Equal(r.Stale, []string{"/etc/ipset.conf"}) || !slices.Equal(r.Refused, []string{"/etc/nftables.conf"}) {
			t.Errorf("%+v", r)
		}

		if out, err := run(rules, "iptables-nft-restore"); err == nil {
			t.Errorf("iptables-restore takes the rules without the set: %s", out)
		}
		if out := must("", "iptables-nft-save"); strings.Contains(out, "--dport 9") {
			t.Errorf("a part of the rules is restored:\n%s", out)
		}
		must("", createSet)
		must(rules, "iptables-nft-restore")
		if out := must("", "iptables-nft-save"); !strings.Contains(out, "--dport 9") {
			t.Errorf("the rules are not restored with an empty set:\n%s", out)
		}
		if out, err := run("flush ruleset\n"+ruleset, "nft -f -"); err == nil {
			t.Errorf("nft takes the ruleset: %s", out)
		}
	}, "iptables-nft", "iptables-nft-save", "iptables-nft-restore", "ipset", "nft")
}
