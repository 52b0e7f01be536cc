package book

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"fsban/fleet/merge"
)

func (r *rig) takeAllow(prefix string) bool {
	r.t.Helper()
	s := merge.Statement{
		Kind: merge.Allow, Prefix: netip.MustParsePrefix(prefix), Since: r.now, By: "evil", Node: "b-1", Stamp: r.now.UnixMicro(),
	}
	ok := r.TakeAllow(&s, false, r.now)
	r.ApplyNeverBan()
	return ok
}

// Four statements of the fleet made the whole internet never-banned.
func TestFourAllowancesOfAPeerDoNotCoverTheInternet(t *testing.T) {
	r := newRig(t)
	for _, prefix := range []string{"0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2", "2000::/4", "8000::/1"} {
		if r.takeAllow(prefix) {
			t.Errorf("%s is allowed", prefix)
		}
	}
	e := r.entry("203.0.113.7/32", ByRule)
	if err := r.Ban(e); err != nil || !r.inForce(e.Ban.Prefix) {
		t.Errorf("an attacker is not banned: %v", err)
	}
	if len(r.outbox.refused) != 6 || r.outbox.refused[0] != merge.TooWide {
		t.Errorf("refused: %v", r.outbox.refused)
	}
}

// The same with as many narrower statements as a peer likes: they cover 64 networks of /17 and 10,000 of /24 at most.
func TestManyAllowancesOfAPeerCoverLittle(t *testing.T) {
	r := newRig(t)
	for i := range 2 * 65536 {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i >> 9), byte(i >> 1), byte(i << 7), 0}), 17)
		s := merge.Statement{Kind: merge.Allow, Prefix: prefix, Since: r.now, Node: "b-1", Stamp: r.now.UnixMicro()}
		r.TakeAllow(&s, true, r.now)
	}
	for i := range maxAllowances {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(100 + i>>16), byte(i >> 8), byte(i), 0}), 24)
		s := merge.Statement{Kind: merge.Allow, Prefix: prefix, Since: r.now, Node: "b-1", Stamp: r.now.UnixMicro()}
		r.TakeAllow(&s, true, r.now)
	}
	r.ApplyNeverBan()
	addresses := 0
	for _, a := range r.Allowances() {
		addresses += 1 << (32 - a.Prefix.Bits())
	}
	t.Logf("%d allowances, %d addresses: %.2f %% of IPv4", len(r.Allowances()), addresses, float64(addresses)/(1<<32)*100)
	if addresses > maxPeerWide<<15+maxAllowances<<8 {
		t.Errorf("%d addresses", addresses)
	}
	// A place is free again when an allowance ends, and an operator is not bound by the peers' limit.
	if err := r.Allow(Allowance{Prefix: netip.MustParsePrefix("0.0.0.0/17"), Since: r.now}, false); err != nil {
		t.Error(err)
	}
	for _, a := range r.Allowances() {
		if a.Prefix.Bits() < 24 {
			r.Disallow(a.Prefix, Order{})
		}
	}
	r.now = r.now.Add(time.Second)
	if r.totals.wide != 0 || !r.takeAllow("198.51.0.0/17") || r.totals.wide != 1 {
		t.Errorf("%d wide ones remain", r.totals.wide)
	}
}

func TestOrdinaryAllowancesOfAPeerAreTaken(t *testing.T) {
	r := newRig(t)
	for i, prefix := range []string{
		"203.0.113.7/32", "203.0.113.0/24", "198.51.0.0/17", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7",
		"2001:db8::/48", "2001:db8:1:2::/64", "2001:db8:100::/40",
	} {
		if !r.takeAllow(prefix) {
			t.Errorf("%s is refused", prefix)
		}
		r.now = r.now.Add(time.Duration(i) * time.Second)
	}
	for _, prefix := range []string{"198.51.0.0/16", "10.0.0.0/7", "2001:db8::/32", "fc00::/6"} {
		if r.takeAllow(prefix) {
			t.Error(fmt.Sprint(prefix, " is taken"))
		}
	}
}
