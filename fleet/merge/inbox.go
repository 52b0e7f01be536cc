package merge

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// An inbox limits the rate of remote bans, and holds those beyond it for a later minute.
type inbox struct {
	rate    int // policy.ban_rate; 0: no limit
	limit   int
	waiting map[netip.Prefix]waiting
	seq     uint64
	dropped uint64

	minute  int64 // that taken counts
	taken   tally
	emptied int64 // minute in which due looked for bans last
}

// A waiting ban.
type waiting struct {
	statement Statement
	seq       uint64 // order of arrival
}

// A tally counts bans in one minute.
type tally struct {
	total  int
	byNode map[string]int
}

func (t *tally) admits(node string, rate int) bool {
	return rate == 0 || t.byNode[node] < RatePerNode*rate && t.total < RateTotal*rate
}

func (t *tally) add(node string) {
	t.byNode[node]++
	t.total++
}

func newInbox() inbox {
	return inbox{limit: maxWaiting, waiting: make(map[netip.Prefix]waiting), taken: tally{byNode: make(map[string]int)}}
}

// SetRate sets the rate of bans that the policy allows a minute; 0 is no limit.
func (s *State) SetRate(perMinute int) { s.inbox.rate = perMinute }

// Admit reports whether a new ban of another node may be applied now, and counts it. A ban beyond the rates of its node or of
// all nodes waits for a later Tick. If the waiting list is full, a resync applies it later. The caller does not ask for bans
// of prefixes that are banned already, for bans of operators, and for those of a resync.
func (s *State) Admit(st *Statement, now time.Time) bool {
	in := &s.inbox
	if st.Node == s.opts.Node || in.rate == 0 {
		return true
	}
	in.turn(now)
	if in.taken.admits(st.Node, in.rate) {
		in.taken.add(st.Node)
		return true
	}
	w, known := in.waiting[st.Prefix]
	if !known {
		if len(in.waiting) >= in.limit {
			in.dropped++
			s.missed = true
			return false
		}
		in.seq++
		w.seq = in.seq
	}
	w.statement = *st
	in.waiting[st.Prefix] = w
	return false
}

// turn begins the count of another minute.
func (in *inbox) turn(now time.Time) {
	if minute := now.Unix() / 60; minute != in.minute {
		in.minute, in.taken.total = minute, 0
		clear(in.taken.byNode)
	}
}

func (in *inbox) len() int { return len(in.waiting) }

func (in *inbox) remove(p netip.Prefix) { delete(in.waiting, p) }

// stamp returns the stamp of the ban that waits for a key; zero if none does.
func (in *inbox) stamp(k Key) Stamp {
	if k.Subject != Bans {
		return Stamp{}
	}
	w := in.waiting[k.Prefix]
	return w.statement.stamp()
}

// due removes and returns the bans that this minute's rates still allow, in the order of their arrival. It looks once a
// minute.
func (in *inbox) due(now time.Time) []Statement {
	in.turn(now)
	if in.emptied == in.minute || len(in.waiting) == 0 {
		return nil
	}
	in.emptied = in.minute
	order := slices.SortedFunc(maps.Values(in.waiting), func(a, b waiting) int { return cmp.Compare(a.seq, b.seq) })
	allowed := tally{total: in.taken.total, byNode: maps.Clone(in.taken.byNode)}
	var list []Statement
	for i := range order {
		st := &order[i].statement
		if !allowed.admits(st.Node, in.rate) {
			continue
		}
		allowed.add(st.Node)
		in.remove(st.Prefix)
		list = append(list, *st)
	}
	return list
}

// Waiting returns the number of bans that wait for their rate.
func (s *State) Waiting() int { return s.inbox.len() }
