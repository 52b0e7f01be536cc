package api

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsban/control"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

func TestABanThatEndsWhileItIsListedHasNoEvidence(t *testing.T) {
	now := time.Now()
	l, err := ledger.Open(filepath.Join(t.TempDir(), "fsban.db"), now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	there := netip.MustParsePrefix("203.0.113.7/32")
	l.Add(ledger.Ban{Prefix: there, Since: now, Rule: "auth", Evidence: []policy.Attempt{{Addr: there.Addr(), At: now}}})
	list := []control.Ban{{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, {Prefix: there}}
	if err := New(Options{Ledger: l}).addEvidence(list); err != nil || len(list[0].Evidence) != 0 || len(list[1].Evidence) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestAddressesWithoutABanNeedNoListOfTheKernel(t *testing.T) {
	now := time.Now()
	l, err := ledger.Open(filepath.Join(t.TempDir(), "fsban.db"), now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	l.Add(ledger.Ban{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Since: now, Rule: "auth"})
	listed := 0
	a := New(Options{
		Ledger: l, Watching: func() bool { return true },
		Existing: func() ([]firewall.Entry, error) { listed++; return nil, nil },
	})
	if ban, wider, err := a.bansOf(netip.MustParseAddr("192.0.2.7")); ban != nil || wider != nil || err != nil || listed != 0 {
		t.Errorf("%+v, %+v, %v, listed %d times", ban, wider, err, listed)
	}
	if !a.holds(netip.MustParseAddr("203.0.113.7")) {
		t.Error("an address of a banned prefix counts as free")
	}
}

func TestEntriesThatStillBlockAreBounded(t *testing.T) {
	var entries []firewall.Entry
	for i := range 2 * maxBlocked {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32)
		entries = append(entries, firewall.Entry{Prefix: p}, firewall.Entry{Prefix: p})
	}
	a := New(Options{Watching: func() bool { return true }, Existing: func() ([]firewall.Entry, error) { return entries, nil }})
	if got := a.stillBlocked(netip.MustParsePrefix("203.0.113.0/24")); len(got) != maxBlocked || got[1] == got[0] {
		t.Errorf("%v", got)
	}
}

func TestManyUnbansAreBounded(t *testing.T) {
	_, err := New(Options{}).UnbanMany(t.Context(), control.UnbanRequest{Prefixes: make([]netip.Prefix, control.MaxUnbans+1)}, "anna")
	if err == nil || err.Error() != "1001 prefixes, at most 1000" {
		t.Error(err)
	}
	long := control.UnbanRequest{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}, Reason: strings.Repeat("a", maxReason+1)}
	if _, err := New(Options{}).UnbanMany(t.Context(), long, "anna"); err == nil || err.Error() != "reason: 201 bytes, at most 200" {
		t.Error(err)
	}
}
