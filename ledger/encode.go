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
		c.data = appendAddr(append(c.data, entryForgot), e.Forgot.Addr())
		c.data = appendTime(append(c.data, byte(e.Forgot.Bits())), e.At)
	} else {
		c.data = appendAttempt(append(c.data, entryAttempt), &e.Attempt)
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
	r := reader{data: data[chunkHead:]}
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

const banVersion = 1

// appendBan writes b, without its prefix, which is the key. Its evidence is the last: whoever wants to know who is banned does
// not read it.
func appendBan(to []byte, b *Ban) []byte {
	local := byte(0)
	if b.Local {
		local = 1
	}
	to = append(to, banVersion, byte(b.Source), local)
	to = appendTime(appendTime(to, b.Since), b.Until)
	for _, n := range []int64{int64(b.Attempts), int64(b.Offence), b.Stamp} {
		to = binary.AppendVarint(to, n)
	}
	to = appendTexts(to, b.Rule, b.By, b.Reason, b.Node)
	to = binary.AppendUvarint(to, uint64(len(b.Evidence)))
	for i := range b.Evidence {
		to = appendAttempt(to, &b.Evidence[i])
	}
	return to
}

// readBan reads the ban of a key, with its evidence or without.
func readBan(key, data []byte, evidence bool) (*Ban, error) {
	r := reader{data: data}
	b := new(Ban)
	if b.Prefix = prefixOf(key); !b.Prefix.IsValid() || r.byte(banVersion+1) != banVersion {
		r.bad = true
	}
	b.Source, b.Local = policy.Source(r.byte(int(policy.NumSources))), r.byte(2) == 1
	b.Since, b.Until = r.time(), r.time()
	b.Attempts, b.Offence, b.Stamp = int(r.varint()), int(r.varint()), r.varint()
	b.Rule, b.By, b.Reason, b.Node = r.text(), r.text(), r.text(), r.text()
	n := r.uvarint()
	for i := uint64(0); evidence && i < n && !r.bad; i++ {
		b.Evidence = append(b.Evidence, r.attempt())
	}
	if r.bad || evidence && len(r.data) > 0 {
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

func appendAttempt(to []byte, a *policy.Attempt) []byte {
	to = append(appendAddr(to, a.Addr), byte(a.Kind), byte(a.Source), byte(a.Method))
	to = appendTime(appendTime(to, a.At), a.Clock)
	return appendTexts(to, a.User, a.Number, a.Domain, a.Profile, a.UserAgent)
}

func appendTexts(to []byte, texts ...string) []byte {
	for _, s := range texts {
		to = append(binary.AppendUvarint(to, uint64(len(s))), s...)
	}
	return to
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

// A reader reads what was appended. Once something is bad everything is.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) entry() (e Entry) {
	switch r.byte(entryForgot + 1) {
	case entryForgot:
		addr := r.addr()
		prefix, err := addr.Prefix(int(r.byte(129)))
		r.bad = r.bad || err != nil
		e.Forgot, e.At = prefix, r.time()
	default:
		e.Attempt = r.attempt()
	}
	return e
}

func (r *reader) attempt() (a policy.Attempt) {
	a.Addr = r.addr()
	a.Kind, a.Source, a.Method = policy.Kind(r.byte(int(policy.NumKinds))), policy.Source(r.byte(int(policy.NumSources))), policy.Method(r.byte(int(policy.NumMethods)))
	a.At, a.Clock = r.time(), r.time()
	a.User, a.Number, a.Domain, a.Profile, a.UserAgent = r.text(), r.text(), r.text(), r.text(), r.text()
	return a
}

func (r *reader) text() string { return string(r.take(r.uvarint())) }

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.data)) {
		r.bad = true
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

// byte reads one below limit.
func (r *reader) byte(limit int) byte {
	b := r.take(1)
	if r.bad || int(b[0]) >= limit {
		r.bad = true
		return 0
	}
	return b[0]
}

func (r *reader) addr() netip.Addr {
	a, ok := netip.AddrFromSlice(r.take(uint64(r.byte(17))))
	r.bad = r.bad || !ok
	return a
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	r.pass(n)
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.data)
	r.pass(n)
	return v
}

// pass goes over a number of n bytes; none, or fewer, is what package binary says of one that is bad, whose value is 0.
func (r *reader) pass(n int) {
	if n <= 0 {
		r.bad = true
		return
	}
	r.data = r.data[n:]
}

func (r *reader) time() time.Time {
	sec, nsec := r.varint(), r.uvarint()
	if r.bad || nsec >= 1e9 {
		r.bad = true
		return time.Time{}
	}
	t := time.Unix(sec, int64(nsec)).UTC()
	if t.IsZero() { // and of no place
		return time.Time{}
	}
	return t
}
