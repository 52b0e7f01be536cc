package pcap

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

// zeros is an endless file that counts the bytes read.
type zeros struct{ read int }

func (z *zeros) Read(p []byte) (int, error) {
	clear(p)
	z.read += len(p)
	return len(p), nil
}

const linkEthernet = 1

func words(order binary.AppendByteOrder, list ...uint32) string {
	var b []byte
	for _, w := range list {
		b = order.AppendUint32(b, w)
	}
	return string(b)
}

func TestADamagedLengthDoesNotFillTheMemory(t *testing.T) {
	le := binary.LittleEndian
	const huge = 0xfffffff0
	section := words(le, ngMagic, 28, 0x1a2b3c4d, 1, 0xffffffff, 0xffffffff, 28)
	device := words(le, 1, 20, linkEthernet, 0, 20)
	for name, head := range map[string]string{
		"pcap":                   words(le, 0xa1b2c3d4, 2|4<<16, 0, 0, 0xffffffff, linkEthernet, 1, 0, huge, huge),
		"pcapng":                 section + device + words(le, 6, huge, 0, 0, 0, huge-32, huge-32),
		"pcapng, another block":  section + device + words(le, 0xbad, huge),
		"pcapng, a block before": section + words(le, 0xbad, huge),
	} {
		file := &zeros{}
		r, err := NewReader(io.MultiReader(strings.NewReader(head), file))
		if err == nil {
			_, _, _, err = r.Next()
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v, want an error", name, err)
		}
		if file.read > maxFrame {
			t.Errorf("%s: %d bytes read, the limit is %d", name, file.read, maxFrame)
		}
	}
}

func TestTheBoundHoldsForEachFrame(t *testing.T) {
	const size, frames = 1 << 17, 200 // together more than maxFrame
	le := binary.LittleEndian
	var b strings.Builder
	b.WriteString(words(le, 0xa1b2c3d4, 2|4<<16, 0, 0, size, linkEthernet))
	for range frames {
		b.WriteString(words(le, 1, 0, size, size) + strings.Repeat("x", size))
	}
	r, err := NewReader(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	for range frames {
		if _, frame, _, err := r.Next(); err != nil || len(frame) != size {
			t.Fatalf("a frame of %d bytes: %v", len(frame), err)
		}
	}
	if _, _, _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("%v after the last frame", err)
	}
}
