package policy

import (
	"fmt"
	"net/netip"
)

// A translation lists the IPv6 prefixes whose addresses stand for IPv4 addresses.
//
// Behind a translator the usual /64 of one customer holds the whole IPv4 internet. So an address of a translated prefix
// counts as the IPv4 address in it, by Options.IPv4Prefix, and alone where the layout is unknown. Its packets arrive with
// the IPv6 address: counts, bans and entries keep the IPv6 form, of the length that stands for the IPv4 prefix.
//
// Well known are NAT64 (64:ff9b::/96), 6to4 (2002::/16, the /48 being one site), local-use NAT64 (64:ff9b:1::/48, with a
// layout that each network chooses, RFC 8215) and Teredo (2001::/32, which keeps the IPv4 address in its last bits, where no prefix
// reaches it). The other prefixes are the operator's own, in the layouts of RFC 6052.
type translation struct{ own []netip.Prefix }

var (
	wellKnownNAT64 = netip.MustParsePrefix("64:ff9b::/96")
	localNAT64     = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFour      = netip.MustParsePrefix("2002::/16")
	teredo         = netip.MustParsePrefix("2001::/32")
	allIPv4        = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
)

// CheckNAT64 returns why p is no prefix of a translator: RFC 6052 allows six lengths and keeps the bits 64 to 71 zero.
func CheckNAT64(p netip.Prefix) error {
	switch {
	case !p.Addr().Is6() || p.Addr().Is4In6():
		return fmt.Errorf("%v is not an IPv6 prefix", p)
	case p != p.Masked():
		return fmt.Errorf("%v has bits beyond its length: write %v", p, p.Masked())
	case p.Overlaps(sixToFour) || p.Overlaps(teredo):
		return fmt.Errorf("%v overlaps 6to4 (%v) or Teredo (%v)", p, sixToFour, teredo)
	}
	switch p.Bits() {
	case 32, 40, 48, 56, 64:
		return nil
	case 96:
		if p.Addr().As16()[reservedOctet] == 0 {
			return nil
		}
		return fmt.Errorf("%v has bits set between 64 and 71, which RFC 6052 keeps zero", p)
	}
	return fmt.Errorf("%v is no length of a NAT64 prefix: write /32, /40, /48, /56, /64 or /96 (RFC 6052)", p)
}

// reservedOctet is the octet that RFC 6052 keeps zero in every layout; an IPv4 address continues behind it.
const reservedOctet = 8

// A layout is the number of bits before the IPv4 address. unknownLayout: the address counts alone.
type layout int

const unknownLayout layout = -1

// of returns the layout of addr's prefix. It reports false for an address that stands for itself.
func (t *translation) of(addr netip.Addr) (layout, bool) {
	if !addr.Is6() {
		return 0, false
	}
	for _, p := range t.own {
		if !p.Contains(addr) {
			continue
		}
		if addr.As16()[reservedOctet] != 0 {
			return unknownLayout, true
		}
		return layout(p.Bits()), true
	}
	switch {
	case wellKnownNAT64.Contains(addr):
		return layout(wellKnownNAT64.Bits()), true
	case sixToFour.Contains(addr):
		return layout(sixToFour.Bits()), true
	case localNAT64.Contains(addr), teredo.Contains(addr):
		return unknownLayout, true
	}
	return 0, false
}

// bits returns the length of the IPv6 prefix that stands for an IPv4 prefix of n bits.
func (l layout) bits(n int) int {
	switch {
	case l == unknownLayout:
		return 128
	case l <= 64 && int(l)+n > 64:
		return int(l) + n + 8
	}
	return int(l) + n
}

// ipv4 returns the IPv4 prefix that p, an IPv6 prefix of this layout, stands for.
func (l layout) ipv4(p netip.Prefix) netip.Prefix {
	raw, n := p.Masked().Addr().As16(), 32
	for n > 0 && l.bits(n) > p.Bits() {
		n--
	}
	var v4 [4]byte
	from := int(l) / 8
	for i := range v4 {
		if from == reservedOctet && l <= 64 {
			from++
		}
		v4[i] = raw[from]
		from++
	}
	v4Prefix, _ := netip.AddrFrom4(v4).Prefix(n)
	return v4Prefix
}

// coversAll reports whether p covers a whole NAT64 prefix, and so every host behind the translator. In local-use NAT64 every network of
// 96 bits may be one.
func (t *translation) coversAll(p netip.Prefix) bool {
	if !p.Addr().Is6() {
		return false
	}
	covers := func(whole netip.Prefix, bits int) bool { return p.Bits() <= bits && p.Overlaps(whole) }
	for _, own := range t.own {
		if covers(own, own.Bits()) {
			return true
		}
	}
	if covers(wellKnownNAT64, wellKnownNAT64.Bits()) {
		return true
	}
	if l, _ := t.of(p.Addr()); l > 0 {
		return false // an own prefix inside of local-use NAT64
	}
	return covers(localNAT64, 96)
}

// ipv4 yields the IPv4 prefixes that p may stand for: none where it stands for itself, several where the layout is unknown.
func (t *translation) ipv4(p netip.Prefix, yield func(netip.Prefix) bool) {
	l, ok := t.of(p.Addr())
	switch {
	case t.coversAll(p):
		yield(allIPv4)
	case !ok:
	case l != unknownLayout:
		yield(l.ipv4(p))
	case !p.IsSingleIP():
	case teredo.Contains(p.Addr()):
		raw := p.Addr().As16()
		yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{^raw[12], ^raw[13], ^raw[14], ^raw[15]}), 32))
	case localNAT64.Contains(p.Addr()):
		for _, l := range [...]layout{48, 56, 64, 96} {
			host := p.Addr()
			if l <= 64 && (host.As16()[reservedOctet] != 0 || netip.PrefixFrom(host, l.bits(32)).Masked().Addr() != host) {
				continue // bits are set where this layout has none
			}
			if v4 := l.ipv4(p); v4.Addr().As4()[0] != 0 && !yield(v4) {
				return
			}
		}
	}
}
