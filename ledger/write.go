package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"fsban/policy"
)

// loadEvidence reads the evidence of the ban in the frame at p.
func loadEvidence(file file, p place) ([]policy.Attempt, error) {
	r, err := storedEvidence(file, p)
	if err != nil {
		return nil, err
	}
	return readEvidence(&r)
}

// storedEvidence returns a reader of that evidence.
func storedEvidence(file file, p place) (Reader, error) {
	payload, err := readFrame(file, p)
	if err != nil {
		return Reader{}, err
	}
	r := Reader{Data: payload[1:]}
	_, err = readBan(&r)
	return r, err
}

// A writtenBan is a ban with its frames before and after a write.
type writtenBan struct {
	ban      *kept
	was, now place
}

// write appends b to the file.
func (l *Ledger) write(b *batch) error {
	if whole, err := l.store.intact(); err != nil {
		return err
	} else if !whole { // cut or removed by somebody: write it again from memory
		if err := l.replaceFile(); err != nil {
			return err
		}
	}
	w, err := l.store.writer()
	if err != nil {
		return err
	}
	ends := l.writeEnded(w, b.ended) // first: a write that is cut off ends no ban without its record
	bans := make([]writtenBan, 0, len(b.bans))
	for _, p := range slices.SortedFunc(maps.Keys(b.bans), netip.Prefix.Compare) {
		k := b.bans[p]
		if k == nil {
			w.begin(frameUnban)
			key := keyOf(p)
			w.buf = append(w.buf, key[:]...)
			w.end()
			continue
		}
		bans = append(bans, writtenBan{k, k.at, l.writeBan(w, k)})
	}
	records := make(map[slot]place, len(b.records))
	for s, record := range b.records {
		at := writeRecord(w, s, record)
		if record == nil {
			at = 0
		}
		records[s] = at
	}
	var chunks []storedChunk
	var sealed place
	if !b.seal.empty() {
		chunks, sealed = writeSeal(w, &b.seal)
	}
	if err := l.store.commit(w); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range bans {
		l.placed(&bans[i])
	}
	for s, at := range records {
		l.stored.keep(s.shelf, keyOf(s.prefix), at)
	}
	for _, e := range ends {
		l.stored.addEnded(e)
	}
	if sealed != 0 {
		l.stored.sealed(chunks, sealed, b.seal.since.UnixMicro())
	}
	return nil
}

// placed notes where a ban is on disk. The caller holds the lock.
func (l *Ledger) placed(b *writtenBan) {
	b.ban.at, b.ban.Evidence = b.now, nil
	current := l.bans[b.ban.Prefix]
	switch {
	case current == nil:
		return
	case current != b.ban && (b.was == 0 || current.at != b.was):
		return // replaced
	case current != b.ban: // edited: its evidence is the same
		current.at = b.now
	}
	l.stored.live += b.now.size() - b.was.size()
}

// writeBan writes k with its evidence, which may be in an earlier frame alone.
func (l *Ledger) writeBan(w *frameWriter, k *kept) place {
	evidence := l.evidenceOf(&k.Ban, k.at)
	w.begin(frameBan)
	key := keyOf(k.Prefix)
	w.buf = append(appendBan(append(w.buf, key[:]...), &k.Ban), evidence...)
	return w.end()
}

// compactionDue reports whether the file is damaged, or has too many frames that do not count. The caller holds the lock.
func (l *Ledger) compactionDue() bool {
	now := time.Now()
	due := l.stored.damaged || l.store.end > 2*l.stored.live+l.slack || l.stored.expired && now.Sub(l.stored.made) > forgetWithin
	return due && !now.Before(l.notBefore)
}

// tryCompact replaces the file by one with only the frames that count.
func (l *Ledger) tryCompact() {
	err := l.replaceFile()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.compact = nil
		return
	}
	l.errors++
	l.compact = fmt.Errorf("compact the state file %s: %w", l.store.path, err)
	l.notBefore = time.Now().Add(retryEvery)
}

