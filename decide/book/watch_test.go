package book

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

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
			done := r.Enforce(&Enforcement{Keep: tc.keep})
			if done.Kept+done.Ended != 3 || (done.Kept == 3) != tc.keep {
				t.Errorf("%+v", done)
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

// Of the watched bans those that last longest are enforced, as many as fit, and no other node receives one that does not.
func TestWatchedBansBeyondTheCapacityAreEvicted(t *testing.T) {
	r := newRig(t)
	r.watching = true
	for i := range 5 {
		e := r.entry(fmt.Sprintf("203.0.113.%d/32", i), ByRule)
		e.Ban.Until = r.now.Add(time.Duration(i+1) * time.Hour)
		if err := r.Ban(e); err != nil {
			t.Fatal(err)
		}
	}
	r.capacity = 3 // of the firewall that it switches to
	if done := r.Enforce(&Enforcement{Keep: true}); done != (Enforced{Kept: 3, Evicted: 2}) {
		t.Errorf("%+v", done)
	}
	for i := range 5 {
		p := netip.MustParsePrefix(fmt.Sprintf("203.0.113.%d/32", i))
		if _, kept := r.disk.Get(p); kept != (i >= 2) {
			t.Errorf("%v: kept %v", p, kept)
		}
	}
	if len(r.outbox.announced) != 3 || r.counts.unbanned[Evicted] != 2 {
		t.Errorf("announced %+v, ended %v", r.outbox.announced, r.counts.unbanned)
	}
}

// A node that watches lists the bans of the others. They are no decisions of its own: enforcement keeps them, and does not announce
// them again.
func TestBansOfOtherNodesAreNoWatchedOnes(t *testing.T) {
	r := newRig(t)
	r.watching = true
	r.enter(r.entry("203.0.113.7/32", FromPeer))
	if err := r.Ban(r.entry("203.0.113.8/32", ByRule)); err != nil {
		t.Fatal(err)
	}
	done := r.Enforce(new(Enforcement))
	ban, kept := r.disk.Get(netip.MustParsePrefix("203.0.113.7/32"))
	if done != (Enforced{Kept: 1, Ended: 1}) || !kept || ban.Node != "b-1" || ban.Watched || len(r.outbox.announced) != 0 {
		t.Errorf("%+v, %+v, announced %+v", done, ban, r.outbox.announced)
	}
}

// If nothing says whether the last process watched, the bans do: those that were enforced stay.
func TestMarkedBansEndIfTheStateIsLost(t *testing.T) {
	r := newRig(t)
	ban := func(p string) {
		t.Helper()
		if err := r.Ban(r.entry(p, ByRule)); err != nil {
			t.Fatal(err)
		}
	}
	ban("203.0.113.1/32")
	r.watching = true
	ban("203.0.113.2/32") // ends
	ban("203.0.113.3/32") // the kernel holds it
	r.restart()
	if !r.disk.AnyWatched() {
		t.Error("no ban is marked after a restart")
	}
	blocked := map[netip.Prefix]struct{}{netip.MustParsePrefix("203.0.113.3/32"): {}}
	if done := r.Enforce(&Enforcement{Blocked: blocked, Marked: true}); done != (Enforced{Kept: 2, Ended: 1}) {
		t.Errorf("%+v", done)
	}
	if r.disk.AnyWatched() {
		t.Error("a ban that is enforced is marked as watched")
	}
	r.restart()
	if _, kept := r.disk.Get(netip.MustParsePrefix("203.0.113.2/32")); kept || r.disk.AnyWatched() {
		t.Error("after a restart a watched ban is back")
	}
}
