package replay

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestCompare(t *testing.T) {
	start := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	ban := func(last byte, minute, length int, rule string) Ban {
		since := start.Add(time.Duration(minute) * time.Minute)
		return Ban{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 32), Since: since, Until: since.Add(time.Duration(length) * time.Minute), Rule: rule}
	}
	for name, tt := range map[string]struct {
		first, other []Ban
		want         string
	}{
		"nothing":    {nil, nil, "same 0, first [], other [], changed []"},
		"the same":   {[]Ban{ban(1, 0, 60, "auth")}, []Ban{ban(1, 0, 60, "auth")}, "same 1, first [], other [], changed []"},
		"only first": {[]Ban{ban(1, 0, 60, "auth")}, nil, "same 0, first [1@0], other [], changed []"},
		"only other": {nil, []Ban{ban(2, 5, 60, "auth"), ban(1, 7, 60, "auth")}, "same 0, first [], other [2@5 1@7], changed []"},
		"later":      {[]Ban{ban(1, 0, 60, "auth")}, []Ban{ban(1, 3, 60, "auth")}, "same 0, first [], other [], changed [1@0 3m0s]"},
		"earlier":    {[]Ban{ban(1, 4, 60, "auth")}, []Ban{ban(1, 3, 60, "auth")}, "same 0, first [], other [], changed [1@4 -1m0s]"},
		"longer":     {[]Ban{ban(1, 0, 60, "auth")}, []Ban{ban(1, 0, 90, "auth")}, "same 0, first [], other [], changed [1@0 0s]"},
		"by another rule": {
			[]Ban{ban(1, 0, 60, "auth")}, []Ban{ban(1, 0, 60, "slow")}, "same 0, first [], other [], changed [1@0 0s]",
		},
		"another day": {
			[]Ban{ban(1, 0, 60, "auth")}, []Ban{ban(1, 1441, 60, "auth")}, "same 0, first [1@0], other [1@1441], changed []",
		},
		// The first of two is missing: the second is the same, and not later by an hour.
		"one of two": {
			[]Ban{ban(1, 0, 10, "auth"), ban(1, 60, 10, "auth")}, []Ban{ban(1, 60, 10, "auth")}, "same 1, first [1@0], other [], changed []",
		},
		"one long ban instead of three": {
			[]Ban{ban(1, 0, 10, "auth"), ban(1, 20, 10, "auth"), ban(1, 40, 10, "auth")}, []Ban{ban(1, 0, 900, "auth")},
			"same 0, first [1@20 1@40], other [], changed [1@0 0s]",
		},
	} {
		c := Compare(&Result{Bans: tt.first}, &Result{Bans: tt.other}, 24*time.Hour)
		text := func(b Ban) string {
			return fmt.Sprintf("%d@%.0f", b.Prefix.Addr().As4()[3], b.Since.Sub(start).Minutes())
		}
		list := func(bans []Ban) (l []string) {
			for _, b := range bans {
				l = append(l, text(b))
			}
			return l
		}
		var changed []string
		for _, ch := range c.Changed {
			changed = append(changed, text(ch.First)+" "+ch.Later.String())
		}
		if got := fmt.Sprintf("same %d, first %v, other %v, changed %v", c.Same, list(c.OnlyFirst), list(c.OnlyOther), changed); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		if n, m := c.Same+len(c.Changed)+len(c.OnlyFirst), c.Same+len(c.Changed)+len(c.OnlyOther); n != len(tt.first) || m != len(tt.other) {
			t.Errorf("%s: %d and %d bans, want %d and %d", name, n, m, len(tt.first), len(tt.other))
		}
	}
	// Bans of one prefix in any number and order are each reported once.
	many := []Ban{ban(1, 0, 1, "auth"), ban(1, 2000, 1, "auth"), ban(1, 4000, 1, "auth")}
	if c := Compare(&Result{Bans: many}, &Result{Bans: slices.Clone(many)}, time.Hour); c.Same != 3 {
		t.Errorf("of three equal bans %d are the same", c.Same)
	}
}
