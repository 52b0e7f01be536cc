package sipwire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A Recording reads recorded HEP: each datagram with its length before it, four bytes in big endian.
type Recording struct {
	r      io.Reader
	length [4]byte
	buffer []byte
}

// NewRecording returns a Recording. It reads from r in small pieces.
func NewRecording(r io.Reader) *Recording { return &Recording{r: r} }

// Next returns the next datagram, valid until the next call, and io.EOF at the end. A recording that ends within a datagram gives
// io.ErrUnexpectedEOF.
func (r *Recording) Next() ([]byte, error) {
	if _, err := io.ReadFull(r.r, r.length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(r.length[:])
	if n > MaxMessage {
		return nil, fmt.Errorf("recorded HEP: a datagram of %d bytes, the limit is %d", n, MaxMessage)
	}
	if r.buffer == nil {
		r.buffer = make([]byte, MaxMessage)
	}
	if _, err := io.ReadFull(r.r, r.buffer[:n]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return r.buffer[:n], nil
}

// IsRecording reports whether a file that begins with head is a Recording.
func IsRecording(head []byte) bool {
	if len(head) < 8 {
		return false
	}
	n := binary.BigEndian.Uint32(head)
	return n >= 8 && n <= MaxMessage && (string(head[4:8]) == "HEP3" || head[4] == 1 && (head[5] == 16 || head[5] == 40) ||
		head[4] == 2 && (head[5] == 28 || head[5] == 52 || head[5] == 16 || head[5] == 40))
}
