package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// The journal holds the attempts that count, so that a restart does not give an attacker a fresh start. It is written up
// to a seal, which holds the state that its owner needs to continue from exactly there, such as the position in a log.
// Entries count only with the seal behind them: after a crash either both are on disk, or neither.

// MaxJournal is how many entries are kept. Beyond that the oldest are dropped, some at a time.
const MaxJournal = 100_000

// journal is the part of it that is not on disk, under the Ledger's lock.
type journal struct {
	noted  []chunk // since the last seal
	sealed []chunk // up to the last seal, and not written yet
	kept   int     // entries in both
	state  []byte  // of the last seal; nil: written
	since  time.Time
	lost   uint64 // entries dropped because the disk did not take them
}

// Note adds an entry with its time. It is written with the next seal.
func (l *Ledger) Note(e Entry, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := &l.journal
	if n := len(j.noted); n == 0 || !j.noted[n-1].add(&e, at) {
		j.noted = append(j.noted, chunk{})
		j.noted[n].add(&e, at)
	}
	j.kept++
	j.bound()
}

// Seal has everything noted so far written, together with state. Entries from before since are not needed any more. A state of
// more than 8 MiB is not kept.
func (l *Ledger) Seal(state []byte, since time.Time) {
	if len(state) > maxRecord/2 {
		state = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	j := &l.journal
	j.sealed = append(j.sealed, j.noted...)
	j.noted = nil
	j.state, j.since = state, since
	l.wakeUp()
}

// Lost returns how many entries were dropped because the disk did not take them.
func (l *Ledger) Lost() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.journal.lost
}

// Journal calls f for each entry, oldest first, and returns the state that was sealed with them; nil if there is none. Up to
// 8 KiB of entries that cannot be read are skipped together, and counted as one, as is the state.
func (l *Ledger) Journal(f func(Entry)) (state []byte, unreadable int, err error) {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	read := func(p place) ([]byte, error) {
		payload, err := readFrame(l.store.file, p)
		if err == nil {
			r := Reader{Data: payload[1:]}
			r.Varint()
			return r.Data, nil
		}
		unreadable++
		if errors.Is(err, errDamaged) || errors.Is(err, syscall.EIO) {
			return nil, nil
		}
		return nil, fmt.Errorf("read the journal in the state file %s: %w", l.store.path, err)
	}
	if l.stored.seal != 0 {
		if state, err = read(l.stored.seal); err != nil {
			return nil, unreadable, err
		}
	}
	for _, c := range l.stored.chunks {
		data, err := read(c.at)
		if err != nil {
			return nil, unreadable, err
		}
		if data != nil && decode(data, f) != nil {
			unreadable++
		}
	}
	if len(state) == 0 {
		state = nil
	}
	return state, unreadable, nil
}

// bound drops the oldest entries if there are too many.
func (j *journal) bound() {
	for j.kept > MaxJournal {
		from := &j.sealed
		if len(j.sealed) == 0 {
			from = &j.noted
		}
		n := entriesIn((*from)[0].data)
		(*from)[0] = chunk{}
		*from = (*from)[1:]
		j.kept -= n
		j.lost += uint64(n)
	}
}

// A seal is the part of the journal that one batch writes.
type seal struct {
	chunks  []chunk
	entries int
	state   []byte
	since   time.Time
}

func (j *journal) take() seal {
	s := seal{chunks: j.sealed, state: j.state, since: j.since}
	for i := range s.chunks {
		s.entries += entriesIn(s.chunks[i].data)
	}
	j.kept -= s.entries
	j.sealed, j.state = nil, nil
	return s
}

// giveBack returns a seal that could not be written.
func (j *journal) giveBack(s seal) {
	j.sealed = append(s.chunks, j.sealed...)
	j.kept += s.entries
	if j.state == nil {
		j.state = s.state
	}
	j.bound()
}

func (s *seal) empty() bool { return len(s.chunks) == 0 && s.state == nil }

// writeSeal writes s and returns the places of its chunks and of the seal itself.
func writeSeal(w *frameWriter, s *seal) (chunks []storedChunk, sealed place) {
	for i := range s.chunks {
		c := storedChunk{newest: s.chunks[i].newest.UnixMicro(), entries: entriesIn(s.chunks[i].data)}
		w.begin(frameChunk)
		w.buf = append(binary.AppendVarint(w.buf, c.newest), s.chunks[i].data...)
		c.at = w.end()
		chunks = append(chunks, c)
	}
	w.begin(frameSeal)
	w.buf = append(binary.AppendVarint(w.buf, s.since.UnixMicro()), s.state...)
	return chunks, w.end()
}
