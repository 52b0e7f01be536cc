package firewall

import (
	"net/netip"
	"slices"
	"time"
)

// A comparison of the kernel's entries with the bans that should be in force counts them, which costs nothing in the
// kernel, and goes through them one by one the first time, when the counts differ, and once an hour or more seldom.
//
// Bans are right about what should be in the kernel, and the kernel about the rest: an entry that is missing there is put
// back, one that Bans does not know is adopted, and so is an end that somebody has changed by hand.
//
// Entries are listed beside Run's goroutine, so that orders do not wait for it. What the listing says of a prefix that an
// order has changed meanwhile may be of before or after, and counts for nothing: the order does.
type comparison struct {
	last time.Time     // when the entries were last gone through
	took time.Duration // how long their listing took
	due  int           // bans that were to end before the next check
	// ended are the prefixes that were unbanned since the last check, and not banned again: Bans may yield them for a moment
	// still.
	ended   map[netip.Prefix]struct{}
	changed map[netip.Prefix]struct{} // by orders, since the listing under way began; nil when there is none
}

// A listing is what the kernel held at some moment between two times, which is another one for each entry.
type listing struct {
	entries      []Entry
	began, ended time.Time
	err          error
}

const (
	// compareEvery is how often a change that leaves the number of entries as it is comes to light: where there are so many
	// that bans would wait for the listing, less often, but well before a ban that is longer than the kernel can hold would
	// end there.
	compareEvery, compareAtLeast = time.Hour, 24 * time.Hour
	// expiring is how little may be left of an entry that is about to end by itself, here and in the kernel, which throws
	// away what has ended a second or two later.
	expiring = 3 * time.Second
	// drift is how much the end of a ban may differ here and in the kernel.
	drift = time.Minute
)

// pause is how long after one listing the next is due: an hour after one of 30 ms, a day after one of a second.
func (c *comparison) pause() time.Duration {
	return min(max(compareEvery, 100_000*c.took), compareAtLeast)
}

// look has the kernel's entries listed where there is reason to. What comes of it is for reconcile.
func (e *Enforcer) look() {
	if e.compare.changed != nil {
		return // a listing is under way
	}
	if now := time.Now(); e.setUp && now.Sub(e.compare.last) < e.compare.pause() {
		intact, err := e.backend.intact(func(size int) bool { return e.plausible(size, now) })
		if err != nil || intact {
			e.unlisted = err
			e.note(nil, 0, err)
			clear(e.compare.ended)
			return
		}
	}
	e.compare.changed = make(map[netip.Prefix]struct{})
	e.helpers.Go(func() {
		l := listing{began: time.Now()}
		l.entries, l.err = e.Entries()
		l.ended = time.Now()
		e.listed <- l
	})
}

// reconcile orders the bans that the kernel lacks, or holds with another end, and gives away those that it holds without
// order. It returns why there is no telling.
func (e *Enforcer) reconcile(l listing) error {
	changed := e.compare.changed
	e.compare.changed, e.unlisted = nil, l.err
	defer clear(e.compare.ended)
	if l.err != nil {
		e.note(nil, 0, l.err)
		return l.err
	}
	now, first, restored := time.Now(), e.compare.last.IsZero(), 0
	e.compare.last, e.compare.took = l.began, l.ended.Sub(l.began)
	inKernel := make(map[netip.Prefix]time.Duration, len(l.entries))
	for _, entry := range l.entries {
		inKernel[entry.Prefix] = entry.Left
	}
	for prefix := range changed {
		delete(inKernel, prefix)
	}
	var amended []Entry
	for prefix, until := range e.opts.Bans() {
		kernelLeft, there := inKernel[prefix]
		delete(inKernel, prefix)
		_, ended := e.compare.ended[prefix]
		_, ordered := changed[prefix]
		over := !until.IsZero() && !until.After(now)
		want := left(until, l.began)
		switch {
		case over || ended || ordered || there && agree(kernelLeft, want, e.compare.took):
		case there && e.opts.Amend != nil && byHand(kernelLeft, want, first):
			amended = append(amended, Entry{Prefix: prefix, Left: kernelLeft})
		case e.putBack(op{prefix: prefix, add: true, until: until}) && !there:
			restored++
		}
	}
	e.adopt(l.entries, inKernel, now.Sub(l.began))
	e.amend(amended)
	e.note(nil, restored, nil)
	return nil
}

