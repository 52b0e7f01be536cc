package daemon

import (
	"fmt"
	"testing"

	"fsban/internal/fakeswitch"
	"fsban/policy"
)

// newBans is the number of bans that top shows as new.
const newBans = 20

func TestTopShowsAnAttackAsItHappens(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	r.fail("203.0.113.1", 5)
	r.fail("203.0.113.2", 2)
	r.settled()
	top, err := r.client.Top(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(top.Addresses) != 2 || len(top.Users) != 1 || len(top.NewBans) != 1 || len(top.Sources) == 0 || len(top.ActiveSources) != int(policy.Scan) /* without a tap */ || !top.Ready {
		t.Fatalf("top: %+v", top)
	}
	first, second := top.Addresses[0], top.Addresses[1]
	if first.Prefix.String() != "203.0.113.1/32" || first.Attempts != 5 || first.Users != 1 || first.LastUser != "1000" || !first.Banned || first.Known || first.Last.IsZero() {
		t.Errorf("the busiest: %+v", first)
	}
	if second.Attempts != 2 || second.Banned {
		t.Errorf("the second: %+v", second)
	}
	if u := top.Users[0]; u.User != "1000" || u.Attempts != 7 || u.Addresses != 2 {
		t.Errorf("the user: %+v", u)
	}
	if b := top.NewBans[0]; b.Prefix.String() != "203.0.113.1/32" || b.Rule != "auth" || b.Evidence != nil {
		t.Errorf("the new ban: %+v", b)
	}
	if top.Attempts["auth_failure"] != 7 || top.Bans.Made != 1 || top.Bans.IPv4 != 1 {
		t.Errorf("totals: %v, %+v", top.Attempts, top.Bans)
	}
	if top, err := r.client.Top(t.Context(), 1); err != nil || len(top.Addresses) != 1 {
		t.Errorf("one line of it: %+v, %v", top.Addresses, err)
	}
	if _, err := r.client.Top(t.Context(), 101); err == nil || err.Error() != "request: n is 1 to 100" {
		t.Errorf("too many lines of it: %v", err)
	}
}

func TestOnlyTheLastBansAreNew(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	for i := range newBans + 2 {
		r.fail(fmt.Sprintf("203.0.113.%d", i), 5)
	}
	r.settled()
	top, err := r.client.Top(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(top.NewBans); n != newBans || top.NewBans[0].Prefix.String() != "203.0.113.21/32" || top.NewBans[n-1].Prefix.String() != "203.0.113.2/32" {
		t.Errorf("new bans: %+v", top.NewBans)
	}
}
