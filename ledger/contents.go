package ledger

import (
	"container/heap"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"time"
)

// contents is the index of the state file: the places of all frames that count, except those of bans, which each ban holds.
type contents struct {
	shelves map[Shelf]map[recordKey]place
	chunks  []storedChunk // of the journal, oldest first
	entries int           // in them
	seal    place         // the newest
	history []storedEnd   // ended bans, oldest first
	expired bool          // the file has frames of ended bans that were kept long enough
	made    time.Time     // when this process has written the file as a whole; zero: never
	live    int64         // bytes of all frames that count, about
	damaged bool          // the file has damaged frames
	aside   bool          // a damaged file has its second name
}

// A storedChunk is some entries of the journal on disk.
type storedChunk struct {
	at      place
	newest  int64 // unix microseconds, of the newest entry
	entries int
}

func newContents() contents {
	return contents{shelves: make(map[Shelf]map[recordKey]place)}
}

// forgetWithin is how long the file may hold the frames of ended bans after the time that they are kept.
const forgetWithin = 24 * time.Hour

func (c *contents) addEnded(e storedEnd) {
	c.history = append(c.history, e)
	c.live += e.at.size()
}

// usualSlack is how much longer than twice its live contents the file may become.
const usualSlack = 4 << 20

// retryEvery is the pause after a compaction that failed.
const retryEvery = time.Minute

// keep notes where the record of a shelf is; 0: there is none.
func (c *contents) keep(shelf Shelf, key recordKey, at place) {
	on := c.shelves[shelf]
	c.live += at.size() - on[key].size()
	switch {
	case at == 0:
		delete(on, key)
	case on == nil:
		c.shelves[shelf] = map[recordKey]place{key: at}
	default:
		on[key] = at
	}
}

// sealed adds chunks with their seal, and drops chunks that are too old or too many.
func (c *contents) sealed(chunks []storedChunk, seal place, since int64) {
	c.live += seal.size() - c.seal.size()
	c.seal = seal
	for _, chunk := range chunks {
		c.live += chunk.at.size()
		c.entries += chunk.entries
	}
	c.chunks = append(c.chunks, chunks...)
	for len(c.chunks) > 0 && (c.entries > MaxJournal || c.chunks[0].newest < since) {
		c.live -= c.chunks[0].at.size()
		c.entries -= c.chunks[0].entries
		c.chunks = c.chunks[1:]
	}
}

// load reads the file, of size bytes, moves the bans by the step of the clock, and drops those that are over at now.
func (l *Ledger) load(size int64, now time.Time, stepped func(state []byte) time.Duration) error {
	begin := make([]byte, min(size, int64(len(header))))
	if _, err := l.store.file.ReadAt(begin, 0); err != nil {
		clear(begin)
	}
	scan := newScanner(l.store.file, int64(len(header)), size)
	r := replay{l: l, names: make(map[string]string)}
	frames := 0
	for payload, at := scan.next(); payload != nil; payload, at = scan.next() {
		frames++
		if r.apply(payload, at) != nil {
			r.damaged++
		}
	}
	if scan.err != nil {
		return scan.err
	}
	r.damaged += scan.damaged
	l.store.dirty = true
	if size >= int64(len(header)) {
		l.store.end = scan.valid
	}
	if string(begin) != header[:len(begin)] {
		if frames == 0 {
			return l.startAnew(now)
		}
		r.damaged++
	}
	if l.stored.seal == 0 && r.damaged > 0 { // the seal was damaged: entries count without their state
		l.stored.sealed(r.unsealed, 0, math.MinInt64)
	}
	if stepped != nil {
		l.Step(stepped(l.sealed()))
	}
	l.restored(now)
	if r.damaged == 0 {
		return nil
	}
	l.opened.skipped, l.stored.damaged = r.damaged, true
	l.store.end, l.store.dirty = size, false // until it is replaced, nothing in the damaged file is overwritten
	_ = l.keepDamaged(now, false)            // else right before it is replaced
	l.tryCompact()
	return nil
}