// byHand tells whether an end that does not agree has been changed in the kernel. Of a ban that the kernel cannot hold long
// enough it has just come closer. At the start an earlier end can be that of an order which a run before this one could not
// carry out any more.
func byHand(kernel, want time.Duration, first bool) bool {
	later := want != Forever && (kernel == Forever || kernel > want)
	return later || !first && (want == Forever || want <= maxTimeout)
}

// amend gives away the entries whose end has been changed, unless something newer is ordered.
func (e *Enforcer) amend(entries []Entry) {
	e.mu.Lock()
	entries = slices.DeleteFunc(entries, func(entry Entry) bool { return e.ordered(entry.Prefix) })
	e.mu.Unlock()
	if len(entries) > 0 {
		e.opts.Amend(entries)
	}
}

// agree tells whether an entry ends when it should, if a listing that took some time says so. One that the kernel cannot hold
// long enough is renewed at half time.
func agree(kernel, want, took time.Duration) bool {
	switch {
	case kernel == Forever || want == Forever:
		return kernel == want
	case want > maxTimeout:
		return kernel > maxTimeout/2
	default:
		return (kernel - want).Abs() < drift+took
	}
}

// putBack orders o, unless something newer is ordered.
func (e *Enforcer) putBack(o op) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ordered(o.prefix) {
		return false
	}
	e.restoring[o.prefix] = o
	return true
}

// ordered tells whether a change of prefix has not reached the kernel. The caller holds the lock.
func (e *Enforcer) ordered(prefix netip.Prefix) bool {
	_, pending := e.pending[prefix]
	_, restoring := e.restoring[prefix]
	_, stuck := e.stuck[prefix]
	return pending || restoring || stuck
}

// adopt gives away the entries that nobody has claimed. They are as old as the listing.
func (e *Enforcer) adopt(entries []Entry, unclaimed map[netip.Prefix]time.Duration, age time.Duration) {
	var unknown []Entry
	e.mu.Lock()
	for _, entry := range entries {
		_, free := unclaimed[entry.Prefix]
		if free && !e.ordered(entry.Prefix) && (entry.Left == Forever || entry.Left-age > expiring) {
			unknown = append(unknown, entry)
			delete(unclaimed, entry.Prefix) // a listing can tell of it twice
		}
	}
	e.mu.Unlock()
	if len(unknown) > 0 && e.opts.Adopt != nil {
		e.opts.Adopt(unknown)
	}
}

// plausible tells whether size is what the kernel should hold now, give or take the bans that are about to end, that have
// just ended, and the changes under way.
func (e *Enforcer) plausible(size int, now time.Time) bool {
	all, ending, due := e.opts.Tally(now.Add(expiring), now.Add(e.opts.Check+expiring))
	sure := all - ending
	ended := e.compare.due
	e.compare.due = due
	e.mu.Lock()
	unsure := len(e.pending) + len(e.restoring) + len(e.stuck)
	e.mu.Unlock()
	return sure-unsure <= size && size <= sure+ending+ended+unsure
}

// tally counts the bans one by one.
func (o *EnforcerOptions) tally(soon, later time.Time) (all, bySoon, byLater int) {
	for _, until := range o.Bans() {
		all++
		switch {
		case until.IsZero() || until.After(later):
		case until.After(soon):
			byLater++
		default:
			bySoon++
			byLater++
		}
	}
	return all, bySoon, byLater
}