// replaceFile copies the frames that count to another file, which then takes the place of the state file. At any moment a power
// cut leaves one of the two, complete.
func (l *Ledger) replaceFile() error {
	r, err := l.store.replacement()
	if err != nil {
		return err
	}
	w, err := r.writer()
	if err != nil {
		r.discard()
		return err
	}
	c := compaction{l: l, w: w, contents: newContents(), names: make(map[string]string)}
	scan := newScanner(l.store.file, int64(len(header)), l.store.end)
	for payload, at := scan.next(); payload != nil && w.err == nil; payload, at = scan.next() {
		c.take(payload, at)
	}
	c.seal()
	if err = scan.err; err == nil {
		err = r.commit(w)
	}
	damaged := scan.damaged > 0 || scan.valid < l.store.end
	if err == nil && (damaged || l.stored.damaged) && !l.stored.aside {
		err = l.keepDamaged(time.Now(), true)
	}
	if err != nil {
		r.discard()
		return err
	}
	l.mu.Lock()
	old, err := l.store.take(r)
	if err == nil {
		c.adopt(damaged)
	}
	l.mu.Unlock()
	if err != nil {
		r.discard()
		return err
	}
	_ = old.Close()
	return l.store.list()
}

// A compaction copies the frames that count, in their order. Meanwhile bans may change: of a ban with a pending change all
// frames are copied.
type compaction struct {
	l        *Ledger
	w        *frameWriter
	contents contents
	names    map[string]string
	next     int          // of the journal's chunks
	ended    int          // bans of the history that were passed
	moved    []writtenBan // in the order of the file
}

// take copies a frame if it counts.
func (c *compaction) take(payload []byte, at place) {
	r := Reader{Data: payload[1:], names: c.names}
	switch payload[0] {
	case frameBan, frameUnban:
		prefix := r.key().prefix()
		c.l.mu.RLock()
		k := c.l.bans[prefix]
		_, changing := c.l.pending[prefix]
		counts := k != nil && k.at == at
		c.l.mu.RUnlock()
		if !counts && !changing {
			return
		}
		now := c.w.copy(payload)
		if payload[0] == frameBan {
			if !counts {
				k = nil
			} else {
				c.contents.live += now.size()
			}
			c.moved = append(c.moved, writtenBan{k, at, now})
		}
	case frameKeep:
		shelf, key := Shelf(r.Text()), r.key()
		if c.l.stored.shelves[shelf][key] == at {
			c.contents.keep(shelf, key, c.w.copy(payload))
		}
	case frameChunk:
		chunks := c.l.stored.chunks
		for c.next < len(chunks) && chunks[c.next].at < at {
			c.next++
		}
		if c.next < len(chunks) && chunks[c.next].at == at {
			chunk := chunks[c.next]
			chunk.at = c.w.copy(payload)
			c.contents.chunks = append(c.contents.chunks, chunk)
			c.contents.entries += chunk.entries
			c.contents.live += chunk.at.size()
		}
	case frameEnded:
		list := c.l.stored.history
		for c.ended < len(list) && list[c.ended].at < at {
			c.ended++
		}
		if c.ended < len(list) && list[c.ended].at == at {
			c.contents.addEnded(storedEnd{c.w.copy(payload), list[c.ended].key, list[c.ended].end})
		}
	case frameSeal:
		if c.l.stored.seal == at {
			c.contents.seal = c.w.copy(payload)
			c.contents.live += c.contents.seal.size()
		}
	}
}

// seal writes a seal without state if that of the journal was damaged, so that the entries still count.
func (c *compaction) seal() {
	if len(c.contents.chunks) > 0 && c.contents.seal == 0 {
		_, c.contents.seal = writeSeal(c.w, &seal{since: time.UnixMicro(c.contents.chunks[0].newest)})
	}
}

// adopt makes the ledger use the new file. Bans with damaged frames are written again, without evidence. The caller holds the
// lock.
func (c *compaction) adopt(damaged bool) {
	done := make(map[*kept]bool, len(c.l.pending))
	move := func(k *kept) {
		if k == nil || k.at == 0 || done[k] {
			return
		}
		i, found := slices.BinarySearchFunc(c.moved, k.at, func(m writtenBan, at place) int { return cmp.Compare(m.was, at) })
		if k.at = 0; found {
			k.at = c.moved[i].now
		}
		done[k] = true
	}
	for _, k := range c.l.pending { // edited copies of bans that were moved
		move(k)
	}
	for _, e := range slices.Concat(c.l.history.writing, c.l.history.ended) {
		move(e.ban)
	}
	for _, m := range c.moved {
		if m.ban != nil && !done[m.ban] {
			m.ban.at = m.now
		}
		if damaged && m.ban != nil {
			done[m.ban] = true
		}
	}
	if damaged {
		for p, k := range c.l.bans {
			if k.at != 0 && !done[k] {
				k.at = 0
				c.l.pending[p] = k
				c.l.wakeUp()
			}
		}
	}
	c.contents.made = time.Now()
	c.l.stored = c.contents
}
