package detect

import (
	"bytes"
	"hash/maphash"
	"net/netip"
)

// MaxText bounds values from peers, in bytes; longer ones are cut.
const MaxText = 128

// interner caches recent strings, so that the same bytes become the same string without an allocation. Its size is fixed: a
// newer string replaces an older one, so input from peers cannot make it grow.
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

// addresses caches parsed IPv6 addresses as interner caches strings. Parsing an IPv4 address is faster than a lookup.
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

// parseIPv4 parses an IPv4 address as netip.ParseAddr does: four numbers without leading zeros.
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
