package policy

import (
	"net/netip"
	"slices"
	"time"
)

// Forever as a bantime bans until somebody unbans.
const Forever time.Duration = -1

// A Rule bans an address after MaxRetry attempts of its kinds within FindTime, for BanTime. The words mean what they
// mean in fail2ban.
type Rule struct {
	Name     string
	Kinds    []Kind
	FindTime time.Duration // more than zero
	MaxRetry int           // at least 1: the ban falls on attempt number MaxRetry
	BanTime  time.Duration // more than zero, or Forever
}

func (r *Rule) counts(k Kind) bool {
	for _, want := range r.Kinds {
		if k == want {
			return true
		}
	}
	return false
}

// until returns the end of a ban that starts at t: the zero time for one without end.
func (r *Rule) until(t time.Time) time.Time {
	if r.BanTime == Forever {
		return time.Time{}
	}
	return t.Add(r.BanTime)
}

// A NeverBan is a list of prefixes that no rule can ban. The zero value is empty.
type NeverBan struct {
	prefixes []netip.Prefix
}

// NewNeverBan returns the list of all prefixes given, without those that another one covers.
func NewNeverBan(lists ...[]netip.Prefix) NeverBan {
	var n NeverBan
	for _, p := range slices.Concat(lists...) {
		p = p.Masked()
		covers := func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Overlaps(p) }
		if slices.ContainsFunc(n.prefixes, covers) {
			continue
		}
		n.prefixes = slices.DeleteFunc(n.prefixes, p.Overlaps)
		n.prefixes = append(n.prefixes, p)
	}
	return n
}

// Match returns the entry that forbids a ban of p: one that holds p, or a part of it.
func (n NeverBan) Match(p netip.Prefix) (netip.Prefix, bool) {
	for _, e := range n.prefixes {
		if e.Overlaps(p) {
			return e, true
		}
	}
	return netip.Prefix{}, false
}

// Strings returns the entries as text.
func (n NeverBan) Strings() []string {
	list := make([]string, len(n.prefixes))
	for i, p := range n.prefixes {
		list[i] = p.String()
	}
	return list
}
