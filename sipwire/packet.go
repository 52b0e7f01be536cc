package sipwire

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Link types of packet captures.
const (
	LinkNull     = 0
	LinkEthernet = 1
	LinkRaw      = 101
	LinkLoop     = 108
	LinkSLL      = 113
	LinkIPv4     = 228
	LinkIPv6     = 229
	LinkSLL2     = 276
)

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd

	protoTCP = 6
	protoUDP = 17
)

// A segment is a UDP datagram or a TCP segment.
type segment struct {
	from, to netip.AddrPort
	proto    byte
	payload  []byte

	// of TCP
	seq   uint32
	flags byte
}

const (
	tcpFin = 1 << iota
	tcpSyn
	tcpRst
)

// network cuts the link layer, with VLAN tags, off a frame. It returns nil for frames that hold no IP.
func network(link int, b []byte) []byte {
	ether := func(at, header int) []byte {
		if len(b) < header {
			return nil
		}
		kind := binary.BigEndian.Uint16(b[at:])
		b = b[header:]
		for kind == 0x8100 || kind == 0x88a8 || kind == 0x9100 {
			if len(b) < 4 {
				return nil
			}
			kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
		}
		if kind == etherIPv4 || kind == etherIPv6 {
			return b
		}
		return nil
	}
	switch link {
	case LinkEthernet:
		return ether(12, 14)
	case LinkSLL:
		return ether(14, 16)
	case LinkSLL2:
		return ether(0, 20)
	case LinkNull, LinkLoop:
		if len(b) < 4 {
			return nil
		}
		return b[4:]
	case LinkRaw, LinkIPv4, LinkIPv6, 12, 14: // 12 and 14 are raw IP as some systems write it
		return b
	}
	return nil
}

// A fragment is a part of an IP packet, or all of it.
type fragment struct {
	key     fragmentKey
	offset  int
	more    bool
	payload []byte // of the IP packet
}

type fragmentKey struct {
	from, to netip.Addr
	id       uint32
	proto    byte
}

// parseIP reads an IP header with its extensions.
func parseIP(b []byte) (f fragment, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return parseIPv4(b)
	case len(b) >= 40 && b[0]>>4 == 6:
		return parseIPv6(b)
	}
	return f, false
}

func parseIPv4(b []byte) (f fragment, ok bool) {
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if total == 0 { // written by a network card that splits packets
		total = len(b)
	}
	if header < 20 || total < header || total > len(b) {
		return f, false
	}
	word := binary.BigEndian.Uint16(b[6:])
	f.offset, f.more = int(word&0x1fff)*8, word&0x2000 != 0
	from, _ := netip.AddrFromSlice(b[12:16])
	to, _ := netip.AddrFromSlice(b[16:20])
	f.key = fragmentKey{from, to, uint32(binary.BigEndian.Uint16(b[4:])), b[9]}
	f.payload = b[header:total]
	return f, true
}

func parseIPv6(b []byte) (f fragment, ok bool) {
	const hopByHop, routing, fragmented, destination = 0, 43, 44, 60
	from, _ := netip.AddrFromSlice(b[8:24])
	to, _ := netip.AddrFromSlice(b[24:40])
	length, next := int(binary.BigEndian.Uint16(b[4:])), b[6]
	b = b[40:]
	if length > len(b) {
		return f, false
	}
	if length > 0 {
		b = b[:length]
	}
	f.key.from, f.key.to = from.Unmap(), to.Unmap()
	for {
		switch next {
		case hopByHop, routing, destination:
			if len(b) < 8 || len(b) < 8+8*int(b[1]) {
				return f, false
			}
			next, b = b[0], b[8+8*int(b[1]):]
			continue
		case fragmented:
			if len(b) < 8 || f.key.id != 0 {
				return f, false
			}
			word := binary.BigEndian.Uint16(b[2:])
			f.offset, f.more, f.key.id = int(word&^7), word&1 != 0, binary.BigEndian.Uint32(b[4:])
			next, b = b[0], b[8:]
			if f.offset > 0 { // the headers behind it are in the first fragment
				f.key.proto, f.payload = next, b
				return f, true
			}
			continue
		}
		f.key.proto, f.payload = next, b
		return f, true
	}
}

