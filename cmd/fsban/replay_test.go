package main

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"fsban/policy"
)

// An outage takes back the ban in force, how long it may last, and none that was served before.
func TestWhatAnOutageLiftsWouldNotBeBanned(t *testing.T) {
	office, other := netip.MustParsePrefix("203.0.113.50/32"), netip.MustParsePrefix("203.0.113.66/32")
	served := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	for name, until := range map[string]time.Time{"for a day": served.Add(48 * time.Hour), "forever": {}} {
		r := &replayer{banned: make(map[netip.Prefix]time.Time)}
		rule := &policy.Rule{Name: "auth"}
		for _, d := range []policy.Decision{
			{Verdict: policy.BanNow, Prefix: office, Rule: rule, Since: served.Add(-time.Hour), Until: served},
			{Verdict: policy.BanNow, Prefix: office, Rule: rule, Since: served.Add(24 * time.Hour), Until: until},
			{Verdict: policy.BanNow, Prefix: other, Rule: rule, Since: served.Add(24 * time.Hour), Until: until},
			{Verdict: policy.Lift, Prefix: office},
		} {
			r.act(&d)
		}
		var left []netip.Prefix
		for _, b := range r.bans {
			left = append(left, b.Prefix)
		}
		if _, banned := r.banned[office]; banned || !slices.Equal(left, []netip.Prefix{office, other}) || !r.bans[0].Until.Equal(served) {
			t.Errorf("%s: %+v", name, r.bans)
		}
	}
}
