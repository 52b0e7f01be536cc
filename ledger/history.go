package ledger

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"fsban/policy"
)

// The history keeps bans that have ended, with their evidence and the end's cause, bounded in number and time. Ending a ban costs
// its owner a few nanoseconds: the batch that is written later copies the evidence from the ban's frame. Of more bans that end
// between two batches than the history holds, only the last are written.

// The cause of ends that the ledger makes by itself.
const causeExpired = "expired"

// An Ending says how a ban ended.
type Ending struct {
	At     time.Time
	Cause  string
	By     string // operator, or ""
	Reason string // given by the operator
	Node   string // node of the fleet where the ban was ended, if another one
}

// An EndedBan is a ban of the history.
type EndedBan struct {
	Ban
	Ending Ending
}

// Limits of the history until SetHistory is called.
const (
	usualEnded   = 10_000
	usualHistory = 30 * 24 * time.Hour
)

// history is the part of it that is not on disk, and its limits, under the Ledger's lock.
type history struct {
	ended   []*ended // not written yet, oldest first
	writing []*ended // in the batch that is being written
	limit   int      // bans; 0: no history
	since   int64    // unix microseconds: bans that ended before are forgotten
	trim    bool     // limits have changed
}

// An ended ban is one that is not in the file's history yet. Its evidence may be in the ban's frame alone.
type ended struct {
	ban *kept
	how Ending
}

// A storedEnd is a ban in the file's history.
type storedEnd struct {
	at  place
	key recordKey
	end int64 // unix microseconds
}

// SetHistory keeps up to limit ended bans, those that ended at since or later; limit 0: none. The next batch deletes the others.
func (l *Ledger) SetHistory(since time.Time, limit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.history.since, l.history.limit, l.history.trim = since.UnixMicro(), limit, true
	l.wakeUp()
}

// End ends the ban of prefix, keeps it in the history, and returns it.
func (l *Ledger) End(prefix netip.Prefix, how Ending) (Ban, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.bans[prefix]
	if !ok {
		return Ban{}, false
	}
	l.history.add(b, how)
	l.change(prefix, nil)
	return b.Ban, true
}

// Replace records b in place of an earlier ban of the same prefix, which it keeps in the history.
func (l *Ledger) Replace(b Ban, how Ending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.bans[b.Prefix]; old != nil {
		l.history.add(old, how)
	}
	l.change(b.Prefix, &kept{Ban: b})
}

// add keeps a ban that ends, in place of the oldest that are beyond the limit. The caller holds the lock.
func (h *history) add(b *kept, how Ending) {
	if h.limit <= 0 || how.At.UnixMicro() < h.since {
		return
	}
	if len(h.ended) >= 2*h.limit {
		h.ended = slices.Clone(h.ended[len(h.ended)-h.limit+1:])
	}
	h.ended = append(h.ended, &ended{b, how})
}

// take returns the bans to write. The caller holds the lock.
func (h *history) take() []*ended {
	h.writing, h.ended = h.ended[max(0, len(h.ended)-max(h.limit, 0)):], nil
	return h.writing
}

// giveBack makes the bans of a failed batch pending again. The caller holds the lock.
func (h *history) giveBack() {
	all := slices.Concat(h.writing, h.ended)
	h.ended = all[max(0, len(all)-2*h.limit):]
}

// forget deletes the oldest bans of the file's history beyond limit, and those that ended before since. whole: it looks at each of
// them, because a step of the clock puts some out of order; else at the oldest alone.
func (c *contents) forget(since int64, limit int, whole bool) {
	n := max(0, len(c.history)-limit)
	for n < len(c.history) && c.history[n].end < since {
		n++
		c.expired = true
	}
	for _, e := range c.history[:n] {
		c.live -= e.at.size()
	}
	c.history = c.history[n:]
	if !whole || !slices.ContainsFunc(c.history, func(e storedEnd) bool { return e.end < since }) {
		return
	}
	kept := make([]storedEnd, 0, len(c.history)) // a reader may have the old one
	for _, e := range c.history {
		if e.end >= since {
			kept = append(kept, e)
			continue
		}
		c.live -= e.at.size()
		c.expired = true
	}
	c.history = kept
}

// writeEnded writes bans that have ended, with their evidence.
func (l *Ledger) writeEnded(w *frameWriter, list []*ended) []storedEnd {
	stored := make([]storedEnd, 0, len(list))
	for _, e := range list {
		l.mu.RLock()
		ban, at := e.ban.Ban, e.ban.at
		l.mu.RUnlock()
		evidence := l.evidenceOf(&ban, at)
		w.begin(frameEnded)
		w.buf = AppendTexts(AppendTime(w.buf, e.how.At), e.how.Cause, e.how.By, e.how.Reason, e.how.Node)
		key := keyOf(ban.Prefix)
		w.buf = append(appendBan(append(w.buf, key[:]...), &ban), evidence...)
		stored = append(stored, storedEnd{w.end(), key, e.how.At.UnixMicro()})
	}
	return stored
}

