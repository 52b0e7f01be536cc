package dialplan

import (
	"encoding/binary"
	"slices"
	"strings"
)

// The bounds of a set of numbers. Beyond them the set is taken for larger than it is.
const (
	maxMust    = 4
	maxMustNot = 100
	maxSearch  = 20_000    // places looked at for one example
	maxSteps   = 2_000_000 // of single patterns, on the way
)

// numbers is a set of dialled numbers: those that match every pattern of must and none of mustNot.
type numbers struct {
	must, mustNot []*pattern
}

// and returns the numbers that match p too.
func (n numbers) and(p *pattern) numbers {
	if slices.Contains(n.must, p) {
		return n
	}
	must := append(slices.Clone(n.must), p)
	return numbers{must: must[max(0, len(must)-maxMust):], mustNot: n.mustNot}
}

// without returns the numbers that do not match p. A pattern that may match too much takes nothing away.
func (n numbers) without(p *pattern) numbers {
	if !p.exact || len(n.mustNot) == maxMustNot {
		return n
	}
	return numbers{must: n.must, mustNot: append(slices.Clone(n.mustNot), p)}
}

// key tells sets apart.
func (n numbers) key() string {
	var b strings.Builder
	for _, p := range n.must {
		b.WriteString("+" + p.text + "\n")
	}
	for _, p := range n.mustNot {
		b.WriteString("-" + p.text + "\n")
	}
	return b.String()
}

// A place is where a search stands: a state of each pattern, must before mustNot.
type place struct {
	at     []int32
	from   int // the place before it
	symbol byte
}

// any reports whether the set has a number.
func (n numbers) any(steps *int) bool {
	// Most sets have none for want of a number that matches all of must, which is found out sooner.
	if _, ok := (numbers{must: n.must}).example(steps); !ok {
		return false
	}
	_, ok := n.example(steps)
	return ok
}

// example returns a shortest number of the set, digits preferred, and whether there is one. When the search is too large it
// reports true and no example. Its steps are added to steps.
func (n numbers) example(steps *int) (string, bool) {
	all := slices.Concat(n.must, n.mustNot)
	alphabet := symbolsOf(all)
	limit := *steps + maxSteps
	places := []place{{at: make([]int32, len(all)), from: -1}}
	seen := map[string]bool{placeKey(places[0].at): true}
	for i := 0; i < len(places); i++ {
		if n.holds(places[i].at) {
			return spell(places, i), true
		}
		for _, c := range alphabet {
			if *steps += len(all); *steps > limit {
				return "", true
			}
			at := make([]int32, len(all))
			for j, p := range all {
				if at[j] = p.step(places[i].at[j], rune(c)); at[j] < 0 {
					return "", true
				}
			}
			key := placeKey(at)
			if seen[key] || n.hopeless(at) {
				continue
			}
			if len(places) == maxSearch {
				return "", true
			}
			seen[key] = true
			places = append(places, place{at: at, from: i, symbol: c})
		}
	}
	return "", false
}

// holds reports whether a number that ends here is one of the set.
func (n numbers) holds(at []int32) bool {
	for i, p := range n.must {
		if !p.states[at[i]].accepts {
			return false
		}
	}
	for i, p := range n.mustNot {
		if p.states[at[len(n.must)+i]].accepts {
			return false
		}
	}
	return true
}

// hopeless reports that no number that goes on from here is one of the set.
func (n numbers) hopeless(at []int32) bool {
	for i, p := range n.must {
		if p.dead(at[i]) {
			return true
		}
	}
	for i, p := range n.mustNot {
		if p.states[at[len(n.must)+i]].matched {
			return true
		}
	}
	return false
}

func placeKey(at []int32) string {
	var key []byte
	for _, s := range at {
		key = binary.AppendUvarint(key, uint64(s))
	}
	return string(key)
}

// spell returns the number that leads to a place.
func spell(places []place, i int) string {
	var number []byte
	for ; places[i].from >= 0; i = places[i].from {
		number = append(number, places[i].symbol)
	}
	slices.Reverse(number)
	return string(number)
}

// symbolsOf returns one symbol of each class that some pattern tells from the others, digits first.
func symbolsOf(all []*pattern) []byte {
	order := make([]byte, 0, lastSymbol-firstSymbol+1)
	for _, r := range [][2]byte{{'0', '9'}, {firstSymbol, '0' - 1}, {'9' + 1, lastSymbol}} {
		for c := r[0]; c <= r[1]; c++ {
			order = append(order, c)
		}
	}
	seen := make(map[string]bool)
	var symbols []byte
	for _, c := range order {
		key := make([]byte, len(all))
		for i, p := range all {
			key[i] = p.class[c-firstSymbol]
		}
		if !seen[string(key)] {
			seen[string(key)] = true
			symbols = append(symbols, c)
		}
	}
	return symbols
}
