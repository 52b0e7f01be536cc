package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A comparison of the kernel's entries with the bans that should be in force counts them at each check, which costs the kernel
// nothing, and goes through them one by one at the start, when the counts differ, and now and then: see pause.
//
// Bans decides on the bans that it yields: an entry that is missing in the kernel is restored. The owner decides on an entry that
// Bans does not yield, by Adopt. An end that somebody has changed by hand is taken over.
//
// Entries are listed in another goroutine than Run's, so that orders do not wait. The listing may be older or newer than an order
// that is applied meanwhile, so it is ignored for the prefix of that order.
type comparison struct {
	last  time.Time     // when the last listing began
	took  time.Duration // its duration
	due   int           // bans that were to end before the next check
	steps uint64        // of the clock, as of the last complete comparison
	again bool          // the last comparison was discarded
	// ended are the prefixes that were unbanned since the last check, and not banned again: Bans may still yield them for a
	// moment.
	ended      map[netip.Prefix]struct{}
	changed    map[netip.Prefix]struct{} // by orders, since the listing under way began; nil if there is none
	unbansLost bool                      // orders were dropped before the listing began, unbans among them
	exceptions int                       // in the kernel, by the last listing
	notes      struct{ rules, entries []string }
}

// A listing is the result of Backend.Entries. Each entry is as of another moment between began and ended.
type listing struct {
	entries      []Entry
	began, ended time.Time
	steps        uint64 // of the clock, at began
	err          error
}

// drift is how much the end of a ban may differ here and in the kernel, unless the clock was stepped.
const drift = time.Minute

// Entries are listed once in compareEvery, or more seldom so that listings take a thousandth of the time, but at least once in
// compareAtLeast: well before a ban that is longer than MaxTimeout would end in the kernel.
const compareEvery, compareAtLeast = time.Minute, 24 * time.Hour

// pause is the time from one listing to the next if the counts agree.
func (c *comparison) pause() time.Duration {
	return min(max(compareEvery, 1000*c.took), compareAtLeast)
}

// look has the kernel's entries listed if there is reason to. The result goes to reconcile.
func (e *Enforcer) look() {
	if e.compare.changed != nil {
		return // a listing is under way
	}
	lost := e.queue.losses()
	now, steps := e.opts.clock()
	if e.setUp && lost == (loss{}) && !e.compare.again && steps == e.compare.steps && time.Since(e.compare.last) < e.compare.pause() {
		intact, err := e.backend.Intact(func(size int) bool { return e.plausible(size-e.compare.exceptions, now) })
		if err != nil || intact {
			e.faults.entries = err
			e.note(nil, 0, err)
			clear(e.compare.ended)
			return
		}
	}
	e.compare.unbansLost = e.compare.unbansLost || lost.unbans
	e.compare.changed = make(map[netip.Prefix]struct{})
	e.helpers.Go(func() {
		l := listing{began: time.Now()}
		_, l.steps = e.opts.clock()
		l.entries, l.err = e.Entries()
		l.ended = time.Now()
		e.listed <- l
	})
}

// reconcile restores the bans that are missing in the kernel or have another end there, and reports unknown entries to Adopt.
func (e *Enforcer) reconcile(l listing) error {
	changed := e.compare.changed
	e.compare.changed = nil
	defer clear(e.compare.ended)
	if l.err != nil {
		e.faults.entries = l.err
		e.note(nil, 0, l.err)
		return l.err
	}
	inKernel := e.compare.index(l.entries)
	for prefix := range changed {
		delete(inKernel, prefix)
	}
	age, took := time.Since(l.began), l.ended.Sub(l.began)
	now, steps := e.opts.clock()
	c := contrast{first: e.compare.last.IsZero(), stepped: steps != e.compare.steps}
	for prefix, until := range e.opts.Bans() {
		kernelLeft, there := inKernel[prefix]
		over := !until.IsZero() && !until.After(now)
		if !over || !c.stepped { // else the step has revived the entry: nobody claims it
			delete(inKernel, prefix)
		}
		_, ended := e.compare.ended[prefix]
		_, ordered := changed[prefix]
		want := Left(until, now.Add(-age))
		switch {
		case over || ended || ordered || !CanBan(prefix) || there && agree(kernelLeft, want, c.within()+took):
		case there && e.opts.Amend != nil && c.byHand(kernelLeft, want):
			c.amended = append(c.amended, Entry{Prefix: prefix, Left: kernelLeft, Expected: until})
		case there:
			c.differ = append(c.differ, Order{Prefix: prefix, Add: true, Until: deadline(until, now)})
		default:
			c.missing = append(c.missing, Order{Prefix: prefix, Add: true, Until: deadline(until, now)})
		}
	}
	_, after := e.opts.clock()
	if e.compare.again = l.steps%2 != 0 || l.steps != after; e.compare.again { // the clock was stepped: this means nothing
		e.schedule.soon()
		return nil
	}
	e.compare.last, e.compare.took, e.compare.steps, e.faults.entries = l.began, took, steps, nil
	e.queue.restore(c.differ)
	restored := e.queue.restore(c.missing)
	e.adopt(l.entries, inKernel, age, c.stepped)
	e.amend(c.amended)
	e.note(nil, restored, nil)
	e.compare.unbansLost = false
	return nil
}

