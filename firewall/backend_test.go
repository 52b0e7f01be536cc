package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// What every way of banning promises.

func TestBanAgainGetsTheNewEnd(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		r := startKind(t, kind, Options{})
		for _, d := range []time.Duration{time.Hour, time.Minute, Forever, 2 * time.Hour} {
			r.ban("192.0.2.1", d)
			r.settle()
			entries, err := r.Entries()
			if err != nil || len(entries) != 1 {
				t.Fatal(entries, err)
			}
			if got := entries[0].Left; got != d && (d == Forever || (d-got).Abs() > 30*time.Second) {
				t.Errorf("%v left of %v", got, d)
			}
		}
	})
}

func TestUnbanOfWhatIsNotBannedIsNoError(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		r := startKind(t, kind, Options{})
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
		r := startKind(t, kind, Options{})
		want := []string{}
		n := 5000
		if strings.HasPrefix(kind, "rules") {
			n = MaxRules
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
		if got := inKernel(t, r.backend); !slices.Equal(got, want) {
			t.Errorf("%d entries, want %d", len(got), len(want))
		}
		for _, p := range want[:n-10] {
			r.unban(p)
		}
		r.settle()
		if got := inKernel(t, r.backend); !slices.Equal(got, want[n-10:]) {
			t.Errorf("%q are left, want %q", got, want[n-10:])
		}
	})
}

func TestOneBadEntryHoldsUpNoOther(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		b := openKind(t, kind, Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		var ops []op
		want := []string{}
		for i := range 1500 {
			p := fmt.Sprintf("198.18.%d.%d/32", i/256, i%256)
			ops = append(ops, op{prefix: netip.MustParsePrefix(p), add: true})
			want = append(want, p)
		}
		bad := op{prefix: netip.MustParsePrefix("0.0.0.0/0"), add: true}
		failed, err := b.apply(slices.Insert(ops, 700, bad))
		if len(failed) != 1 || failed[0] != bad {
			t.Errorf("%d failed, want %v", len(failed), bad)
		}
		want4 := "ipset add fsban4 0.0.0.0/0: the kernel takes no prefix of length 0"
		switch {
		case kind == "nftables":
			want4 = "nft add fsban4 0.0.0.0/0: a prefix of length 0 is everybody"
		case strings.HasPrefix(kind, "rules"):
			want4 = "ipv4: ban 0.0.0.0/0 in raw/FSBAN: a prefix of length 0 is everybody"
		}
		if err == nil || err.Error() != want4 {
			t.Errorf("%v, want %s", err, want4)
		}
		slices.Sort(want)
		if got := inKernel(t, b); !slices.Equal(got, want) {
			t.Errorf("%d entries, want %d", len(got), len(want))
		}
	})
}
