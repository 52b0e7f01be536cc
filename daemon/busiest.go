package daemon

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"

	"fsban/ledger"
	"fsban/policy"
)

// What is kept of who tries most: so many addresses and users, for so many minutes, with so many of the other on each side
// told apart; and so many bans made last.
const (
	maxBusiest  = 512
	busyMinutes = 5
	maxOthers   = 64
	maxNewBans  = 20
)

// busiest is who tries most, lately. It is for people to look at: nothing is decided by it.
type busiest struct {
	addresses hitters[netip.Prefix]
	users     hitters[account]
	seed      maphash.Seed // of the hashes by which the others are told apart
}

// An account is a user as a peer claims it.
type account struct{ user, domain string }

func newBusiest() busiest {
	return busiest{newHitters[netip.Prefix](), newHitters[account](), maphash.MakeSeed()}
}

// see counts an attempt of what counts as one attacker, read at now. What happened longer ago, because a log was read
// back, is left out.
func (b *busiest) see(a *policy.Attempt, prefix netip.Prefix, now time.Time) {
	if now.Sub(a.At) >= busyMinutes*time.Minute {
		return
	}
	h := b.addresses.see(prefix, now)
	h.user, h.agent = a.User, a.UserAgent
	if a.User == "" {
		return
	}
	h.others.add(uint32(maphash.String(b.seed, a.User)))
	b.users.see(account{a.User, a.Domain}, now).others.add(uint32(maphash.Comparable(b.seed, prefix)))
}

// seeUnanswered counts the challenges that led to a decision, because no credentials came.
func (b *busiest) seeUnanswered(d *policy.Decision, now time.Time) {
	for i := range d.Evidence {
		if a := &d.Evidence[i]; a.Kind == policy.Challenge {
			b.see(a, d.Prefix, now)
		}
	}
}

// hitters are those of one sort that try most: a table of maxBusiest places. Somebody new takes the place of one that has
// tried least, of a few that are looked at. So who tries often stays, however many others come once.
type hitters[K comparable] struct {
	index map[K]int // into all
	all   []hitter[K]
	hand  int // where one that may go is looked for next
}

// A hitter is one of them.
type hitter[K comparable] struct {
	key    K
	counts [busyMinutes]uint32 // by minute, as of the newest
	minute int64               // the newest, since 1970
	last   time.Time
	others others

	user, agent string // of the last attempt, for an address
}

func newHitters[K comparable]() hitters[K] {
	return hitters[K]{index: make(map[K]int, maxBusiest), all: make([]hitter[K], 0, maxBusiest)}
}

// see counts an attempt of k. What it returns is valid until the next call.
func (t *hitters[K]) see(k K, now time.Time) *hitter[K] {
	place, known := t.index[k]
	if !known {
		place = t.place(now)
		t.all[place] = hitter[K]{key: k, minute: minuteOf(now)}
		t.index[k] = place
	}
	h := &t.all[place]
	h.pass(minuteOf(now))
	h.counts[h.minute%busyMinutes]++
	h.last = now
	return h
}

// looked is how many places are looked at for one that may go.
const looked = 8

// place returns a place to fill.
func (t *hitters[K]) place(now time.Time) int {
	if n := len(t.all); n < maxBusiest {
		t.all = append(t.all, hitter[K]{})
		return n
	}
	least, place := uint32(0), -1
	for range looked {
		t.hand = (t.hand + 1) % maxBusiest
		h := &t.all[t.hand]
		h.pass(minuteOf(now))
		if n := h.count(); place < 0 || n < least {
			least, place = n, t.hand
		}
	}
	delete(t.index, t.all[place].key)
	return place
}

// busy returns those with attempts in the last minutes, up to n, who tries most first. They are valid until the next call
// of see.
func (t *hitters[K]) busy(n int, now time.Time) []*hitter[K] {
	list := make([]*hitter[K], 0, len(t.all))
	for i := range t.all {
		if h := &t.all[i]; h.pass(minuteOf(now)) {
			list = append(list, h)
		}
	}
	slices.SortFunc(list, func(a, b *hitter[K]) int {
		return cmp.Or(cmp.Compare(b.count(), a.count()), b.last.Compare(a.last))
	})
	return list[:min(n, len(list))]
}

// pass drops what was counted longer ago than busyMinutes, and tells whether anything is left.
func (h *hitter[K]) pass(minute int64) bool {
	for range min(minute-h.minute, busyMinutes) {
		h.minute++
		h.counts[h.minute%busyMinutes] = 0
	}
	h.minute = max(h.minute, minute)
	if h.counts == ([busyMinutes]uint32{}) {
		h.others = others{}
		return false
	}
	return true
}

func (h *hitter[K]) count() (n uint32) {
	for _, c := range h.counts {
		n += c
	}
	return n
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// others tells different ones apart by hash, up to maxOthers.
type others struct {
	hashes [maxOthers]uint32
	n      int
}

func (o *others) add(hash uint32) {
	if o.n < maxOthers && !slices.Contains(o.hashes[:o.n], hash) {
		o.hashes[o.n] = hash
		o.n++
	}
}

// A lastBans is the bans made last: a ring.
type lastBans struct {
	ring [maxNewBans]ledger.Ban
	made int
}

func (l *lastBans) add(b *ledger.Ban) {
	kept := *b
	kept.Evidence = nil // it is in the ledger, and may be long
	l.ring[l.made%maxNewBans] = kept
	l.made++
}

// newest returns them, the newest first.
func (l *lastBans) newest() []ledger.Ban {
	list := make([]ledger.Ban, 0, maxNewBans)
	for i := l.made - 1; i >= max(0, l.made-maxNewBans); i-- {
		list = append(list, l.ring[i%maxNewBans])
	}
	return list
}
