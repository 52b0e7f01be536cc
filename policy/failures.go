package policy

import (
	"math"
	"slices"
)

// failures counts the failures of one user for each prefix that they came from: the prefix with the oldest failure first.
type failures struct {
	prefixes []failedPrefix
	first    [2]failedPrefix // the first places of prefixes: most users are attacked from one address
}

// A failedPrefix is a prefix that failed on one user.
type failedPrefix struct {
	last  int64 // unix milliseconds of its newest failure
	id    prefixID
	count uint16 // proven and unknown failures, none of them later than findTime after the one before; math.MaxUint16: at least that many
}

// A prefixID identifies a prefix. Two of one network are the same prefix if they are IPv4, or a /64 or wider; otherwise one in 65,536 is
// taken for another.
type prefixID [3]uint16 // a hash of the network in two parts, and the prefix within it

// network returns the part of an id that all prefixes of one network have in common.
func (id prefixID) network() [2]uint16 { return [2]uint16(id[:2]) }

// maxPrefixes bounds the prefixes that are counted for each user.
const maxPrefixes = 64

// add counts n failures of prefix id at time at: 0 if nothing proves that they come from there. It removes prefixes whose newest failure
// is findTime milliseconds older than that of another, and, beyond maxPrefixes, the prefix with the oldest failure.
func (f *failures) add(id prefixID, n uint16, at, findTime int64) {
	p := failedPrefix{last: at, id: id, count: n}
	if i := f.index(id); i >= 0 {
		old := f.prefixes[i]
		switch {
		case at <= old.last-findTime:
			return
		case at < old.last+findTime:
			p = failedPrefix{max(old.last, at), id, uint16(min(int(old.count)+int(n), math.MaxUint16))}
		}
		f.prefixes = slices.Delete(f.prefixes, i, i+1)
	}
	if len(f.prefixes) == cap(f.prefixes) {
		f.grow()
	}
	i := len(f.prefixes)
	for i > 0 && f.prefixes[i-1].last > p.last {
		i--
	}
	f.prefixes = slices.Insert(f.prefixes, i, p)
	begin := f.prefixes[len(f.prefixes)-1].last - findTime
	old := max(0, len(f.prefixes)-maxPrefixes)
	for old < len(f.prefixes) && f.prefixes[old].last <= begin {
		old++
	}
	f.prefixes = slices.Delete(f.prefixes, 0, old)
}

// index returns the place of a prefix, or -1. It searches from the newest, because the same prefixes fail again.
func (f *failures) index(id prefixID) int {
	for i, p := range slices.Backward(f.prefixes) {
		if p.id == id {
			return i
		}
	}
	return -1
}

func (f *failures) grow() {
	if cap(f.prefixes) == 0 {
		f.prefixes = f.first[:0]
		return
	}
	f.prefixes = append(make([]failedPrefix, 0, min(3*cap(f.prefixes)+2, maxPrefixes+1)), f.prefixes...) // 2, 8, 26, 65
}

// moved must be called on a copy that replaces the original: short lists are stored in the struct itself.
func (f *failures) moved() {
	if cap(f.prefixes) == len(f.first) {
		f.prefixes = f.first[:len(f.prefixes)]
	}
}

// since returns the prefixes that failed after begin.
func (f *failures) since(begin int64) []failedPrefix {
	i := len(f.prefixes)
	for i > 0 && f.prefixes[i-1].last > begin {
		i--
	}
	return f.prefixes[i:]
}
