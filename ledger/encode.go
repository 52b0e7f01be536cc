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

var (
	errChunk = errors.New("damaged: no entries of the journal")
	errBan   = errors.New("damaged: no ban")
)

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
		c.data = AppendAddr(append(c.data, entryForgot), e.Forgot.Addr())
		c.data = AppendTime(append(c.data, byte(e.Forgot.Bits())), e.At)
	} else {
		c.data = AppendAttempt(append(c.data, entryAttempt), &e.Attempt)
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
	r := Reader{Data: data[chunkHead:]}
	for ; n > 0; n-- {
		e := entryOf(&r)
		if r.Bad {
			return errChunk
		}
		f(e)
	}
	if len(r.Data) > 0 {
		return errChunk
	}
	return nil
}

// entryOf reads one.
func entryOf(r *Reader) (e Entry) {
	switch r.Byte(entryForgot + 1) {
	case entryForgot:
		addr := r.Addr()
		prefix, err := addr.Prefix(int(r.Byte(129)))
		r.Bad = r.Bad || err != nil
		e.Forgot, e.At = prefix, r.Time()
	default:
		e.Attempt = r.Attempt()
	}
	return e
}

const banVersion = 1

// appendBan writes b, without its prefix, which is the key. Its evidence is the last: whoever wants to know who is banned does
// not read it.
func appendBan(to []byte, b *Ban) []byte {
	local := byte(0)
	if b.Local {
		local = 1
	}
	to = append(to, banVersion, byte(b.Source), local)
	to = AppendTime(AppendTime(to, b.Since), b.Until)
	for _, n := range []int64{int64(b.Attempts), int64(b.Offence), b.Stamp} {
		to = binary.AppendVarint(to, n)
	}
	to = AppendTexts(to, b.Rule, b.By, b.Reason, b.Node)
	to = binary.AppendUvarint(to, uint64(len(b.Evidence)))
	for i := range b.Evidence {
		to = AppendAttempt(to, &b.Evidence[i])
	}
	return to
}

// readBan reads the ban of a key, with its evidence or without.
func readBan(key, data []byte, evidence bool) (*Ban, error) {
	r := Reader{Data: data}
	b := new(Ban)
	if b.Prefix = prefixOf(key); !b.Prefix.IsValid() || r.Byte(banVersion+1) != banVersion {
		r.Bad = true
	}
	b.Source, b.Local = policy.Source(r.Byte(int(policy.NumSources))), r.Byte(2) == 1
	b.Since, b.Until = r.Time(), r.Time()
	b.Attempts, b.Offence, b.Stamp = int(r.Varint()), int(r.Varint()), r.Varint()
	b.Rule, b.By, b.Reason, b.Node = r.Text(), r.Text(), r.Text(), r.Text()
	n := r.Uvarint()
	for i := uint64(0); evidence && i < n && !r.Bad; i++ {
		b.Evidence = append(b.Evidence, r.Attempt())
	}
	if r.Bad || evidence && len(r.Data) > 0 {
		return nil, errBan
	}
	return b, nil
}

// fileKey is the prefix's address and length, so that the file is sorted by address.
func fileKey(p netip.Prefix) []byte {
	a := p.Addr().As16()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return append(a[:], byte(bits))
}

// prefixOf is the prefix of a fileKey, or the zero Prefix.
func prefixOf(key []byte) netip.Prefix {
	if len(key) != 17 {
		return netip.Prefix{}
	}
	addr, bits := netip.AddrFrom16([16]byte(key)), int(key[16])
	if addr.Is4In6() && bits >= 96 {
		addr, bits = addr.Unmap(), bits-96
	}
	p, err := addr.Prefix(bits)
	if err != nil || p.Addr() != addr {
		return netip.Prefix{}
	}
	return p
}
