package ledger

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"fsban/policy"
)

func TestTheBansNearestToTheirEnd(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "fsban.db"), start)
	for i, d := range []time.Duration{5 * time.Hour, policy.Forever, time.Hour, 3 * time.Hour, 2 * time.Hour} {
		l.Add(ban(fmt.Sprintf("192.0.2.%d/32", i), d))
	}
	l.Add(ban("2001:db8::/64", time.Minute))
	operators := ban("192.0.2.9/32", time.Minute)
	operators.Rule = "operator"
	l.Add(operators)
	mayGo := func(b *Ban) bool { return b.Rule != "operator" }
	for n, want := range map[int]string{0: "[]", 2: "[192.0.2.2/32 192.0.2.4/32]", 9: "[192.0.2.2/32 192.0.2.4/32 192.0.2.3/32 192.0.2.0/32 192.0.2.1/32]"} {
		got := []netip.Prefix{}
		for _, b := range l.NearestEnd(true, n, mayGo) {
			got = append(got, b.Prefix)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%d: %v, want %s", n, got, want)
		}
	}
}

func TestAnotherEndKeepsTheEvidence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fsban.db")
	l := open(t, path, start)
	l.Add(ban("192.0.2.7/32", time.Hour))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix("192.0.2.7/32")
	l.Amend(p, start.Add(5*time.Hour))
	l.Amend(netip.MustParsePrefix("192.0.2.8/32"), start) // nobody
	flush(t, l)
	l = open(t, path, start)
	b, err := l.Load(p)
	if err != nil || !b.Until.Equal(start.Add(5*time.Hour)) || len(b.Evidence) != 2 || prefixes(l) != "192.0.2.7/32" {
		t.Errorf("%+v, %v, %s", b, err, prefixes(l))
	}
}
