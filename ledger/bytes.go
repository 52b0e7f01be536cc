package ledger

import (
	"encoding/binary"
	"net/netip"
	"time"

	"fsban/policy"
)

// AppendAttempt writes all of a.
func AppendAttempt(to []byte, a *policy.Attempt) []byte {
	to = append(AppendAddr(to, a.Addr), byte(a.Kind), byte(a.Source), byte(a.Method))
	to = AppendTime(AppendTime(to, a.At), a.Clock)
	return AppendTexts(to, a.User, a.Number, a.Domain, a.Profile, a.UserAgent)
}

// AppendTexts writes texts of any length.
func AppendTexts(to []byte, texts ...string) []byte {
	for _, s := range texts {
		to = append(binary.AppendUvarint(to, uint64(len(s))), s...)
	}
	return to
}

// AppendAddr writes an address that is valid.
func AppendAddr(to []byte, a netip.Addr) []byte {
	if a.Is4() {
		b := a.As4()
		return append(append(to, 4), b[:]...)
	}
	b := a.As16()
	return append(append(to, 16), b[:]...)
}

// AppendTime writes any time, however far away: a log may say any.
func AppendTime(to []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(to, t.Unix()), uint64(t.Nanosecond()))
}

// A Reader reads what was appended, in the same order. Once something is bad it stays so.
type Reader struct {
	Data []byte // what is left
	Bad  bool
}

// Attempt reads an attempt.
func (r *Reader) Attempt() (a policy.Attempt) {
	a.Addr = r.Addr()
	a.Kind, a.Source, a.Method = policy.Kind(r.Byte(int(policy.NumKinds))), policy.Source(r.Byte(int(policy.NumSources))), policy.Method(r.Byte(int(policy.NumMethods)))
	a.At, a.Clock = r.Time(), r.Time()
	a.User, a.Number, a.Domain, a.Profile, a.UserAgent = r.Text(), r.Text(), r.Text(), r.Text(), r.Text()
	return a
}

// Text reads a text.
func (r *Reader) Text() string { return string(r.take(r.Uvarint())) }

func (r *Reader) take(n uint64) []byte {
	if r.Bad || n > uint64(len(r.Data)) {
		r.Bad = true
		return nil
	}
	b := r.Data[:n]
	r.Data = r.Data[n:]
	return b
}

// Byte reads one below limit.
func (r *Reader) Byte(limit int) byte {
	b := r.take(1)
	if r.Bad || int(b[0]) >= limit {
		r.Bad = true
		return 0
	}
	return b[0]
}

// Addr reads an address.
func (r *Reader) Addr() netip.Addr {
	a, ok := netip.AddrFromSlice(r.take(uint64(r.Byte(17))))
	r.Bad = r.Bad || !ok
	return a
}

// Uvarint reads a number.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.Data)
	r.pass(n)
	return v
}

// Varint reads a number that may be negative.
func (r *Reader) Varint() int64 {
	v, n := binary.Varint(r.Data)
	r.pass(n)
	return v
}

// pass goes over a number of n bytes; none, or fewer, is what package binary says of one that is bad, whose value is 0.
func (r *Reader) pass(n int) {
	if n <= 0 {
		r.Bad = true
		return
	}
	r.Data = r.Data[n:]
}

// Time reads a time.
func (r *Reader) Time() time.Time {
	sec, nsec := r.Varint(), r.Uvarint()
	if r.Bad || nsec >= 1e9 {
		r.Bad = true
		return time.Time{}
	}
	t := time.Unix(sec, int64(nsec)).UTC()
	if t.IsZero() { // and of no place
		return time.Time{}
	}
	return t
}
