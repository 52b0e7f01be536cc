package firewall_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/xtables"
	"fsban/internal/kerneltest"
)

// The tests in this file hold for every backend.

func TestBanAgainGetsTheNewEnd(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		r := startKind(t, kind, firewall.Options{})
		for _, d := range []time.Duration{time.Hour, time.Minute, firewall.Forever, 2 * time.Hour} {
			r.ban("192.0.2.1", d)
			r.settle()
			entries, err := r.Entries()
			if err != nil || len(entries) != 1 {
				t.Fatal(entries, err)
			}
			if got := entries[0].Left; got != d && (d == firewall.Forever || (d-got).Abs() > 30*time.Second) {
				t.Errorf("%v left of %v", got, d)
			}
		}
	})
}

func TestUnbanOfWhatIsNotBannedIsNoError(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		r := startKind(t, kind, firewall.Options{})
		r.unban("192.0.2.1")
		r.unban("2001:db8::/64")
		r.settle()
		if s := r.Status(); !s.Enforcing || s.Failures > 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestThousandsOfBansAtOnce(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		r := startKind(t, kind, firewall.Options{})
		want := []string{}
		n := 5000
		if strings.HasPrefix(kind, "rules") {
			n = xtables.MaxRules
		}
		for i := range n {
			p := fmt.Sprintf("198.18.%d.%d/32", i/256, i%256)
			if i%2 == 1 {
				p = fmt.Sprintf("2001:db8:%x::/64", i)
			}
			want = append(want, p)
			r.ban(p, time.Hour+time.Duration(i)*time.Second)
		}
		r.settle()
		slices.Sort(want)
		if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, want) {
			t.Errorf("%d entries, want %d", len(got), len(want))
		}
		for _, p := range want[:n-10] {
			r.unban(p)
		}
		r.settle()
		if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, want[n-10:]) {
			t.Errorf("%q are left, want %q", got, want[n-10:])
		}
	})
}

func TestOneBadEntryHoldsUpNoOther(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		b := openKind(t, kind, firewall.Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		var ops []firewall.Order
		want := []string{}
		for i := range 1500 {
			p := fmt.Sprintf("198.18.%d.%d/32", i/256, i%256)
			ops = append(ops, firewall.Order{Prefix: netip.MustParsePrefix(p), Add: true})
			want = append(want, p)
		}
		bad := firewall.Order{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Add: true}
		failed, err := b.Apply(slices.Insert(ops, 700, bad))
		if len(failed) != 1 || failed[0] != bad {
			t.Errorf("%d failed, want %v", len(failed), bad)
		}
		want4 := "ipset add fsban4 0.0.0.0/0: the kernel does not accept a prefix of length 0"
		switch {
		case kind == "nftables":
			want4 = "nft add fsban4 0.0.0.0/0: a prefix of length 0 covers every address"
		case strings.HasPrefix(kind, "rules"):
			want4 = "ipv4: ban 0.0.0.0/0 in raw/FSBAN: a prefix of length 0 covers every address"
		}
		if err == nil || err.Error() != want4 {
			t.Errorf("%v, want %s", err, want4)
		}
		slices.Sort(want)
		if got := kerneltest.Banned(t, b); !slices.Equal(got, want) {
			t.Errorf("%d entries, want %d", len(got), len(want))
		}
	})
}

// An entry that its owner rejects is removed from the real kernel, however often it is put back.
func TestRejectedEntriesAreRemovedFromTheKernel(t *testing.T) {
	add := map[string]string{
		"nft": "ipset add fsban4 192.0.2.9 timeout 0", "legacy": "ipset add fsban4 192.0.2.9 timeout 600",
		"nftables":  "nft add element inet fsban fsban4 { 192.0.2.9 timeout 1h }",
		"rules nft": "iptables -t raw -A FSBAN -s 192.0.2.9 -j DROP", "rules legacy": "iptables -t raw -A FSBAN -s 192.0.2.9 -j DROP",
	}
	onBackends(t, func(t *testing.T, kind string) {
		r := rejecting(t, &gate{Backend: openKind(t, kind, firewall.Options{})}, newBook(), firewall.EnforcerOptions{Check: 50 * time.Millisecond},
			func(p netip.Prefix) bool { return p == kerneltest.Prefix("192.0.2.9") })
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		r.ban("192.0.2.1", time.Hour)
		r.settle()
		for n := range 3 {
			r.betweenChecks(add[kind])
			r.until("removed", func() bool { return r.removals() > n && r.Status().Pending == 0 })
			if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, []string{"192.0.2.1/32"}) {
				t.Errorf("the kernel holds %q", got)
			}
		}
	})
}
