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
type comparison struct {
	last time.Time     // when the entries were last gone through
	took time.Duration // how long their listing took
	due  int           // bans that were to end before the next check
	// ended are the prefixes that were unbanned since the last check: Bans may yield them for a moment still.
	ended map[netip.Prefix]struct{}
}

const (
	// compareEvery is how often a change that leaves the number of entries as it is comes to light: where there are so many
	// that bans would wait for the listing, less often, but well before a ban that is longer than the kernel can hold would
	// end there.
	compareEvery, compareAtLeast = time.Hour, 24 * time.Hour
	// expiring is how little may be left of an entry that is about to end by itself, here and in the kernel, which throws
	// away what has ended a second or two later.
	expiring = 3 * time.Second
	// drift is how much the end of a ban may differ here and in the kernel, for the time that a long listing takes.
	drift = time.Minute
)

// pause is how long after one listing the next is due: an hour after one of 30 ms, a day after one of a second.
func (c *comparison) pause() time.Duration {
	return min(max(compareEvery, 100_000*c.took), compareAtLeast)
}

// reconcile orders the bans that the kernel lacks, or holds with another end, and gives away those that it holds without
// order. It returns how many it had to restore.
func (e *Enforcer) reconcile() (restored int, err error) {
	defer func() { clear(e.compare.ended) }()
	now := time.Now()
	if e.setUp && now.Sub(e.compare.last) < e.compare.pause() {
		intact, err := e.backend.intact(func(size int) bool { return e.plausible(size, now) })
		if err != nil || intact {
			return 0, err
		}
	}
	entries, err := e.backend.entries()
	if err != nil {
		return 0, err
	}
	first := e.compare.last.IsZero()
	e.compare.last, e.compare.took = now, time.Since(now)
	inKernel := make(map[netip.Prefix]time.Duration, len(entries))
	for _, entry := range entries {
		inKernel[entry.Prefix] = entry.Left
	}
	var amended []Entry
	for prefix, until := range e.opts.Bans() {
		kernelLeft, there := inKernel[prefix]
		delete(inKernel, prefix)
		_, ended := e.compare.ended[prefix]
		over := !until.IsZero() && !until.After(now)
		want := left(until, now)
		switch {
		case over || ended || there && agree(kernelLeft, want):
		case there && e.opts.Amend != nil && byHand(kernelLeft, want, first):
			amended = append(amended, Entry{Prefix: prefix, Left: kernelLeft})
		case e.putBack(op{prefix: prefix, add: true, until: until}) && !there:
			restored++
		}
	}
	e.adopt(entries, inKernel)
	e.amend(amended)
	return restored, nil
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

// agree tells whether an entry ends when it should. One that the kernel cannot hold long enough is renewed at half time.
func agree(kernel, want time.Duration) bool {
	switch {
	case kernel == Forever || want == Forever:
		return kernel == want
	case want > maxTimeout:
		return kernel > maxTimeout/2
	default:
		return (kernel - want).Abs() < drift
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

// adopt gives away the entries that nobody has claimed.
func (e *Enforcer) adopt(entries []Entry, unclaimed map[netip.Prefix]time.Duration) {
	var unknown []Entry
	e.mu.Lock()
	for _, entry := range entries {
		_, free := unclaimed[entry.Prefix]
		if free && !e.ordered(entry.Prefix) && (entry.Left == Forever || entry.Left > expiring) {
			unknown = append(unknown, entry)
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
	sure, ending, due := 0, 0, 0
	for _, until := range e.opts.Bans() {
		switch {
		case until.IsZero() || until.After(now.Add(e.opts.Check+expiring)):
			sure++
		case until.After(now.Add(expiring)):
			sure++
			due++
		default:
			ending++
			due++
		}
	}
	ended := e.compare.due
	e.compare.due = due
	e.mu.Lock()
	unsure := len(e.pending) + len(e.restoring) + len(e.stuck)
	e.mu.Unlock()
	return sure-unsure <= size && size <= sure+ending+ended+unsure
}