// A contrast is the result of a comparison.
type contrast struct {
	first   bool // comparison of this process
	stepped bool // the clock was, since the comparison before
	amended []Entry
	differ  []Order // bans with another end in the kernel
	missing []Order // bans that the kernel lacks
}

// index returns the bans among entries, and counts and notes the exceptions.
func (c *comparison) index(entries []Entry) map[netip.Prefix]time.Duration {
	inKernel := make(map[netip.Prefix]time.Duration, len(entries))
	c.exceptions, c.notes.entries = 0, nil
	var one netip.Prefix
	for i := range entries {
		if entries[i].Exception {
			c.exceptions++
			one = entries[i].Prefix
			continue
		}
		inKernel[entries[i].Prefix] = entries[i].Left
	}
	if c.exceptions > 0 {
		c.notes.entries = []string{fmt.Sprintf("the kernel's sets hold exceptions from bans (nomatch) that fsban did not make, %d of them, one "+
			"for %v: use fsban allow instead, and delete them", c.exceptions, one)}
	}
	return inKernel
}

// CanBan reports whether a backend can hold a ban of prefix as such. IPv4-mapped addresses are IPv4 addresses for fsban, and
// never the source of a packet.
func CanBan(prefix netip.Prefix) bool {
	return prefix.IsValid() && prefix.Bits() > 0 && prefix == prefix.Masked() && !prefix.Overlaps(mapped)
}

// mapped are the IPv4-mapped addresses of IPv6.
var mapped = netip.PrefixFrom(netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff}), 96)

// byHand reports whether an end that does not agree has been changed in the kernel. The end of a ban that the kernel cannot hold
// long enough only comes closer. At the start an earlier end can be that of an order which an earlier run did not carry out. A
// backend whose rules end by the system's clock has other ends after a step.
func (c *contrast) byHand(kernel, want time.Duration) bool {
	later := want != Forever && (kernel == Forever || kernel > want)
	return !c.stepped && (later || !c.first && (want == Forever || want <= MaxTimeout))
}

// amend reports the entries with a changed end to Amend, except those with a newer order.
func (e *Enforcer) amend(entries []Entry) {
	entries = slices.DeleteFunc(entries, func(entry Entry) bool { return e.queue.has(entry.Prefix) })
	if len(entries) > 0 {
		e.opts.Amend(entries)
	}
}

// within returns by how much the end of a ban may differ here and in the kernel.
func (c *contrast) within() time.Duration {
	if c.stepped {
		return Expiring // a small step shows once only
	}
	return drift
}

// agree reports whether an entry ends when it should. An entry that the kernel cannot hold long enough is renewed at half of its
// time.
func agree(kernel, want, within time.Duration) bool {
	switch {
	case kernel == Forever || want == Forever:
		return kernel == want
	case want > MaxTimeout:
		return kernel > MaxTimeout/2
	default:
		return (kernel - want).Abs() < within
	}
}

// adopt reports the entries that Bans does not yield to Adopt, and removes those that cannot be bans. After a loss of unbans it
// removes all of them: one may be a ban that has been lifted. After a step of the clock it removes those that end by that clock: one
// may be a ban that is over. They are as old as the listing.
func (e *Enforcer) adopt(entries []Entry, unclaimed map[netip.Prefix]time.Duration, age time.Duration, stepped bool) {
	var unknown, rejected []Entry
	for _, entry := range entries {
		_, free := unclaimed[entry.Prefix]
		switch {
		case !free || e.queue.has(entry.Prefix):
			continue
		case !CanBan(entry.Prefix) || e.compare.unbansLost || stepped && entry.ByWall:
			rejected = append(rejected, entry)
		case entry.Left == Forever || entry.Left-age > Expiring:
			unknown = append(unknown, entry)
		}
		delete(unclaimed, entry.Prefix) // a listing can name it twice
	}
	if len(unknown) > 0 && e.opts.Adopt != nil {
		e.opts.Adopt(unknown)
	}
	if len(rejected) == 0 {
		return
	}
	if e.opts.Rejected != nil {
		e.opts.Rejected(rejected)
	}
	for i := range rejected {
		e.queue.putIfNone(Order{Prefix: rejected[i].Prefix}) // a newer order holds
	}
}

// plausible reports whether size is the number of entries that the kernel should hold now. Bans that are about to end or have just
// ended, and orders in the queue, may count or not.
func (e *Enforcer) plausible(size int, now time.Time) bool {
	all, ending, due := e.opts.Tally(now.Add(Expiring), now.Add(e.opts.Check+Expiring))
	sure := all - ending
	ended := e.compare.due
	e.compare.due = due
	unsure, _, _, _ := e.queue.counts()
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
