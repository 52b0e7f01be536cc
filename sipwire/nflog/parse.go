package nflog

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A parser parses batches of netlink messages without allocation, and counts gaps in the packets' sequence numbers, which begin at 0
// when a group is bound.
type parser struct {
	next                     uint32 // expected sequence number
	packets, lost, malformed uint64
}

const (
	headerSize    = unix.SizeofNlMsghdr
	subHeaderSize = 4 // struct nfgenmsg
	typeMask      = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
)

// batch calls take with each packet of a batch, from its IP header on. A packet is a part of b.
func (p *parser) batch(b []byte, take func(packet []byte)) {
	for len(b) > 0 {
		if len(b) < headerSize {
			p.malformed++
			return
		}
		size, kind := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4:])
		if size < headerSize || size > len(b) {
			p.malformed++
			return
		}
		if kind == unix.NFNL_SUBSYS_ULOG<<8|msgPacket { // else the end of a batch, or the answer to a request
			p.message(b[headerSize:size], take)
		}
		b = b[min(len(b), align(size)):]
	}
}

// message calls take with the packet of a message.
func (p *parser) message(b []byte, take func(packet []byte)) {
	var packet []byte
	if len(b) < subHeaderSize {
		p.malformed++
		return
	}
	sequence, numbered := uint32(0), false
	for b = b[subHeaderSize:]; len(b) > 0; {
		if len(b) < unix.SizeofNlAttr {
			p.malformed++
			return
		}
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&typeMask
		if size < unix.SizeofNlAttr || size > len(b) {
			p.malformed++
			return
		}
		value := b[unix.SizeofNlAttr:size]
		switch {
		case kind == attrPayload:
			packet = value
		case kind == attrSequence && len(value) == 4:
			sequence, numbered = binary.BigEndian.Uint32(value), true
		}
		b = b[min(len(b), align(size)):]
	}
	if numbered {
		p.count(sequence)
	}
	p.packets++
	if len(packet) > 0 {
		take(packet)
	}
}

// count adds the packets that are missing before the one with a sequence number.
func (p *parser) count(sequence uint32) {
	if missing := sequence - p.next; int32(missing) > 0 {
		p.lost += uint64(missing)
	}
	p.next = sequence + 1
}

func align(n int) int { return (n + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
