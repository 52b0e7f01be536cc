package policy

import "net/netip"

// evidence holds the last attempts of all addresses in a ring. Each piece has the number of the one before it of the same address, so
// the evidence of a ban is found without a search. New pieces overwrite the oldest.
type evidence struct {
	ring  []piece
	added uint32 // number of the newest piece; it wraps, and passes over 0, which is none
}

type piece struct {
	attempt Attempt
	before  uint32 // number of the same address's piece before it
}

func newEvidence(keep int) evidence { return evidence{ring: make([]piece, keep)} }

// add remembers a, which follows the piece numbered before, and returns its number.
func (v *evidence) add(a *Attempt, before uint32) uint32 {
	if v.added++; v.added == 0 {
		v.added++
	}
	p := v.at(v.added)
	p.attempt, p.before = *a, before
	return v.added
}

// chain returns up to limit attempts of addresses in prefix that end with the piece numbered last, oldest first.
func (v *evidence) chain(last uint32, prefix netip.Prefix, limit int) []Attempt {
	var numbers []uint32
	for n := last; n != 0 && v.added-n < uint32(len(v.ring)) && len(numbers) < limit; n = v.at(n).before {
		if !prefix.Contains(v.at(n).attempt.Addr) { // a number of before the last wrap
			break
		}
		numbers = append(numbers, n)
	}
	attempts := make([]Attempt, len(numbers))
	for i, n := range numbers {
		attempts[len(numbers)-1-i] = v.at(n).attempt
	}
	return attempts
}

func (v *evidence) at(n uint32) *piece { return &v.ring[n%uint32(len(v.ring))] }