// evidenceOf returns the evidence of a ban in the encoding of the file, which may be in an earlier frame alone.
func (l *Ledger) evidenceOf(ban *Ban, at place) []byte {
	if ban.Evidence == nil && at != 0 {
		if r, err := storedEvidence(l.store.file, at); err == nil {
			return r.Data
		}
	}
	return appendEvidence(nil, ban.Evidence)
}

// readEnded reads a ban of the history, and leaves its evidence in r.
func readEnded(r *Reader) (e EndedBan, err error) {
	e.Ending.At = r.Time()
	e.Ending.Cause, e.Ending.By, e.Ending.Reason, e.Ending.Node = r.Text(), r.Text(), r.Text(), r.Text()
	e.Ban, err = readBan(r)
	return e, err
}

// A Query selects bans of the history.
type Query struct {
	Prefix   netip.Prefix         // bans that overlap it; not valid: all
	Since    time.Time            // bans that ended then or later
	Until    time.Time            // bans that ended before; zero: no limit
	Limit    int                  // at most that many, the newest; 0: no limit
	Evidence bool                 // with evidence
	Match    func(*EndedBan) bool // further conditions; nil: none
}

func (q *Query) covers(p netip.Prefix, end int64) bool {
	return (!q.Prefix.IsValid() || q.Prefix.Overlaps(p)) && (q.Since.IsZero() || end >= q.Since.UnixMicro()) &&
		(q.Until.IsZero() || end < q.Until.UnixMicro())
}

func (q *Query) wants(e *EndedBan) bool { return q.Match == nil || q.Match(e) }

// History returns ended bans, the newest first, and how many could not be read. It reads the file, and waits for no batch.
func (l *Ledger) History(q Query) (list []EndedBan, unreadable int, err error) {
	for {
		l.mu.RLock()
		pending := slices.Concat(l.history.writing, l.history.ended)
		stored, file := l.stored.history, l.store.file
		l.mu.RUnlock()
		list, unreadable, err = l.query(&q, pending, stored, file)
		if err == nil || !errors.Is(err, os.ErrClosed) || l.uses(file) { // or the file was compacted meanwhile
			return list, unreadable, err
		}
	}
}

func (l *Ledger) query(q *Query, pending []*ended, stored []storedEnd, file file) (list []EndedBan, unreadable int, err error) {
	full := func() bool { return q.Limit > 0 && len(list) >= q.Limit }
	type ending struct {
		prefix netip.Prefix
		at     int64
	}
	seen := make(map[ending]bool, len(pending)) // a batch is in the file shortly before it is no longer pending
	for i := len(pending) - 1; i >= 0 && !full(); i-- {
		l.mu.RLock()
		e, at := EndedBan{pending[i].ban.Ban, pending[i].how}, pending[i].ban.at
		l.mu.RUnlock()
		seen[ending{e.Prefix, e.Ending.At.UnixMicro()}] = true
		if !q.covers(e.Prefix, e.Ending.At.UnixMicro()) || !q.wants(&e) {
			continue
		}
		switch {
		case !q.Evidence:
			e.Evidence = nil
		case e.Evidence == nil && at != 0:
			if e.Evidence, err = loadEvidence(file, at); errors.Is(err, os.ErrClosed) {
				return nil, 0, err
			}
		}
		list = append(list, e)
	}
	for i := len(stored) - 1; i >= 0 && !full(); i-- {
		prefix := stored[i].key.prefix()
		if !q.covers(prefix, stored[i].end) || seen[ending{prefix, stored[i].end}] {
			continue
		}
		e, err := readStored(file, stored[i].at, q.Evidence)
		switch {
		case errors.Is(err, errDamaged), errors.Is(err, errBan), errors.Is(err, syscall.EIO):
			unreadable++
		case err != nil:
			return nil, 0, fmt.Errorf("read the history in the state file %s: %w", l.store.path, err)
		case q.wants(&e):
			list = append(list, e)
		}
	}
	return list, unreadable, nil
}

// readStored reads the ban of the history at a place.
func readStored(file file, at place, evidence bool) (EndedBan, error) {
	payload, err := readFrame(file, at)
	if err != nil {
		return EndedBan{}, err
	}
	r := Reader{Data: payload[1:]}
	e, err := readEnded(&r)
	if err == nil && evidence {
		var attempts []policy.Attempt
		attempts, err = readEvidence(&r)
		e.Evidence = attempts
	}
	return e, err
}
