package ledger

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"fsban/policy"
)

// An Entry of the journal is a counted attempt, a prefix whose counts were reset, or a step of the clock.
type Entry struct {
	Attempt policy.Attempt
	Forgot  netip.Prefix
	Step    time.Duration // of the clock: entries before it have times from before the step
	At      time.Time     // of the reset, or after the step
}

// A chunk is a sequence of entries in the encoding of the file: a version, their number, and the entries. Under a flood an entry
// costs little more than its bytes, in memory and on disk.
type chunk struct {
	data   []byte
	newest time.Time
}

const (
	chunkVersion = 1
	chunkHead    = 1 + 4
	chunkSize    = 8 << 10 // an entry beyond this begins another chunk
)

// The kinds of entries in a chunk.
const (
	entryAttempt = iota
	entryForgot
	entryStep
	numEntries
)

var (
	errChunk = errors.New("damaged: no entries of the journal")
	errBan   = errors.New("damaged: no ban")
)

// add appends e and reports whether the chunk had room.
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
	switch {
	case e.Step != 0:
		c.data = AppendTime(binary.AppendVarint(append(c.data, entryStep), int64(e.Step)), e.At)
	case e.Forgot.IsValid():
		c.data = AppendAddr(append(c.data, entryForgot), e.Forgot.Addr())
		c.data = AppendTime(append(c.data, byte(e.Forgot.Bits())), e.At)
	default:
		c.data = AppendAttempt(append(c.data, entryAttempt), &e.Attempt)
	}
	binary.LittleEndian.PutUint32(c.data[1:], binary.LittleEndian.Uint32(c.data[1:])+1)
	return true
}

// entriesIn returns the number of entries in a chunk, by its head.
func entriesIn(data []byte) int {
	if len(data) < chunkHead {
		return 0
	}
	return int(binary.LittleEndian.Uint32(data[1:]))
}

// decode calls f for each entry of a chunk, until one is damaged.
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

// entryOf reads an entry.
func entryOf(r *Reader) (e Entry) {
	switch r.Byte(numEntries) {
	case entryStep:
		e.Step, e.At = time.Duration(r.Varint()), r.Time()
		r.Bad = r.Bad || e.Step == 0
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

// The flags of a ban.
const (
	banLocal = 1 << iota
	banForced
	banWatched
	banFlags
)

// appendBan writes b, without its prefix, which is the key, and without its evidence, which follows.
func appendBan(to []byte, b *Ban) []byte {
	flags := byte(0)
	if b.Local {
		flags |= banLocal
	}
	if b.Forced {
		flags |= banForced
	}
	if b.Watched {
		flags |= banWatched
	}
	to = append(to, banVersion, byte(b.Source), flags)
	to = AppendTime(AppendTime(to, b.Since), b.Until)
	for _, n := range []int64{int64(b.Attempts), int64(b.Offence), b.Stamp} {
		to = binary.AppendVarint(to, n)
	}
	return AppendTexts(to, b.Rule, b.By, b.Reason, b.Node)
}

// appendEvidence writes the evidence of a ban, behind it.
func appendEvidence(to []byte, evidence []policy.Attempt) []byte {
	to = binary.AppendUvarint(to, uint64(len(evidence)))
	for i := range evidence {
		to = AppendAttempt(to, &evidence[i])
	}
	return to
}

// readBan reads a ban and leaves its evidence in r.
func readBan(r *Reader) (b Ban, err error) {
	b.Prefix = r.key().prefix()
	if !b.Prefix.IsValid() || r.Byte(banVersion+1) != banVersion {
		return b, errBan
	}
	b.Source = policy.Source(r.Byte(int(policy.NumSources)))
	flags := r.Byte(banFlags)
	b.Local, b.Forced, b.Watched = flags&banLocal != 0, flags&banForced != 0, flags&banWatched != 0
	b.Since, b.Until = r.Time(), r.Time()
	b.Attempts, b.Offence, b.Stamp = int(r.Varint()), int(r.Varint()), r.Varint()
	b.Rule, b.By, b.Reason, b.Node = r.Text(), r.Text(), r.Text(), r.Text()
	if r.Bad {
		return b, errBan
	}
	return b, nil
}

// readEvidence reads the evidence that follows a ban, to the end of r.
func readEvidence(r *Reader) ([]policy.Attempt, error) {
	var evidence []policy.Attempt
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		evidence = append(evidence, r.Attempt())
	}
	if r.Bad || len(r.Data) > 0 {
		return nil, errBan
	}
	return evidence, nil
}

// A recordKey is a prefix as the file has it: its address as one of IPv6, and its length. That of an IPv4 prefix is more than
// ipv4, which no IPv6 prefix has.
type recordKey [17]byte

const ipv4 = 129

func keyOf(p netip.Prefix) (k recordKey) {
	a := p.Addr().As16()
	copy(k[:], a[:])
	k[16] = byte(p.Bits())
	if p.Addr().Is4() {
		k[16] += ipv4
	}
	return k
}

// key reads the key of a record.
func (r *Reader) key() (k recordKey) {
	copy(k[:], r.take(uint64(len(k))))
	return k
}

// prefix returns the prefix of k, or the zero Prefix if it is the key of none.
func (k recordKey) prefix() netip.Prefix {
	addr, bits := netip.AddrFrom16([16]byte(k[:16])), int(k[16])
	if bits >= ipv4 {
		if !addr.Is4In6() {
			return netip.Prefix{}
		}
		addr, bits = addr.Unmap(), bits-ipv4
	}
	p, err := addr.Prefix(bits)
	if err != nil || p.Addr() != addr {
		return netip.Prefix{}
	}
	return p
}