// sealed returns the state sealed with the journal, or nil. It is for load.
func (l *Ledger) sealed() []byte {
	if l.stored.seal == 0 {
		return nil
	}
	payload, err := readFrame(l.store.file, l.stored.seal)
	if err != nil {
		return nil // Journal reports it
	}
	r := Reader{Data: payload[1:]}
	r.Varint()
	return r.Data
}

// restored completes the bans that were read: it removes those that are over at now, and orders the others by their ends.
func (l *Ledger) restored(now time.Time) {
	read := l.ends // in the order of the file, which is that of memory; with bans that were replaced or removed
	l.ends = l.ends[:0]
	for _, k := range read {
		switch {
		case k.Over(now) && l.bans[k.Prefix] == k:
			l.history.add(k, Ending{At: k.Until, Cause: causeExpired})
			l.put(k.Prefix, nil)
			l.pending[k.Prefix] = nil
		case !k.Over(now):
			l.ends = append(l.ends, k)
		}
	}
	clear(read[len(l.ends):])
	l.boundEnds()
	heap.Init(&l.ends)
}

// keepDamaged gives the file its second name. replaced: it loses the first one at once. A file that somebody has deleted is not kept.
func (l *Ledger) keepDamaged(now time.Time, replaced bool) error {
	aside, err := l.store.setAside(now, replaced)
	switch {
	case replaced && errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%s is damaged and cannot be set aside: %w", l.store.path, err)
	}
	l.mu.Lock()
	l.opened.aside, l.stored.aside = aside, true
	l.mu.Unlock()
	return nil
}

// startAnew puts an empty file in the place of one that has no frames.
func (l *Ledger) startAnew(now time.Time) error {
	r, err := l.store.replacement()
	if err != nil {
		return err
	}
	var old file
	if err = l.keepDamaged(now, true); err == nil {
		old, err = l.store.take(r)
	}
	if err != nil {
		r.discard()
		return err
	}
	l.stored.aside = false // it concerns the old file
	return old.Close()
}

// A replay applies the frames of a file to a Ledger that is being opened.
type replay struct {
	l        *Ledger
	names    map[string]string
	unsealed []storedChunk // not followed by a seal yet
	damaged  int           // frames that make no sense
}

var errFrame = errors.New("damaged: a record of an unknown kind")

func (r *replay) apply(payload []byte, at place) error {
	data := Reader{Data: payload[1:], names: r.names}
	switch payload[0] {
	case frameBan:
		b, err := readBan(&data)
		if err == nil {
			k := &kept{Ban: b, at: at}
			r.l.put(b.Prefix, k)
			r.l.stored.live += at.size()
			if !k.Until.IsZero() {
				r.l.ends = append(r.l.ends, k)
			}
		}
		return err
	case frameUnban:
		if p := data.key().prefix(); p.IsValid() {
			r.l.put(p, nil)
			return nil
		}
	case frameChunk:
		newest := data.Varint()
		r.unsealed = append(r.unsealed, storedChunk{at, newest, entriesIn(data.Data)})
		return nil
	case frameSeal:
		r.l.stored.sealed(r.unsealed, at, data.Varint())
		r.unsealed = nil
		return nil
	case frameEnded:
		e, err := readEnded(&data)
		if err == nil {
			r.l.stored.addEnded(storedEnd{at, keyOf(e.Prefix), e.Ending.At.UnixMicro()})
			if b := r.l.bans[e.Prefix]; b != nil && b.Since.Equal(e.Since) && b.Rule == e.Rule { // its end was cut off
				r.l.put(e.Prefix, nil)
			}
		}
		return err
	case frameKeep, frameDrop:
		shelf, key := Shelf(data.Text()), data.key()
		if payload[0] == frameDrop {
			at = 0
		}
		if key.prefix().IsValid() && !data.Bad {
			r.l.stored.keep(shelf, key, at)
			return nil
		}
	}
	return errFrame
}
