package detect

import (
	"bytes"
	"hash/maphash"
	"net/netip"
)

// MaxText bounds what is kept of a value that a peer chose, in bytes.
const MaxText = 128

// interner keeps strings that were seen lately, so that the same bytes become the same string without an allocation. It
// is a table of fixed size: a newer string takes an older one's place, so it cannot grow, whatever peers send.
type interner struct {
	seed  maphash.Seed
	slots [4096]string
}

// keep returns b as a string, cut at MaxText bytes.
func (t *interner) keep(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > MaxText {
		b = bytes.ToValidUTF8(b[:MaxText], nil)
	}
	if t.seed == (maphash.Seed{}) {
		t.seed = maphash.MakeSeed()
	}
	slot := &t.slots[maphash.Bytes(t.seed, b)%uint64(len(t.slots))]
	if *slot != string(b) {
		*slot = string(b)
	}
	return *slot
}

// addresses does for IPv6 addresses what interner does for strings. An IPv4 address is read faster than looked up.
type addresses struct {
	seed  maphash.Seed
	slots [4096]struct {
		text string
		addr netip.Addr
	}
}

// parse reads an address as FreeSWITCH writes it: IPv6 without brackets. A zone is not part of a remote address, and an
// IPv4-mapped one is an IPv4 address.
func (t *addresses) parse(b []byte) (netip.Addr, bool) {
	if addr, ok := parseIPv4(b); ok {
		return addr, !addr.IsUnspecified()
	}
	if len(b) == 0 || len(b) > 64 {
		return netip.Addr{}, false
	}
	if t.seed == (maphash.Seed{}) {
		t.seed = maphash.MakeSeed()
	}
	slot := &t.slots[maphash.Bytes(t.seed, b)%uint64(len(t.slots))]
	if slot.text != string(b) {
		text := string(b)
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Addr{}, false
		}
		slot.text, slot.addr = text, addr.WithZone("").Unmap()
	}
	if slot.addr.IsUnspecified() {
		return netip.Addr{}, false
	}
	return slot.addr, true
}

// parseIPv4 reads what netip.ParseAddr takes for an IPv4 address: four numbers without leading zeros.
func parseIPv4(b []byte) (netip.Addr, bool) {
	var a [4]byte
	n, digits, field := 0, 0, 0
	for _, c := range b {
		switch {
		case c == '.' && digits > 0 && n < 3:
			a[n] = byte(field)
			n, digits, field = n+1, 0, 0
			continue
		case !isDigit(c), digits > 0 && field == 0:
			return netip.Addr{}, false
		}
		digits, field = digits+1, 10*field+int(c-'0')
		if field > 255 {
			return netip.Addr{}, false
		}
	}
	a[n] = byte(field)
	return netip.AddrFrom4(a), n == 3 && digits > 0
}
