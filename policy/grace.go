package policy

import "net/netip"

// graces are the prefixes that were unbanned a moment ago. All graces are of one length, so the oldest ends first.
type graces struct {
	exact  table[key, int64] // prefixes as they are counted: until when
	others []grace           // wider ones, and narrower
}

type grace struct {
	prefix netip.Prefix
	until  int64
}

// maxGraces and maxOthers bound how many prefixes have a grace; the oldest lose it.
const (
	maxGraces = 100_000
	maxOthers = 64
)

func newGraces() graces { return graces{exact: newTable[key, int64](maxGraces, nil)} }

func (g *graces) add(p netip.Prefix, counted bool, until int64) {
	if counted {
		*g.exact.touch(keyOf(p)) = until
		return
	}
	if len(g.others) == maxOthers {
		g.others = append(g.others[:0], g.others[1:]...)
	}
	g.others = append(g.others, grace{p, until})
}

// covers reports whether attempts of s do not count now.
func (g *graces) covers(s *observation, now int64) bool {
	if until := g.exact.get(s.key); until != nil && now < *until {
		return true
	}
	for _, o := range g.others {
		if now < o.until && o.prefix.Contains(s.Addr) {
			return true
		}
	}
	return false
}

func (g *graces) expire(now int64) {
	for k, until := g.exact.first(); until != nil && *until <= now; k, until = g.exact.first() {
		g.exact.remove(k)
	}
	for len(g.others) > 0 && g.others[0].until <= now {
		g.others = g.others[1:]
	}
}
