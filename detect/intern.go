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

// addresses does for addresses what interner does for strings.
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
