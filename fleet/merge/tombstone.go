package merge

import (
	"net/netip"
	"slices"
	"time"
)

// A Tombstone records a withdrawn ban or allowance until no node can hold it any more.
type Tombstone struct {
	Prefix netip.Prefix `json:"prefix"`
	Stamp  int64        `json:"stamp"` // microseconds
	Node   string       `json:"node"`
	Until  time.Time    `json:"until"` // end of the withdrawn entry; zero in an argument: no end
	By     string       `json:"by,omitempty"`
	Reason string       `json:"reason,omitempty"`
	Local  bool         `json:"local,omitempty"` // withdrawn on this node only: never announced
}

// TombstoneOf returns the tombstone that s, an Unban or Disallow, announces.
func TombstoneOf(s *Statement) Tombstone {
	return Tombstone{Prefix: s.Prefix, Stamp: s.Stamp, Node: s.Node, Until: s.Until, By: s.By, Reason: s.Reason}
}

// Statement returns the announcement of t, an Unban or Disallow.
func (t *Tombstone) Statement(kind Kind) Statement {
	return Statement{Kind: kind, Prefix: t.Prefix, Stamp: t.Stamp, Node: t.Node, Until: t.Until, By: t.By, Reason: t.Reason}
}

func (t *Tombstone) stamp() Stamp { return Stamp{t.Stamp, t.Node} }

// Step moves t by a step of the local clock. stamps: its stamp is by that clock too, because there is no fleet.
func (t *Tombstone) Step(by time.Duration, stamps bool) {
	t.Until = t.Until.Round(0).Add(by)
	if stamps {
		t.Stamp = max(t.Stamp+by.Microseconds(), 1)
	}
}

// lifetime returns the end of a tombstone of an entry that ends at until.
func lifetime(until, now time.Time) time.Time {
	if limit := now.Add(maxTombstoneAge); until.IsZero() || until.After(limit) {
		return limit
	}
	return until
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// tombstones is a bounded table. A full table evicts the tombstones of other nodes, and those that expire first.
type tombstones struct {
	node    string // own node
	keep    func(Key, *Tombstone)
	limit   int // of each subject
	entries [numSubjects]map[netip.Prefix]Tombstone
	swept   int64 // minute of the last expiry
	evicted uint64
	newest  int64 // no tombstone of a ban has a later stamp
}

func newTombstones(node string, keep func(Key, *Tombstone)) tombstones {
	t := tombstones{node: node, keep: keep, limit: maxTombstones}
	for i := range t.entries {
		t.entries[i] = make(map[netip.Prefix]Tombstone)
	}
	return t
}

func (ts *tombstones) get(k Key) (Tombstone, bool) {
	t, ok := ts.entries[k.Subject][k.Prefix]
	return t, ok
}

func (ts *tombstones) put(k Key, t Tombstone) Tombstone {
	t.Prefix = k.Prefix
	table := ts.entries[k.Subject]
	if _, known := table[k.Prefix]; !known && len(table) >= ts.limit {
		ts.evict(k.Subject, ts.limit/10+1)
	}
	table[k.Prefix] = t
	ts.note(k, &t)
	ts.keep(k, &t)
	return t
}

func (ts *tombstones) note(k Key, t *Tombstone) {
	if k.Subject == Bans {
		ts.newest = max(ts.newest, t.Stamp)
	}
}

func (ts *tombstones) remove(k Key) {
	if _, known := ts.entries[k.Subject][k.Prefix]; known {
		delete(ts.entries[k.Subject], k.Prefix)
		ts.keep(k, nil)
	}
}

// horizon returns the latest end of the entries of a key that other nodes may still hold; zero if there are none.
func (ts *tombstones) horizon(k Key, held Entry, now time.Time) time.Time {
	var end time.Time
	if held.Stamp.Micros != 0 && !held.Local {
		end = lifetime(held.Until, now)
	}
	if t, ok := ts.get(k); ok && t.Until.After(end) {
		end = t.Until
	}
	return end
}

// evict removes the n tombstones of a subject that expire first, those of other nodes before this node's: another node that
// withdraws without end makes nothing forgotten that was withdrawn here.
func (ts *tombstones) evict(subject Subject, n int) {
	list := make([]Tombstone, 0, len(ts.entries[subject]))
	for _, t := range ts.entries[subject] {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b Tombstone) int {
		switch aOwn, bOwn := a.Node == ts.node, b.Node == ts.node; {
		case aOwn && !bOwn:
			return 1
		case bOwn && !aOwn:
			return -1
		}
		return a.Until.Compare(b.Until)
	})
	for _, t := range list[:min(n, len(list))] {
		ts.remove(Key{subject, t.Prefix})
		ts.evicted++
	}
}

// expire removes tombstones that are over, once a minute.
func (ts *tombstones) expire(now time.Time) {
	minute := now.Unix() / 60
	if minute == ts.swept {
		return
	}
	ts.swept = minute
	for subject := range ts.entries {
		for p, t := range ts.entries[subject] {
			if !t.Until.After(now) {
				ts.remove(Key{Subject(subject), p})
			}
		}
	}
}

func (ts *tombstones) len() int { return len(ts.entries[Bans]) + len(ts.entries[Allowances]) }

// Load adds a persisted tombstone at the start. It reports false for one that is invalid, expired or beyond the bound: the
// caller removes its record.
func (s *State) Load(k Key, t Tombstone, now time.Time) bool {
	table := s.tombstones.entries[k.Subject]
	if !k.Prefix.IsValid() || t.Stamp <= 0 || !t.Until.After(now) {
		return false
	}
	if _, known := table[k.Prefix]; !known && len(table) >= s.tombstones.limit {
		s.tombstones.evicted++
		return false
	}
	// From the withdrawal on at least: a clock that is years behind at the start of a host without a battery must not shorten it.
	t.Prefix, t.Until = k.Prefix, lifetime(t.Until, later(now, time.UnixMicro(t.Stamp)))
	table[k.Prefix] = t
	s.tombstones.note(k, &t)
	return true
}

// Tombstone returns the tombstone of a key.
func (s *State) Tombstone(k Key) (Tombstone, bool) { return s.tombstones.get(k) }

// Forget removes the tombstone of a key.
func (s *State) Forget(k Key) { s.tombstones.remove(k) }

// Withdrawn reports whether the ban of p, or of a prefix with at least widest bits that holds it, was withdrawn at a stamp from from
// to now. A tombstone later than now is from before a clock was set back, and says nothing. The usual case, a from later than all
// tombstones, costs one comparison.
func (s *State) Withdrawn(p netip.Prefix, from, now int64, widest int) bool {
	if from > s.tombstones.newest {
		return false
	}
	for bits := p.Bits(); bits >= widest; bits-- {
		q, err := p.Addr().Prefix(bits)
		if err != nil {
			return false
		}
		if t, ok := s.tombstones.get(Key{Bans, q}); ok && from <= t.Stamp && t.Stamp <= now {
			return true
		}
	}
	return false
}

// Withdrawals returns the withdrawals that other nodes may need to know, without those of keys that are in force here: they
// are announced when the entry in force has expired.
func (s *State) Withdrawals(inForce func(Key) bool) []Statement {
	list := make([]Statement, 0, s.tombstones.len())
	for subject, kind := range [numSubjects]Kind{Bans: Unban, Allowances: Disallow} {
		for p, t := range s.tombstones.entries[subject] {
			if t.Local || inForce(Key{Subject(subject), p}) {
				continue
			}
			list = append(list, t.Statement(kind))
		}
	}
	return list
}
