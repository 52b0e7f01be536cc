package policy

import (
	"iter"
	"net/netip"
	"slices"
	"sort"
)

// A NeverEntry is a prefix that is never banned, and why.
type NeverEntry struct {
	Prefix netip.Prefix
	Origin string // reason, for people: "ignoreip", "own address", "gateway carrier1", "ssh peer"
}

// A NeverBan is a list of prefixes that no rule can ban. The zero value is empty. It does not change once it is made.
type NeverBan struct {
	entries     []NeverEntry // by address; none covers another
	translation translation  // of IPv6 prefixes into those of entries
}

// NeverEntries returns an entry for each prefix, all of one origin.
func NeverEntries(origin string, prefixes ...netip.Prefix) []NeverEntry {
	list := make([]NeverEntry, len(prefixes))
	for i, p := range prefixes {
		list[i] = NeverEntry{p, origin}
	}
	return list
}

// NewNeverBan returns the list of all entries given, without those that another one covers. Of two with the same prefix
// the first is kept. Prefixes that are not valid are passed over.
func NewNeverBan(lists ...[]NeverEntry) NeverBan {
	all := slices.Concat(lists...)
	for i := range all {
		all[i].Prefix = all[i].Prefix.Masked()
	}
	slices.SortStableFunc(all, func(a, b NeverEntry) int { return a.Prefix.Compare(b.Prefix) })
	var n NeverBan
	for _, e := range all {
		last := len(n.entries) - 1
		if e.Prefix.IsValid() && (last < 0 || !n.entries[last].Prefix.Overlaps(e.Prefix)) {
			n.entries = append(n.entries, e)
		}
	}
	return n
}

// Match returns the entry that forbids a ban of p: one that holds p or a part of it, or that holds a part of the IPv4 prefix
// that p stands for behind a translator. The time it takes grows with the logarithm of the number of entries. The list of an
// Engine knows Options.NAT64Prefixes, any other the well-known prefixes alone.
func (n NeverBan) Match(p netip.Prefix) (NeverEntry, bool) {
	if i := n.index(p); i >= 0 {
		return n.entries[i], true
	}
	return NeverEntry{}, false
}

// index returns the number of the entry that Match returns, or -1.
func (n *NeverBan) index(p netip.Prefix) int {
	found := n.search(p)
	if found < 0 && p.Addr().Is6() {
		n.translation.ipv4(p, func(v4 netip.Prefix) bool {
			found = n.search(v4)
			return found < 0
		})
	}
	return found
}

// search returns the number of an entry that overlaps p, or -1.
func (n *NeverBan) search(p netip.Prefix) int {
	after := sort.Search(len(n.entries), func(i int) bool { return p.Addr().Less(n.entries[i].Prefix.Addr()) })
	for _, i := range [...]int{after - 1, after} {
		if i >= 0 && i < len(n.entries) && n.entries[i].Prefix.Overlaps(p) {
			return i
		}
	}
	return -1
}

// within yields the parts of p on the list, in IPv6 form as it is: a translator's prefix is no wider than an attacker.
func (n *NeverBan) within(p netip.Prefix) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		after := sort.Search(len(n.entries), func(i int) bool { return p.Addr().Less(n.entries[i].Prefix.Addr()) })
		for i := max(after-1, 0); i < len(n.entries); i++ {
			q := n.entries[i].Prefix
			if q.Overlaps(p) && !yield(q) || i >= after && !q.Overlaps(p) {
				return
			}
		}
	}
}

// Entries returns the entries by address, IPv4 first. The caller must not change them.
func (n NeverBan) Entries() []NeverEntry { return n.entries }