// parseSegment reads the header of UDP or TCP.
func parseSegment(f *fragment) (s segment, ok bool) {
	b := f.payload
	if len(b) < 8 {
		return s, false
	}
	s.proto = f.key.proto
	s.from = netip.AddrPortFrom(f.key.from, binary.BigEndian.Uint16(b))
	s.to = netip.AddrPortFrom(f.key.to, binary.BigEndian.Uint16(b[2:]))
	switch s.proto {
	case protoUDP:
		length := int(binary.BigEndian.Uint16(b[4:]))
		if length < 8 || length > len(b) {
			return s, false
		}
		s.payload = b[8:length]
		return s, true
	case protoTCP:
		if len(b) < 20 {
			return s, false
		}
		header := int(b[12]>>4) * 4
		if header < 20 || header > len(b) {
			return s, false
		}
		s.seq, s.flags, s.payload = binary.BigEndian.Uint32(b[4:]), b[13], b[header:]
		return s, true
	}
	return s, false
}

const (
	maxFragmented  = 256 // packets that wait for fragments
	maxFragments   = 64  // of a packet
	fragmentExpiry = 30 * time.Second
)

// fragments reassemble IP packets. Beyond maxFragmented the oldest is dropped.
type fragments struct {
	waiting map[fragmentKey]*fragmented
	dropped uint64
}

// A fragmented is an IP packet of which fragments are missing. An overlap drops it, as RFC 5722 demands.
type fragmented struct {
	first time.Time
	parts []fragment
	size  int // of the packet; 0: its end is not known
	have  int // bytes
}

// add returns the packet that f completes.
func (fs *fragments) add(f fragment, at time.Time) (whole fragment, ok bool) {
	if f.offset == 0 && !f.more {
		return f, true
	}
	if fs.waiting == nil {
		fs.waiting = make(map[fragmentKey]*fragmented)
	}
	p := fs.waiting[f.key]
	if p == nil || at.Sub(p.first) > fragmentExpiry {
		if p == nil && len(fs.waiting) >= maxFragmented {
			fs.dropOldest()
		}
		p = &fragmented{first: at}
		fs.waiting[f.key] = p
	}
	end := f.offset + len(f.payload)
	if end > MaxMessage || len(f.payload) == 0 || len(p.parts) == maxFragments || p.size > 0 && (end > p.size || !f.more) || p.overlaps(&f) {
		fs.drop(f.key)
		return whole, false
	}
	if !f.more {
		p.size = end
	}
	f.payload = append([]byte(nil), f.payload...)
	p.parts = append(p.parts, f)
	p.have += len(f.payload)
	if p.size == 0 || p.have < p.size {
		return whole, false
	}
	delete(fs.waiting, f.key)
	whole = fragment{key: f.key, payload: make([]byte, p.size)}
	for _, part := range p.parts {
		if part.offset+len(part.payload) > p.size {
			fs.dropped++
			return whole, false
		}
		copy(whole.payload[part.offset:], part.payload)
	}
	return whole, true
}

func (p *fragmented) overlaps(f *fragment) bool {
	for i := range p.parts {
		part := &p.parts[i]
		if f.offset < part.offset+len(part.payload) && part.offset < f.offset+len(f.payload) {
			return true
		}
	}
	return false
}

func (fs *fragments) dropOldest() {
	var oldest fragmentKey
	var first time.Time
	for key, p := range fs.waiting {
		if first.IsZero() || p.first.Before(first) {
			oldest, first = key, p.first
		}
	}
	fs.drop(oldest)
}

func (fs *fragments) drop(key fragmentKey) {
	delete(fs.waiting, key)
	fs.dropped++
}
