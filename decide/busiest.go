package decide

import (
	"cmp"
	"context"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"

	"fsban/ledger"
	"fsban/policy"
)

// Bounds of the tables of the busiest: addresses and users, minutes, and distinct users of an address or addresses of a user.
const (
	maxBusiest  = 512
	busyMinutes = 5
	maxOthers   = 64
)

// busiest holds the addresses and users with the most attempts lately. It is for display: no decision depends on it.
type busiest struct {
	addresses hitters[netip.Prefix]
	users     hitters[account]
	seed      maphash.Seed // of the hashes that distinguish the others
}

// An account is a user as a peer claims it.
type account struct{ user, domain string }

func newBusiest() busiest {
	return busiest{newHitters[netip.Prefix](), newHitters[account](), maphash.MakeSeed()}
}

// add counts an attempt of prefix, read at now. An older attempt, because a log was read back, is left out.
func (b *busiest) add(a *policy.Attempt, prefix netip.Prefix, now time.Time) {
	if now.Sub(a.At) >= busyMinutes*time.Minute {
		return
	}
	h := b.addresses.add(prefix, now)
	h.user, h.agent = a.User, a.UserAgent
	if a.User == "" {
		return
	}
	h.others.add(uint32(maphash.String(b.seed, a.User)))
	b.users.add(account{a.User, a.Domain}, now).others.add(uint32(maphash.Comparable(b.seed, prefix)))
}

// addUnanswered counts the challenges that led to a decision because no credentials came.
func (b *busiest) addUnanswered(d *policy.Decision, now time.Time) {
	for i := range d.Evidence {
		if a := &d.Evidence[i]; a.Kind == policy.Challenge {
			b.add(a, d.Prefix, now)
		}
	}
}

// hitters is a table of maxBusiest keys with the most attempts, by the space-saving algorithm: a new key replaces the one with the least
// weight and starts from that weight. So a key with more than one in maxBusiest of all attempts stays, however many others occur.
type hitters[K comparable] struct {
	index   map[K]int // into all
	all     []hitter[K]
	weights []uint32 // of all: attempts, and those of replaced keys. Apart from all, because each new key searches them
	minute  int64    // of the weights
}

// A hitter is a key with its attempts.
type hitter[K comparable] struct {
	key    K
	counts [busyMinutes]uint32 // by minute, as of the newest
	minute int64               // the newest, since 1970
	last   time.Time
	others others

	floor      uint32 // weight of the key that it replaced
	floorUntil int64  // minute in which the attempts behind floor are too old

	user, agent string // of the last attempt, for an address
}

func newHitters[K comparable]() hitters[K] {
	return hitters[K]{
		index: make(map[K]int, maxBusiest), all: make([]hitter[K], 0, maxBusiest), weights: make([]uint32, 0, maxBusiest),
	}
}

// add counts an attempt of k. Its result is valid until the next call.
func (t *hitters[K]) add(k K, now time.Time) *hitter[K] {
	minute := minuteOf(now)
	if minute > t.minute {
		t.weigh(minute)
	}
	place, known := t.index[k]
	if !known {
		place = t.replace(k, minute)
	}
	h := &t.all[place]
	h.pass(minute)
	h.counts[h.minute%busyMinutes]++
	t.weights[place]++
	h.last = now
	return h
}

// weigh sets the weights as of a minute.
func (t *hitters[K]) weigh(minute int64) {
	t.minute = minute
	for i := range t.all {
		h := &t.all[i]
		h.pass(minute)
		if t.weights[i] = h.count(); minute < h.floorUntil {
			t.weights[i] += h.floor
		}
	}
}

// replace adds k in a free place, or in that of the key with the least weight.
func (t *hitters[K]) replace(k K, minute int64) (place int) {
	h := hitter[K]{key: k, minute: minute}
	if len(t.all) < maxBusiest {
		t.all, t.weights = append(t.all, h), append(t.weights, 0)
		place = len(t.all) - 1
	} else {
		least := t.weights[0]
		for i, w := range t.weights {
			if w < least {
				least, place = w, i
			}
		}
		delete(t.index, t.all[place].key)
		h.floor, h.floorUntil = least, minute+busyMinutes
		t.all[place] = h
	}
	t.index[k] = place
	return place
}

// busy returns up to n keys with attempts in the last minutes, the most attempts first. They are valid until the next call of
// add.
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

// pass drops counts older than busyMinutes, and reports whether any are left.
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

// others counts distinct values by hash, up to maxOthers.
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

// A BusyAddress is a prefix with attempts in the last five minutes.
type BusyAddress struct {
	Prefix    netip.Prefix
	Attempts  uint64
	Users     int // distinct, up to 64
	Last      time.Time
	LastUser  string
	UserAgent string
	Banned    bool
	Known     bool // known-good
}

// A BusyUser is a user with failures in the last five minutes.
type BusyUser struct {
	User, Domain string
	Attempts     uint64
	Addresses    int // distinct, up to 64
	Last         time.Time
}

// Top holds the addresses and users with the most attempts, and the bans made last, the newest first.
type Top struct {
	Addresses []BusyAddress
	Users     []BusyUser
	NewBans   []ledger.Ban
}

// Top returns up to n addresses and users with the most attempts, as of now.
func (l *Loop) Top(ctx context.Context, n int, now time.Time) (t Top, err error) {
	err = l.Do(ctx, func() {
		for _, h := range l.busiest.addresses.busy(n, now) {
			_, known := l.engine.KnownGood(h.key.Addr())
			t.Addresses = append(t.Addresses, BusyAddress{
				Prefix: h.key, Attempts: uint64(h.count()), Users: h.others.n, Last: h.last, LastUser: h.user, UserAgent: h.agent,
				Banned: l.book.Banned(h.key, now), Known: known,
			})
		}
		for _, h := range l.busiest.users.busy(n, now) {
			t.Users = append(t.Users, BusyUser{
				User: h.key.user, Domain: h.key.domain, Attempts: uint64(h.count()), Addresses: h.others.n, Last: h.last,
			})
		}
		t.NewBans = l.book.Recent()
	})
	return t, err
}
