package policy

import "hash/maphash"

// agentVerdicts remembers which rules a user agent's name fits, so that the patterns are not tried at each attempt. It is
// a table of fixed size, about 20 kB: a newer name takes an older one's place, so it cannot grow, whatever peers send.
type agentVerdicts struct {
	seed  maphash.Seed
	slots []agentVerdict
}

type agentVerdict struct {
	agent string
	rules uint16
	known bool
}

func newAgentVerdicts() agentVerdicts {
	return agentVerdicts{seed: maphash.MakeSeed(), slots: make([]agentVerdict, 512)}
}

// agent returns the rules whose pattern a user agent fits.
func (rs *ruleset) agent(name string) uint16 {
	v := &rs.verdicts.slots[maphash.String(rs.verdicts.seed, name)%uint64(len(rs.verdicts.slots))]
	if v.known && v.agent == name {
		return v.rules
	}
	*v = agentVerdict{agent: name, known: true}
	for i := range rs.rules {
		if re := rs.rules[i].UserAgent; re != nil && re.MatchString(name) {
			v.rules |= 1 << i
		}
	}
	return v.rules
}
