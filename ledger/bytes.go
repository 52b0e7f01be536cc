package ledger

import (
	"encoding/binary"
	"net/netip"
	"time"

	"fsban/policy"
)

// proofShift is the place of an attempt's proof in the byte of its method, transportShift that of its transport in the byte of its
// source.
const (
	proofShift     = 4
	transportShift = 5
)

// AppendAttempt writes all of a.
func AppendAttempt(to []byte, a *policy.Attempt) []byte {
	to = append(AppendAddr(to, a.Addr), byte(a.Kind), byte(a.Source)|byte(a.Transport)<<transportShift,
		byte(a.Method)|byte(a.Proof)<<proofShift)
	to = AppendTime(AppendTime(to, a.At), a.ReportedAt)
	to = AppendTexts(to, a.User, a.Number, a.Domain, a.Profile, a.UserAgent)
	if a.Kind.Detailed() {
		to = AppendTexts(to, a.Detail)
	}
	return to
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

// AppendTime writes a time of any year: the times of a log are not checked.
func AppendTime(to []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(to, t.Unix()), uint64(t.Nanosecond()))
}

// A Reader reads values in the order in which they were appended. After a bad value all others are bad.
type Reader struct {
	Data []byte // not read yet
	Bad  bool

	names map[string]string // texts that are likely to come again, to be kept once; nil: each text is kept by itself
}

// maxNames is how many texts are kept once.
const maxNames = 1024

// Attempt reads an attempt.
func (r *Reader) Attempt() (a policy.Attempt) {
	a.Addr = r.Addr()
	a.Kind = policy.Kind(r.Byte(int(policy.NumKinds)))
	b := r.Byte(int(policy.NumTransports) << transportShift)
	a.Source, a.Transport = policy.Source(b&(1<<transportShift-1)), policy.Transport(b>>transportShift)
	r.Bad = r.Bad || a.Source >= policy.NumSources
	b = r.Byte(int(policy.NumProofs) << proofShift)
	a.Method, a.Proof = policy.Method(b&(1<<proofShift-1)), policy.Proof(b>>proofShift)
	r.Bad = r.Bad || a.Method >= policy.NumMethods
	a.At, a.ReportedAt = r.Time(), r.Time()
	a.User, a.Number, a.Domain, a.Profile, a.UserAgent = r.Text(), r.Text(), r.Text(), r.Text(), r.Text()
	if a.Kind.Detailed() {
		a.Detail = r.Text()
	}
	return a
}

// Text reads a text.
func (r *Reader) Text() string {
	b := r.take(r.Uvarint())
	if s, known := r.names[string(b)]; known {
		return s
	}
	s := string(b)
	if r.names != nil && len(r.names) < maxNames {
		r.names[s] = s
	}
	return s
}

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

// pass skips a number of n bytes. Package binary returns n <= 0, and the value 0, for a bad one.
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
	if t.IsZero() { // without a location, as time.Time{}
		return time.Time{}
	}
	return t
}
