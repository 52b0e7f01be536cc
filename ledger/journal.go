package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// The journal holds the attempts that count, so that a restart does not give an attacker a fresh start. It is written up
// to a seal: with what the owner needs to go on from exactly there (how far a log was read, for example), in one
// transaction. So after a crash either both are on disk, or neither.

// MaxJournal is how many entries are kept; of more, the oldest go, some of them at a time.
const MaxJournal = 100_000

var (
	journalBucket = []byte("journal")
	metaBucket    = []byte("meta")
	stateKey      = []byte("state")
)

// journal is a Ledger's part of it, under its lock.
type journal struct {
	noted  []chunk // since the last seal
	sealed []chunk // up to the last seal, and not written yet
	kept   int     // entries in both
	state  []byte  // of the last seal; nil: written
	since  time.Time

	next uint64 // number of the next entry to be written; the writer's own
	size uint64 // entries on disk; the writer's own
	lost uint64 // entries dropped because the disk did not take them
}

// Note adds an entry at its time. It is written with the next seal.
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

// Seal has everything noted so far written, together with state. Entries from before since are of no use any more.
func (l *Ledger) Seal(state []byte, since time.Time) {
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

// Journal calls f for each entry, oldest first, and returns the state that was sealed with them; nil when there is none.
// What cannot be read, up to 8 KiB of entries each, is passed over and counted, and so is the state.
func (l *Ledger) Journal(f func(Entry)) (state []byte, unreadable int, err error) {
	err = l.guard(func() error {
		return l.db.View(func(tx *bbolt.Tx) error {
			if b := tx.Bucket(metaBucket); b != nil {
				if v := b.Get(stateKey); v != nil {
					v, err := whole(stateKey, v)
					if state = slices.Clone(v); err != nil {
						unreadable++
					}
				}
			}
			b := tx.Bucket(journalBucket)
			if b == nil {
				return nil
			}
			return b.ForEach(func(k, v []byte) error {
				v, err := whole(k, v)
				if err != nil || decode(v, f) != nil {
					unreadable++
				}
				return nil
			})
		})
	})
	if err != nil {
		return nil, unreadable, fmt.Errorf("read the journal in the state file %s: %w", l.path, err)
	}
	return state, unreadable, nil
}

// bound drops the oldest entries where there are too many.
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

// A seal is what one batch writes of the journal.
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

// giveBack takes up again what could not be written.
func (j *journal) giveBack(s seal) {
	j.sealed = append(s.chunks, j.sealed...)
	j.kept += s.entries
	if j.state == nil {
		j.state = s.state
	}
	j.bound()
}

func (s *seal) empty() bool { return len(s.chunks) == 0 && s.state == nil }

// openJournal finds out where the journal ends.
func (l *Ledger) openJournal(tx *bbolt.Tx) {
	b := tx.Bucket(journalBucket)
	first, _ := b.Cursor().First()
	last, v := b.Cursor().Last()
	l.journal.next, l.journal.size = 1, 0
	if len(first) == journalKeyLen && len(last) == journalKeyLen {
		l.journal.next = binary.BigEndian.Uint64(last) + entries(last, v)
		l.journal.size = l.journal.next - binary.BigEndian.Uint64(first)
	}
}

// entries is how many numbers a chunk of the file takes.
func entries(k, v []byte) uint64 {
	data, err := whole(k, v)
	if err != nil {
		return 1
	}
	return uint64(max(entriesIn(data), 1))
}

// The key of a chunk is the number of its first entry and the time of its newest.
const journalKeyLen = 16

func journalKey(number uint64, at time.Time) []byte {
	k := binary.BigEndian.AppendUint64(make([]byte, 0, journalKeyLen), number)
	return binary.BigEndian.AppendUint64(k, uint64(at.UnixMicro()))
}

// write puts s into the file, and drops what is too old or too much.
func (l *Ledger) writeJournal(tx *bbolt.Tx, s *seal) error {
	b := tx.Bucket(journalBucket)
	b.FillPercent = 0.9 // it only grows at its end
	next, size := l.journal.next, l.journal.size
	for i := range s.chunks {
		c := &s.chunks[i]
		if err := put(b, journalKey(next, c.newest), c.data); err != nil {
			return err
		}
		next += uint64(entriesIn(c.data))
	}
	size += uint64(s.entries)
	var gone [][]byte // first all of them: whoever deletes the first one, again and again, walks over ever more empty pages
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		old := len(k) != journalKeyLen || int64(binary.BigEndian.Uint64(k[8:])) < s.since.UnixMicro()
		if !old && size <= MaxJournal {
			break
		}
		gone = append(gone, slices.Clone(k))
		size -= min(size, entries(k, v))
	}
	for _, k := range gone {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	if s.state != nil {
		if err := put(tx.Bucket(metaBucket), stateKey, slices.Clone(s.state)); err != nil { // it may have to be written again
			return err
		}
	}
	tx.OnCommit(func() { l.journal.next, l.journal.size = next, size })
	return nil
}
