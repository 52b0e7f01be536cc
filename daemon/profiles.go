package daemon

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"fsban/policy"
)

// profiles count attempts by sofia profile. The names come from FreeSWITCH's configuration and not from peers; all the
// same there are at most maxProfiles, and only well-formed ones. It belongs to the decision loop.
type profiles struct {
	vec   *prometheus.CounterVec
	known map[string]map[policy.Kind]prometheus.Counter
}

const (
	maxProfiles    = 16
	profileUnknown = "unknown" // the source does not say
	profileOther   = "other"   // all that are too many
)

func newProfiles(vec *prometheus.CounterVec) profiles {
	p := profiles{vec, make(map[string]map[policy.Kind]prometheus.Counter)}
	p.know(profileUnknown)
	p.know(profileOther)
	return p
}

// know makes the counters of a profile, so that zero is visible for every kind.
func (p *profiles) know(name string) map[policy.Kind]prometheus.Counter {
	kinds := make(map[policy.Kind]prometheus.Counter)
	for _, k := range policy.Kinds() {
		kinds[k] = p.vec.WithLabelValues(name, k.String())
	}
	p.known[name] = kinds
	return kinds
}

func (p *profiles) count(name string, k policy.Kind) {
	if name == "" {
		name = profileUnknown
	}
	kinds := p.known[name]
	switch {
	case kinds != nil:
	case len(p.known) < maxProfiles+2 && isProfileName(name):
		kinds = p.know(strings.Clone(name))
	default:
		kinds = p.known[profileOther]
	}
	kinds[k].Inc()
}

// isProfileName reports whether name is harmless as the label of a metric.
func isProfileName(name string) bool {
	return len(name) <= 40 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}
