package firewall_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/backend"
	"fsban/internal/kerneltest"
)

// A set of fsban's name that fsban cannot have made is neither used nor removed, and the message names the difference.
func TestForeignSetStaysAtTeardown(t *testing.T) {
	for name, test := range map[string]struct{ options, difference string }{
		"type":     {"hash:ip", "type hash:ip instead of hash:net"},
		"list":     {"list:set", "type list:set instead of hash:net"},
		"family":   {"hash:net family inet6 timeout 0 counters", "IPv6 instead of IPv4"},
		"timeouts": {"hash:net counters", "no timeouts"},
		"counters": {"hash:net timeout 0", "no counters"},
		"comments": {"hash:net timeout 0 counters comment", "option comment"},
		"all":      {"hash:net family inet6 skbinfo", "IPv6 instead of IPv4, no timeouts, no counters, option skbinfo"},
	} {
		t.Run(name, func(t *testing.T) {
			kerneltest.OnKernel(t, func(t *testing.T) {
				kerneltest.Command(t, "ipset create fsban4 "+test.options)
				before := kerneltest.Command(t, "ipset save fsban4")
				want := "ipset fsban4 (" + test.difference + "): not made by fsban: remove or rename it"
				r := enforce(t, open(t, firewall.Options{}), newBook(), firewall.EnforcerOptions{RetryMin: 10 * time.Millisecond})
				r.until("refused", func() bool { return r.Status().Err != nil && r.Status().Err.Error() == want })
				r.stop()
				removed, kept, err := backend.Teardown()
				if err != nil || !slices.Equal(kept, []string{want}) || slices.Contains(removed, "set fsban4") || !slices.Contains(removed, "set fsban6") {
					t.Errorf("removed %q, kept %q, %v", removed, kept, err)
				}
				if got := kerneltest.Command(t, "ipset save fsban4"); got != before {
					t.Errorf("the set is %q, was %q", got, before)
				}
			})
		})
	}
}

// Sets with the names of fsban's temporary sets are removed if fsban can have made them.
func TestTemporarySetsAtTeardown(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		for _, line := range []string{
			"ipset create fsban4-new hash:net timeout 0 counters", "ipset create fsban6-new hash:ip",
			"ipset create fsban-try hash:net family inet6 timeout 0 counters", "ipset create fsban4x hash:net timeout 0 counters",
		} {
			kerneltest.Command(t, line)
		}
		removed, kept, err := backend.Teardown()
		wantKept := []string{"ipset fsban6-new (type hash:ip instead of hash:net): not made by fsban: remove or rename it"}
		if err != nil || !slices.Equal(removed, []string{"set fsban4-new", "set fsban-try"}) || !slices.Equal(kept, wantKept) {
			t.Errorf("removed %q, kept %q, %v", removed, kept, err)
		}
		if got := kerneltest.Command(t, "ipset list -n"); got != "fsban6-new\nfsban4x\n" && got != "fsban4x\nfsban6-new\n" {
			t.Errorf("sets %q are left", got)
		}
	})
}

// A foreign set in the place of a temporary one is kept by a resize and by a trial, which fail instead.
func TestForeignTemporarySetIsNotReplaced(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		r := start(t, firewall.Options{MaxBans: 100})
		r.ban("192.0.2.1", time.Hour)
		r.settle()
		r.stop()
		kerneltest.Command(t, "ipset create fsban4-new hash:ip")
		kerneltest.Command(t, "ipset create fsban-try hash:ip")
		if _, err := open(t, firewall.Options{MaxBans: 200}).Setup(); !errors.Is(err, firewall.ErrForeign) {
			t.Errorf("%v", err)
		}
		b, reason, err := backend.Open(t.Context(), firewall.Auto, firewall.Options{})
		if err != nil || b.Name() != firewall.NFTables || !strings.Contains(reason, "ipset fsban-try (type hash:ip") {
			t.Errorf("%v, %q, %v", b, reason, err)
		} else {
			_ = b.Close()
		}
		if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, []string{"192.0.2.1/32"}) {
			t.Errorf("the kernel holds %q", got)
		}
		for _, set := range []string{"fsban4-new", "fsban-try"} {
			if got := kerneltest.Command(t, "ipset list -t "+set); !strings.Contains(got, "Type: hash:ip\n") {
				t.Errorf("%s is\n%s", set, got)
			}
		}
	})
}

// A set of fsban's form that rules of others use stays, because the kernel keeps it, and that is an error.
func TestSetThatOthersUseIsAnErrorAtTeardown(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		if _, err := setUp(open(t, firewall.Options{})); err != nil {
			t.Fatal(err)
		}
		kerneltest.Command(t, "iptables -A INPUT -m set --match-set fsban4 src -j LOG")
		removed, kept, err := backend.Teardown()
		if err == nil || !strings.Contains(err.Error(), "ipset destroy fsban4: the set is in use by a rule") || len(kept) > 0 || !slices.Contains(removed, "ipv4 chain raw/FSBAN") || !slices.Contains(removed, "set fsban6") {
			t.Errorf("removed %q, kept %q, %v", removed, kept, err)
		}
		if got := kerneltest.Command(t, "iptables -S INPUT"); !strings.Contains(got, "--match-set fsban4 src -j LOG") {
			t.Errorf("the chain is\n%s", got)
		}
	})
}

