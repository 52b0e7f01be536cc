package ledger

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"fsban/policy"
)

// An Entry of the journal is an attempt that was counted, or a prefix that began again from zero.
type Entry struct {
	Attempt policy.Attempt
	Forgot  netip.Prefix
	At      time.Time // when it was forgotten
}

// A chunk is some entries as the file has them: a version, their number, and one behind the other. Under a flood an entry
// costs its bytes and little else, here and in the file.
type chunk struct {
	data   []byte
	newest time.Time
}

const (
	chunkVersion = 1
	chunkHead    = 1 + 4
	chunkSize    = 8 << 10 // the next entry begins another one
)

// The kinds of entries in a chunk.
const (
	entryAttempt = iota
	entryForgot
)

var errChunk = errors.New("damaged: no entries of the journal")

// add appends e, and tells whether it had room.
func (c *chunk) add(e *Entry, at time.Time) bool {
	switch {
	case c.data == nil:
		c.data = append(make([]byte, 0, 256), chunkVersion, 0, 0, 0, 0)
	case len(c.data) >= chunkSize:
		return false
	}
	if at.After(c.newest) {
		c.newest = at
	}
	if e.Forgot.IsValid() {
		c.data = appendAddr(append(c.data, entryForgot), e.Forgot.Addr())
		c.data = appendTime(append(c.data, byte(e.Forgot.Bits())), e.At)
	} else {
		a := &e.Attempt
		c.data = appendAddr(append(c.data, entryAttempt), a.Addr)
		c.data = append(c.data, byte(a.Kind), byte(a.Source), byte(a.Method))
		c.data = appendTime(appendTime(c.data, a.At), a.Clock)
		for _, s := range []string{a.User, a.Number, a.Domain, a.Profile, a.UserAgent} {
			c.data = append(binary.AppendUvarint(c.data, uint64(len(s))), s...)
		}
	}
	binary.LittleEndian.PutUint32(c.data[1:], binary.LittleEndian.Uint32(c.data[1:])+1)
	return true
}

// entriesIn is how many entries a chunk of the file says that it has.
func entriesIn(data []byte) int {
	if len(data) < chunkHead {
		return 0
	}
	return int(binary.LittleEndian.Uint32(data[1:]))
}

// decode calls f for each entry of a chunk of the file. What is no entry ends it with an error.
func decode(data []byte, f func(Entry)) error {
	if len(data) < chunkHead || data[0] != chunkVersion {
		return errChunk
	}
	n := entriesIn(data)
	r := entryReader{data: data[chunkHead:]}
	for ; n > 0; n-- {
		e := r.entry()
		if r.bad {
			return errChunk
		}
		f(e)
	}
	if len(r.data) > 0 {
		return errChunk
	}
	return nil
}

func appendAddr(to []byte, a netip.Addr) []byte {
	if a.Is4() {
		b := a.As4()
		return append(append(to, 4), b[:]...)
	}
	b := a.As16()
	return append(append(to, 16), b[:]...)
}

// appendTime writes any time, however far away: a log may say any.
func appendTime(to []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(to, t.Unix()), uint64(t.Nanosecond()))
}

// An entryReader reads what chunk.add wrote. Once something is bad everything is.
type entryReader struct {
	data []byte
	bad  bool
}

func (r *entryReader) entry() (e Entry) {
	switch r.byte(entryForgot + 1) {
	case entryForgot:
		addr := r.addr()
		prefix, err := addr.Prefix(int(r.byte(129)))
		r.bad = r.bad || err != nil
		e.Forgot, e.At = prefix, r.time()
	default:
		a := &e.Attempt
		a.Addr = r.addr()
		a.Kind, a.Source, a.Method = policy.Kind(r.byte(int(policy.NumKinds))), policy.Source(r.byte(int(policy.NumSources))), policy.Method(r.byte(int(policy.NumMethods)))
		a.At, a.Clock = r.time(), r.time()
		for _, s := range []*string{&a.User, &a.Number, &a.Domain, &a.Profile, &a.UserAgent} {
			*s = string(r.take(r.uvarint()))
		}
	}
	return e
}

func (r *entryReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.data)) {
		r.bad = true
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

// byte reads one below limit.
func (r *entryReader) byte(limit int) byte {
	b := r.take(1)
	if r.bad || int(b[0]) >= limit {
		r.bad = true
		return 0
	}
	return b[0]
}

func (r *entryReader) addr() netip.Addr {
	a, ok := netip.AddrFromSlice(r.take(uint64(r.byte(17))))
	r.bad = r.bad || !ok
	return a
}

func (r *entryReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *entryReader) time() time.Time {
	sec, n := binary.Varint(r.data)
	if n <= 0 {
		r.bad = true
		return time.Time{}
	}
	r.data = r.data[n:]
	nsec := r.uvarint()
	if nsec >= 1e9 {
		r.bad = true
		return time.Time{}
	}
	t := time.Unix(sec, int64(nsec))
	if t.IsZero() { // and of no place
		return time.Time{}
	}
	return t
}
