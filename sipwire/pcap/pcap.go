// Package pcap reads captures of packets, as tcpdump and sngrep write them: pcap and pcapng.
package pcap

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

const ngMagic = 0x0a0d0d0a

// IsCapture reports whether a file that begins with head is a capture.
func IsCapture(head []byte) bool {
	if len(head) < 4 {
		return false
	}
	switch binary.BigEndian.Uint32(head) {
	case ngMagic, 0xa1b2c3d4, 0xd4c3b2a1, 0xa1b23c4d, 0x4d3cb2a1:
		return true
	}
	return false
}

// maxFrame bounds the bytes read for a frame, with the blocks before it: a damaged length must not fill the memory.
const maxFrame = 16 << 20

// A limited reader reads up to left bytes.
type limited struct {
	r    io.Reader
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("no frame within %d bytes", maxFrame)
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// A Reader reads the frames of a capture.
type Reader struct {
	file     *limited
	source   gopacket.ZeroCopyPacketDataSource
	link     int // of all frames; -1: each has its own
	previous time.Time
}

// NewReader returns a Reader of a pcap or pcapng file.
func NewReader(r io.Reader) (*Reader, error) {
	file := &limited{r, maxFrame}
	b := bufio.NewReader(file)
	head, err := b.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("read capture: %w", err)
	}
	if binary.BigEndian.Uint32(head) == ngMagic {
		ng, err := pcapgo.NewNgReader(b, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
		if err != nil {
			return nil, fmt.Errorf("read pcapng: %w", err)
		}
		return &Reader{file: file, source: ng, link: -1}, nil
	}
	old, err := pcapgo.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("read pcap: %w", err)
	}
	return &Reader{file: file, source: old, link: linkOf(old.LinkType())}, nil
}

// Next returns the next frame, with its link type by the number of pcap, valid until the next call, and io.EOF at the end. A frame
// without a time has that of the frame before it. A capture that ends within a frame gives io.ErrUnexpectedEOF.
func (r *Reader) Next() (link int, frame []byte, at time.Time, err error) {
	r.file.left = maxFrame
	frame, info, err := r.source.ZeroCopyReadPacketData()
	if err != nil {
		return 0, nil, at, err
	}
	link = r.link
	if link < 0 && len(info.AncillaryData) > 0 {
		if own, ok := info.AncillaryData[0].(layers.LinkType); ok {
			link = linkOf(own)
		}
	}
	if !info.Timestamp.IsZero() {
		r.previous = info.Timestamp
	}
	return link, frame, r.previous, nil
}

// linkOf returns a link type without the bits that state a checksum's length.
func linkOf(t layers.LinkType) int { return int(t) & 0xffff }
