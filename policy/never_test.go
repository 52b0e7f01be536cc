package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestANeverBanListHoldsNothingTwice(t *testing.T) {
	n := never("ignoreip", "192.0.2.7/32", "127.0.0.0/8", "::1/128", "127.0.0.1/32", "192.0.2.0/24", "::1/128", "198.51.100.9/24")
	var got []string
	for _, e := range n.Entries() {
		got = append(got, e.Prefix.String())
	}
	if want := []string{"127.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "::1/128"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestANeverBanEntrySaysWhereItCameFrom(t *testing.T) {
	parse := netip.MustParsePrefix
	n := NewNeverBan(NeverEntries("ignoreip", parse("192.0.2.0/24")), NeverEntries("gateway carrier1", parse("198.51.100.7/32"), parse("192.0.2.9/32")),
		NeverEntries("ssh peer", parse("198.51.100.7/32")), []NeverEntry{{}})
	for p, want := range map[string]string{
		"192.0.2.9/32": "ignoreip", "198.51.100.7/32": "gateway carrier1", "198.51.0.0/16": "gateway carrier1", "198.51.100.8/32": "", "192.0.0.0/8": "ignoreip",
	} {
		if e, ok := n.Match(parse(p)); e.Origin != want || ok != (want != "") {
			t.Errorf("%s: %+v", p, e)
		}
	}
	if len(n.Entries()) != 2 {
		t.Errorf("entries %+v", n.Entries())
	}
}

func TestMatchFindsWhatAScanFinds(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	prefix := func() netip.Prefix {
		if r.IntN(3) == 0 {
			a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 0, 0, byte(r.IntN(8)), 0, 0, 0, 0, 0, 0, 0, byte(r.IntN(16))})
			return netip.PrefixFrom(a, 56+r.IntN(73)).Masked()
		}
		a := netip.AddrFrom4([4]byte{192, 0, byte(r.IntN(4)), byte(r.IntN(256))})
		return netip.PrefixFrom(a, 18+r.IntN(15)).Masked()
	}
	for range 300 {
		var list []netip.Prefix
		for range r.IntN(40) {
			list = append(list, prefix())
		}
		n := NewNeverBan(NeverEntries("ignoreip", list...))
		for range 200 {
			p := prefix()
			want := slices.ContainsFunc(list, p.Overlaps)
			got, ok := n.Match(p)
			if ok != want || ok && !got.Prefix.Overlaps(p) {
				t.Fatalf("%v in %v: %v %t, want %t", p, list, got, ok, want)
			}
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	var list []netip.Prefix
	for i := range 10_000 {
		list = append(list, netip.PrefixFrom(address(2*i), 32))
	}
	n := NewNeverBan(NeverEntries("acl", list...))
	p := netip.PrefixFrom(address(10_001), 32)
	for b.Loop() {
		n.Match(p)
	}
}
