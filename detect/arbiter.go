package detect

import (
	"hash/maphash"
	"time"

	"fsban/policy"
)

// An Arbiter has each failure counted once where the event socket and mod_cti's log both tell of it. While the socket is
// up its events count, and the log's lines are only remembered; while it is down the lines count. At the edges, where
// either may tell of a failure alone, a line and an event of the same address and user less than two seconds apart are
// the same failure, one to one.
//
// It is pure: time comes with the calls. Its memory is bounded; what it forgets under a flood was told by both sources
// and is counted by the one that speaks.
type Arbiter struct {
	seed    maphash.Seed
	up      bool
	upSince time.Time
	buckets [1024]bucket
	held    []heldLine
}

// bucket holds the latest reports of a few addresses and users.
type bucket struct {
	reports [8]report
	next    int
}

// A report is what one source told of a failure that the other one has not told of yet.
type report struct {
	who     uint64 // hash of address and user; 0: none
	at      int64  // unix microseconds, FreeSWITCH's clock
	event   bool   // told by an event; otherwise by a line
	counted bool
}

// A heldLine is a line that counts when no event has told of it by then.
type heldLine struct {
	attempt policy.Attempt
	read    time.Time
	due     time.Time // zero: never, unless the event socket goes down
}

const (
	// grace is how long after an edge an event may tell of what a line has told of already.
	grace = time.Second
	// maxHeld bounds the lines in waiting.
	maxHeld = 4096
)

// NewArbiter returns an Arbiter for a socket that is down.
func NewArbiter() *Arbiter { return &Arbiter{seed: maphash.MakeSeed()} }

// EventsUp tells that the event socket came up or went down at now. With it down, lines that were read lately and of which
// no event has told count after a moment.
func (r *Arbiter) EventsUp(up bool, now time.Time) {
	if up == r.up {
		return
	}
	r.up = up
	if up {
		r.upSince = now
		return
	}
	for i := range r.held {
		if r.held[i].due.IsZero() {
			r.held[i].due = now.Add(grace)
		}
	}
}

// Speaks returns which source speaks for failed logins.
func (r *Arbiter) Speaks() policy.Source {
	if r.up {
		return policy.Event
	}
	return policy.CTILog
}

// Counts tells whether a counts now. What only one source can tell of always does.
func (r *Arbiter) Counts(a *policy.Attempt, now time.Time) bool {
	if a.Kind != policy.AuthFailure || a.Source != policy.Event && a.Source != policy.CTILog {
		return true
	}
	event := a.Source == policy.Event
	if other := r.oldest(a, func(p *report) bool { return p.event != event }); other != nil {
		other.who = 0
		return event && !other.counted
	}
	counts := event || !r.up
	r.remember(a, event, counts)
	if !counts {
		line := heldLine{attempt: *a, read: now}
		// It happened before the events came back, or as they did.
		if a.At.Before(r.upSince.Add(sameMoment)) {
			line.due = now.Add(grace)
		}
		if len(r.held) < maxHeld {
			r.held = append(r.held, line)
		}
	}
	return counts
}

// Due returns the lines that count at now, because no event has told of them.
func (r *Arbiter) Due(now time.Time) []policy.Attempt {
	var due []policy.Attempt
	kept := r.held[:0]
	for i := range r.held {
		h := &r.held[i]
		switch {
		case !h.due.IsZero() && !now.Before(h.due):
			if mine := r.oldest(&h.attempt, func(p *report) bool { return !p.event && !p.counted }); mine != nil {
				mine.counted = true // an event that comes still is the same failure
				due = append(due, h.attempt)
			}
		case h.due.IsZero() && now.Sub(h.read) > sameMoment+grace:
		default:
			kept = append(kept, *h)
		}
	}
	r.held = kept
	return due
}

// oldest returns the oldest report of a, at about its time, that is wanted.
func (r *Arbiter) oldest(a *policy.Attempt, wanted func(*report) bool) *report {
	who, b := r.bucket(a)
	var best *report
	for i := range b.reports {
		p := &b.reports[i]
		apart := time.Duration(a.At.UnixMicro()-p.at) * time.Microsecond
		if p.who == who && wanted(p) && apart.Abs() < sameMoment && (best == nil || p.at < best.at) {
			best = p
		}
	}
	return best
}

func (r *Arbiter) remember(a *policy.Attempt, event, counted bool) {
	who, b := r.bucket(a)
	b.reports[b.next] = report{who: who, at: a.At.UnixMicro(), event: event, counted: counted}
	b.next = (b.next + 1) % len(b.reports)
}

func (r *Arbiter) bucket(a *policy.Attempt) (who uint64, b *bucket) {
	var h maphash.Hash
	h.SetSeed(r.seed)
	addr := a.Addr.As16()
	_, _ = h.Write(addr[:])
	_, _ = h.WriteString(a.User)
	who = h.Sum64() | 1
	return who, &r.buckets[who>>1%uint64(len(r.buckets))]
}
