// Package merge decides which of the statements of a fleet's nodes hold.
//
// Of two statements about one prefix the one with the later stamp holds, in any order of arrival. A State remembers
// withdrawals as tombstones, so that a node that was unreachable cannot bring back a withdrawn ban or allowance; it limits the
// rate at which bans of other nodes are applied; and it remembers which bans this node announces unless another node does.
//
// The package performs no I/O, starts no goroutines and never reads the clock. Bans and allowances themselves belong to the
// caller, who passes the entry that it holds. All tables are bounded.
package merge

import (
	"net/netip"
	"time"
)

// Bounds of a State.
const (
	maxTombstones   = 100_000             // of bans, and as many of allowances
	maxTombstoneAge = 30 * 24 * time.Hour // of tombstones of entries without end
	maxWaiting      = 10_000              // bans beyond the rate
	maxUnannounced  = 100_000
	resyncPause     = 5 * time.Minute // between two resyncs
)

// Rates of remote bans, as multiples of policy.ban_rate a minute.
const (
	RatePerNode = 2 // a node's own rate, and as many that its guard has held
	RateTotal   = 20
)

// A Subject is the kind of a Key.
type Subject uint8

// Subjects.
const (
	Bans Subject = iota
	Allowances
	numSubjects
)

// A Key names a ban or an allowance.
type Key struct {
	Subject Subject
	Prefix  netip.Prefix
}

// A Stamp orders statements about one key. The zero Stamp is earlier than any other.
type Stamp struct {
	Micros int64
	Node   string
}

// supersedes reports whether a statement stamped s replaces one stamped old. Of two nodes' statements of the same microsecond
// Redis accepts one and delivers only that.
func (s Stamp) supersedes(old Stamp) bool {
	if s.Micros != old.Micros {
		return s.Micros > old.Micros
	}
	return s.Node != old.Node
}

// An Entry is a ban or an allowance in the caller's book. The zero Entry stands for none.
type Entry struct {
	Stamp Stamp
	Until time.Time // zero: no end
	Local bool      // never announced
}

// Options configure a State.
type Options struct {
	Node string // own node
	// Keep persists a tombstone; nil removes the record. State's methods call it synchronously. Nil: nothing is persisted.
	Keep func(Key, *Tombstone)
}

// A State is one node's view of the fleet's statements. It is not safe for concurrent use.
type State struct {
	opts        Options
	tombstones  tombstones
	inbox       inbox
	unannounced map[netip.Prefix]time.Time // bans triggered by remote failures, and when to announce them if no other node has
	missed      bool                       // a ban was refused that a resync may apply later
	resyncFrom  time.Time                  // earliest time of the next resync
}

// Stats are a State's sizes and counts.
type Stats struct {
	Tombstones int
	Waiting    int
	Evicted    uint64 // tombstones removed before their end because the table was full
	Dropped    uint64 // bans for which the waiting list was full; a resync applies them
}

// New returns an empty State.
func New(o Options) *State {
	if o.Keep == nil {
		o.Keep = func(Key, *Tombstone) {}
	}
	return &State{
		opts: o, tombstones: newTombstones(o.Node, o.Keep), inbox: newInbox(),
		unannounced: make(map[netip.Prefix]time.Time),
	}
}

// SetNode sets the name of the own node. Call it before the first statement.
func (s *State) SetNode(node string) { s.opts.Node = node }

// A Verdict is the result of Judge.
type Verdict uint8

// Verdicts.
const (
	Stale Verdict = iota // not newer than the known state: ignore it
	Echo                 // the statement held, for which Redis chose an earlier stamp: the held entry takes that stamp
	Newer                // supersedes the known state
)

// Judge compares a received Ban, Unban, Allow or Disallow with the known state of its key: the held entry, the tombstone and
// the waiting ban. With sync the statement is part of Redis' state, else it is news. An echo of a withdrawal corrects the
// tombstone and is Stale.
func (s *State) Judge(st *Statement, held Stamp, sync bool) Verdict {
	key, stamp := st.Key(), st.stamp()
	tomb, _ := s.tombstones.get(key)
	known := held
	if tomb.Stamp > known.Micros {
		known = tomb.stamp()
	}
	if known.Micros < s.inbox.stamp(key).Micros {
		known = s.inbox.stamp(key)
	}
	switch {
	case stamp.supersedes(known):
		return Newer
	case st.Proposed > st.Stamp:
		return s.judgeEcho(st, key, held, tomb)
	case entering(st) && !sync && tomb.Stamp > st.Stamp && tomb.Stamp >= held.Micros && !tomb.Local:
		s.missed = true // Redis has lost the tombstone: a resync restores it
	}
	return Stale
}

