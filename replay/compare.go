package replay

import (
	"net/netip"
	"time"
)

// A Comparison holds the differences between the bans of two replays of the same recordings, with one configuration and with
// another. All lists are in the order of time.
type Comparison struct {
	Same      int      `json:"same"`       // bans of the same prefix, rule, begin and end
	OnlyFirst []Ban    `json:"only_first"` // not made with the second configuration
	OnlyOther []Ban    `json:"only_other"` // not made with the first
	Changed   []Change `json:"changed"`
}

// A Change is a ban that both configurations make, at another time, by another rule or with another end.
type Change struct {
	First Ban           `json:"first"`
	Other Ban           `json:"other"`
	Later time.Duration `json:"later"` // of the begin of Other, in nanoseconds; negative: earlier
}

// Compare compares the bans of two results. Two bans of a prefix are the same one if they begin at the same time or, among the
// others, within findtime of each other.
func Compare(first, other *Result, findtime time.Duration) Comparison {
	c := Comparison{OnlyFirst: []Ban{}, OnlyOther: []Ban{}, Changed: []Change{}}
	rest := make(map[netip.Prefix][]Ban)
	for _, b := range other.Bans {
		rest[b.Prefix] = append(rest[b.Prefix], b)
	}
	pairs := make(map[int]Ban) // by index in first.Bans
	for _, within := range []time.Duration{0, findtime} {
		for i, a := range first.Bans {
			if _, paired := pairs[i]; paired {
				continue
			}
			list := rest[a.Prefix]
			for k, b := range list {
				if b.Since.Sub(a.Since).Abs() <= within {
					pairs[i] = b
					rest[a.Prefix] = append(list[:k:k], list[k+1:]...)
					break
				}
			}
		}
	}
	for i, a := range first.Bans {
		switch b, paired := pairs[i]; {
		case !paired:
			c.OnlyFirst = append(c.OnlyFirst, a)
		case a.Rule == b.Rule && a.Since.Equal(b.Since) && a.Until.Equal(b.Until):
			c.Same++
		default:
			c.Changed = append(c.Changed, Change{a, b, b.Since.Sub(a.Since)})
		}
	}
	for _, b := range other.Bans { // in their order
		if list := rest[b.Prefix]; len(list) > 0 && list[0].Since.Equal(b.Since) {
			c.OnlyOther = append(c.OnlyOther, b)
			rest[b.Prefix] = list[1:]
		}
	}
	return c
}
