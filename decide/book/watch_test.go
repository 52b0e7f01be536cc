package book

import (
	"net/netip"
	"testing"

	"fsban/fleet/merge"
)

// No other node receives a watched ban, except those that enforcement keeps.
func TestWatchedBansAreAnnouncedIfEnforcementKeepsThem(t *testing.T) {
	for name, tc := range map[string]struct {
		keep      bool
		announced int
	}{"kept": {true, 2}, "ended": {false, 0}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.watching = true
			for _, e := range []Entry{r.entry("203.0.113.7/32", ByRule), r.entry("203.0.113.8/32", ByOperator)} {
				if err := r.Ban(e); err != nil {
					t.Fatal(err)
				}
			}
			local := r.entry("203.0.113.9/32", ByOperator)
			local.Ban.Local = true
			if err := r.Ban(local); err != nil {
				t.Fatal(err)
			}
			r.Tick(r.now)
			if len(r.outbox.announced) != 0 {
				t.Fatalf("announced while watching: %+v", r.outbox.announced)
			}
			kept, ended := r.Enforce(tc.keep, nil)
			if kept+ended != 3 || (kept == 3) != tc.keep {
				t.Errorf("%d kept, %d ended", kept, ended)
			}
			seen := make(map[netip.Prefix]bool)
			for _, s := range r.outbox.announced {
				seen[s.Prefix] = true
				if s.Kind != merge.Ban || s.Node != "a-1" || s.Stamp == 0 || s.Prefix == local.Ban.Prefix {
					t.Errorf("announced: %+v", s)
				}
			}
			if len(seen) != tc.announced || len(r.outbox.announced) != tc.announced {
				t.Errorf("announced: %+v", r.outbox.announced)
			}
		})
	}
}