func entering(st *Statement) bool { return st.Kind == Ban || st.Kind == Allow }

// judgeEcho handles a known statement for which Redis chose an earlier stamp. Redis accepts no stamp ahead of its clock: the
// stamp that it chose holds on all nodes.
func (s *State) judgeEcho(st *Statement, key Key, held Stamp, tomb Tombstone) Verdict {
	proposed := Stamp{st.Proposed, st.Node}
	if tomb.stamp() == proposed {
		tomb.Stamp = st.Stamp
		s.tombstones.put(key, tomb)
	}
	if held == proposed && entering(st) {
		return Echo
	}
	return Stale
}

// Enter records that the entry e is in force, by a statement of this node or of another. held is the entry that it replaces.
// A tombstone remains, with the stamp of e, if the held or an earlier withdrawn entry would outlive e: a node that knows only
// that one must not restore it when e has expired.
func (s *State) Enter(key Key, e, held Entry, now time.Time) {
	s.settle(key)
	end := lifetime(e.Until, now)
	horizon := s.tombstones.horizon(key, held, now)
	if !horizon.After(end) {
		s.tombstones.remove(key)
		return
	}
	s.tombstones.put(key, Tombstone{Stamp: e.Stamp.Micros, Node: e.Stamp.Node, Until: horizon, Local: e.Local})
}

// Withdraw records that a ban or an allowance was withdrawn, by this node or another, and returns the tombstone: its end is
// that of the withdrawn entry, at most 30 days from now. held is the entry that was in force here.
func (s *State) Withdraw(key Key, t Tombstone, held Entry, now time.Time) Tombstone {
	s.settle(key)
	t.Until = lifetime(t.Until, now)
	if horizon := s.tombstones.horizon(key, held, now); horizon.After(t.Until) {
		t.Until = horizon
	}
	return s.tombstones.put(key, t)
}

// settle removes the waiting and the unannounced ban of a key, which a newer statement supersedes.
func (s *State) settle(key Key) {
	if key.Subject == Bans {
		s.inbox.remove(key.Prefix)
		delete(s.unannounced, key.Prefix)
	}
}

// Missed notes that a ban was refused that may be accepted later, as by a full set. A resync is due when no ban waits, at most
// every five minutes.
func (s *State) Missed() { s.missed = true }

// AnnounceLater schedules the announcement of a ban that remote failures triggered, unless another node announces it before.
// It reports false when there is no room: the caller announces the ban at once.
func (s *State) AnnounceLater(p netip.Prefix, due time.Time) bool {
	if _, scheduled := s.unannounced[p]; !scheduled && len(s.unannounced) >= maxUnannounced {
		return false
	}
	s.unannounced[p] = due
	return true
}

// Due lists pending work.
type Due struct {
	Bans     []Statement    // waiting bans that the rates allow now: judge and admit them like received ones
	Announce []netip.Prefix // bans to announce now, if they are still in force and without a stamp
	Resync   bool           // read all statements that Redis holds
}

// Tick returns the work that is due, and removes expired tombstones. The caller calls it once a second.
func (s *State) Tick(now time.Time) Due {
	var d Due
	for p, at := range s.unannounced {
		if !at.After(now) {
			delete(s.unannounced, p)
			d.Announce = append(d.Announce, p)
		}
	}
	d.Bans = s.inbox.due(now)
	if s.missed && s.inbox.len() == 0 && len(d.Bans) == 0 && !now.Before(s.resyncFrom) {
		s.missed, s.resyncFrom, d.Resync = false, now.Add(resyncPause), true
	}
	s.tombstones.expire(now)
	return d
}

// Step moves all times by a step of the local clock. stamps: the tombstones' stamps are by that clock too, because there is no
// fleet.
func (s *State) Step(by time.Duration, stamps bool) {
	for subject, table := range s.tombstones.entries {
		for p, t := range table {
			t.Step(by, stamps)
			table[p] = t
			s.tombstones.keep(Key{Subject(subject), p}, &t)
		}
	}
	for p, at := range s.unannounced {
		s.unannounced[p] = at.Round(0).Add(by)
	}
	for p, w := range s.inbox.waiting {
		w.statement.Step(by)
		s.inbox.waiting[p] = w
	}
	s.resyncFrom = step(s.resyncFrom, by)
}

// step moves t, unless it is zero.
func step(t time.Time, by time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Round(0).Add(by)
}

// Stats returns sizes and counts.
func (s *State) Stats() Stats {
	return Stats{Tombstones: s.tombstones.len(), Waiting: s.inbox.len(), Evicted: s.tombstones.evicted, Dropped: s.inbox.dropped}
}
