package book

import (
	"net/netip"
	"sync"
	"time"

	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// An inbox carries entries of the kernel from the enforcer's goroutine, which must not wait, to the loop. It holds one entry a
// prefix, and so no more than the kernel does. Entries that are in it when the loop ends are found again by the next start.
type inbox struct {
	ready   chan struct{}
	mu      sync.Mutex
	found   map[netip.Prefix]reported // entries that the ledger does not know
	amended map[netip.Prefix]reported // ends that somebody has changed in the kernel
}

// reported is an entry of the kernel as it was reported.
type reported struct {
	until    time.Time // with a monotonic reading, which a step of the clock does not change; zero: no end
	expected time.Time // end of the ban by the ledger, as of the comparison
}

// end returns the end of the entry by the clock that shows now.
func (r *reported) end(now time.Time) time.Time {
	if r.until.IsZero() {
		return r.until
	}
	return now.Add(time.Until(r.until))
}

func newInbox() inbox {
	return inbox{ready: make(chan struct{}, 1), found: make(map[netip.Prefix]reported), amended: make(map[netip.Prefix]reported)}
}

func (i *inbox) put(to map[netip.Prefix]reported, entries []firewall.Entry) {
	now := time.Now()
	i.mu.Lock()
	for _, e := range entries {
		r := reported{expected: e.Expected}
		if e.Left != firewall.Forever {
			r.until = now.Add(e.Left)
		}
		to[e.Prefix] = r
	}
	i.mu.Unlock()
	i.signal()
}

func (i *inbox) signal() {
	select {
	case i.ready <- struct{}{}:
	default:
	}
}

// takeAtOnce bounds how many entries the loop takes before it decides on attempts again: a few milliseconds.
const takeAtOnce = 1000

// take returns some entries of one map, and whether there are more.
func (i *inbox) take(from map[netip.Prefix]reported) (entries map[netip.Prefix]reported, more bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	entries = make(map[netip.Prefix]reported, min(len(from), takeAtOnce))
	for p, r := range from {
		if len(entries) == takeAtOnce {
			return entries, true
		}
		entries[p] = r
		delete(from, p)
	}
	return entries, false
}

// Found reports entries that the kernel holds and the ledger does not: left by an earlier run, loaded from a saved set, or
// added by hand. The loop adopts or removes them. Any goroutine may call it; it does not wait for the loop.
func (b *Book) Found(entries []firewall.Entry) { b.inbox.put(b.inbox.found, entries) }

// Amended reports ends of bans that somebody has changed in the kernel, as Found does.
func (b *Book) Amended(entries []firewall.Entry) { b.inbox.put(b.inbox.amended, entries) }

// Ready is signalled when entries were reported: call TakeKernel then, in the loop's goroutine.
func (b *Book) Ready() <-chan struct{} { return b.inbox.ready }

// TakeKernel adopts the entries of the kernel that pass the checks, and removes the others from it: an address that is allowed
// or on the never-ban list, that was unbanned, a prefix too wide, and entries beyond the limit. Ends that were changed in the
// kernel are taken over, unless the ban has changed since.
func (b *Book) TakeKernel(now time.Time) {
	found, moreFound := b.inbox.take(b.inbox.found)
	b.adopt(found, now)
	amended, moreAmended := b.inbox.take(b.inbox.amended)
	b.amend(amended, now)
	if moreFound || moreAmended {
		b.inbox.signal()
	}
}

func (b *Book) adopt(entries map[netip.Prefix]reported, now time.Time) {
	adopted, removed := 0, 0
	var first netip.Prefix
	for p, r := range entries {
		e := Entry{Ban: ledger.Ban{Prefix: p, Since: now, Until: r.end(now), Rule: RuleKernel, Source: policy.Kernel}, Origin: InKernel}
		if _, known := b.ledger.Get(p); known || e.Ban.Over(now) {
			continue // banned by now, or the kernel has ended it
		}
		if r := b.checkFound(&e); r != nil {
			removed++
			b.firewall.Unban(p, now)
			b.recorder.Removed(r.Reason)
			if removed <= maxRemovedLogged {
				b.log.Warn("removed from the kernel", "addr", p, "reason", string(r.Reason), "error", r.Text)
			}
			continue
		}
		adopted, first = adopted+1, p
		b.put(&e)
		b.recorder.Adopted()
	}
	if removed > maxRemovedLogged {
		b.log.Warn("removed more entries from the kernel", "entries", removed-maxRemovedLogged)
	}
	if adopted > 0 {
		b.log.Warn("adopted bans that were in the kernel and not in the state file", "bans", adopted, "first", first)
	}
}

// maxRemovedLogged bounds the log lines of one batch of entries.
const maxRemovedLogged = 20

// checkFound is check with the capacity: an entry that nobody knows evicts no ban.
func (b *Book) checkFound(e *Entry) *Refusal {
	if r := b.check(e); r != nil {
		return r
	}
	if held, limit, _ := b.usage(e.Ban.Prefix.Addr().Is4()); held >= limit {
		return refuse(Full, "%d bans are in force already", limit)
	}
	return nil
}

func (b *Book) amend(entries map[netip.Prefix]reported, now time.Time) {
	var first netip.Prefix
	n := 0
	for p, r := range entries {
		if ban, ok := b.ledger.Get(p); ok && !ban.Over(now) && b.ledger.Amend(p, r.expected, r.end(now)) {
			first, n = p, n+1
		}
	}
	if n > 0 {
		b.log.Warn("took over ends of bans that were changed in the kernel", "bans", n, "first", first)
	}
}