// A chain of fsban's name that holds the rules of others is neither used nor removed.
func TestForeignChainIsLeftAlone(t *testing.T) {
	for _, rule := range []string{"-j ACCEPT", "-s 192.0.2.0/24 -j ACCEPT", "-s 192.0.2.0/24 -p udp -j DROP", "-m set --match-set other src -j DROP", "-m set --match-set fsban4 dst -j DROP"} {
		t.Run(rule, func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				if kind == "nftables" {
					return // see TestForeignTableIsLeftAlone
				}
				kerneltest.Command(t, "ipset create other hash:ip")
				if strings.Contains(rule, "fsban4") {
					kerneltest.Command(t, "ipset create fsban4 hash:net timeout 0 counters")
				}
				kerneltest.Command(t, "iptables -t raw -N FSBAN")
				kerneltest.Command(t, "iptables -t raw -A FSBAN "+rule)
				kerneltest.Command(t, "iptables -t raw -A PREROUTING -j FSBAN")
				before := kerneltest.Command(t, "iptables -t raw -S")
				b := openKind(t, kind, firewall.Options{})
				r := enforce(t, b, newBook(), firewall.EnforcerOptions{RetryMin: 10 * time.Millisecond})
				r.until("refused", func() bool { return errors.Is(r.Status().Err, firewall.ErrForeign) })
				if text := r.Status().Err.Error(); !strings.HasPrefix(text, "ipv4: use raw/FSBAN: it holds other rules, such as ") {
					t.Errorf("%s", text)
				}
				r.stop()
				if len(r.adopted) > 0 {
					t.Errorf("adopted %v", r.adopted)
				}
				_, kept, err := backend.Teardown()
				if inUse := strings.Contains(rule, "fsban4"); (err != nil) != inUse || len(kept) != 1 || !strings.HasPrefix(kept[0], "ipv4: use raw/FSBAN: ") {
					t.Errorf("kept %q, %v", kept, err)
				}
				if got := kerneltest.Command(t, "iptables -t raw -S"); got != before {
					t.Errorf("the table is\n%s, was\n%s", got, before)
				}
			})
		})
	}
}

// A rule of others in fsban's chain is removed while fsban runs, and the chain is fsban's at a teardown.
func TestOtherRulesInOwnChain(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		r := start(t, firewall.Options{})
		r.betweenChecks("iptables -t raw -F FSBAN", "iptables -t raw -A FSBAN -j ACCEPT")
		r.until("repaired", func() bool {
			return !strings.Contains(kerneltest.Command(t, "iptables -t raw -S FSBAN"), "ACCEPT") && r.Status().Enforcing
		})
		r.stop()
		kerneltest.Command(t, "iptables -t raw -A FSBAN -j ACCEPT")
		removed, kept, err := backend.Teardown()
		if err != nil || len(kept) > 0 || !slices.Contains(removed, "ipv4 chain raw/FSBAN") {
			t.Errorf("removed %q, kept %q, %v", removed, kept, err)
		}
	})
}

// Objects of others in a table fsban of nftables stay.
func TestForeignTableIsLeftAlone(t *testing.T) {
	for name, test := range map[string]struct {
		lines      []string
		kept       string
		refused    bool // by the enforcer
		ownRemoved string
	}{
		"set of intervals": {[]string{"add set inet fsban fsban4 { type ipv4_addr; flags interval; }"}, "set fsban4 (intervals, no timeouts)", true, "set fsban6"},
		"set of marks":     {[]string{"add set inet fsban fsban4 { type mark; flags timeout; }"}, "set fsban4 (type mark instead of ipv4_addr)", true, "set fsban6"},
		"map":              {[]string{"add map inet fsban fsban6 { type ipv6_addr : mark; flags timeout; }"}, "set fsban6 (a map)", true, "set fsban4"},
		"other set":        {[]string{"add set inet fsban customers { type ipv4_addr; }", "add element inet fsban customers { 192.0.2.1 }"}, "set customers", false, "set fsban4"},
		"other chain":      {[]string{"add chain inet fsban input { type filter hook input priority 0; }", "add rule inet fsban input tcp dport 22 accept"}, "chain input", false, "chain FSBAN"},
		"chain FSBAN":      {[]string{"add chain inet fsban FSBAN", "add rule inet fsban FSBAN tcp dport 22 accept"}, "chain FSBAN", true, ""},
		"base chain":       {[]string{"add chain inet fsban raw_prerouting { type filter hook prerouting priority 0; }", "add rule inet fsban raw_prerouting accept"}, "chain raw_prerouting", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			onNFTables(t, func(t *testing.T) {
				kerneltest.Command(t, "nft add table inet fsban")
				for _, line := range test.lines {
					if out, err := exec.CommandContext(t.Context(), "nft", line).CombinedOutput(); err != nil {
						t.Fatalf("%s: %v: %s", line, err, out)
					}
				}
				before := ruleset(t)
				r := enforce(t, openNFTables(t, firewall.Options{}), newBook(), firewall.EnforcerOptions{RetryMin: 10 * time.Millisecond})
				if test.refused {
					r.until("refused", func() bool { return errors.Is(r.Status().Err, firewall.ErrForeign) })
					if text := r.Status().Err.Error(); !strings.Contains(text, "nft table inet fsban: "+test.kept) {
						t.Errorf("%s", text)
					}
				} else {
					r.until("enforcing", func() bool { return r.Status().Enforcing })
				}
				r.stop()
				removed, kept, err := backend.Teardown()
				if want := fmt.Sprintf("nft table inet fsban: %s: not made by fsban: remove or rename it", test.kept); err != nil || !slices.Equal(kept, []string{want}) {
					t.Errorf("kept %q, %v, want %q", kept, err, want)
				}
				if test.ownRemoved != "" && !slices.Contains(removed, test.ownRemoved) {
					t.Errorf("removed %q", removed)
				}
				if got := ruleset(t); got != before {
					t.Errorf("the ruleset is\n%s, was\n%s", got, before)
				}
			})
		})
	}
}
