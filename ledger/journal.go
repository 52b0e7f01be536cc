package ledger

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"fsban/policy"
)

// The journal holds the attempts that count, so that a restart does not give an attacker a fresh start. It is written up
// to a seal: with what the owner needs to go on from exactly there (how far a log was read, for example), in one
// transaction. So after a crash either both are on disk, or neither.

// An Entry of the journal is an attempt that was counted, or a prefix that began again from zero.
type Entry struct {
	Attempt policy.Attempt `json:"attempt,omitzero"`
	Forgot  netip.Prefix   `json:"forgot,omitzero"`
	At      time.Time      `json:"at,omitzero"` // when it was forgotten
}

// MaxJournal is how many entries are kept; of more, the oldest go.
const MaxJournal = 100_000

var (
	journalBucket = []byte("journal")
	metaBucket    = []byte("meta")
	stateKey      = []byte("state")
)

// journal is a Ledger's part of it, under its lock.
type journal struct {
	noted  []timed // since the last seal
	sealed []timed // up to the last seal, and not written yet
	state  []byte  // of the last seal; nil: written
	since  time.Time

	next uint64 // number of the next entry to be written; the writer's own
	size uint64 // entries on disk; the writer's own
	lost uint64 // entries dropped because the disk did not take them
}

type timed struct {
	Entry
	at time.Time
}

// Note adds an entry at its time. It is written with the next seal.
func (l *Ledger) Note(e Entry, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.journal.noted = append(l.journal.noted, timed{e, at})
	l.journal.bound()
}

// Seal has everything noted so far written, together with state. Entries from before since are of no use any more.
func (l *Ledger) Seal(state []byte, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	j := &l.journal
	j.sealed = append(j.sealed, j.noted...)
	clear(j.noted)
	j.noted = j.noted[:0]
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
// Entries that cannot be read are passed over and counted, and so is the state.
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
				var e Entry
				v, err := whole(k, v)
				if err != nil || json.Unmarshal(v, &e) != nil || e.Attempt.Addr.IsValid() == e.Forgot.IsValid() {
					unreadable++
					return nil
				}
				f(e)
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
	if more := len(j.sealed) + len(j.noted) - MaxJournal; more > 0 {
		j.lost += uint64(more)
		fromSealed := min(more, len(j.sealed))
		j.sealed = without(j.sealed, fromSealed)
		j.noted = without(j.noted, more-fromSealed)
	}
}

// without returns entries without the first n. It moves none of the others: under a flood that the disk does not take, one
// goes for each that comes.
func without(entries []timed, n int) []timed {
	clear(entries[:n])
	return entries[n:]
}

// A seal is what one batch writes of the journal.
type seal struct {
	entries []timed
	state   []byte
	since   time.Time
}

func (j *journal) take() seal {
	s := seal{j.sealed, j.state, j.since}
	j.sealed, j.state = nil, nil
	return s
}

// giveBack takes up again what could not be written.
func (j *journal) giveBack(s seal) {
	j.sealed = append(s.entries, j.sealed...)
	if j.state == nil {
		j.state = s.state
	}
	j.bound()
}

func (s *seal) empty() bool { return len(s.entries) == 0 && s.state == nil }

// openJournal finds out where the journal ends.
func (l *Ledger) openJournal(tx *bbolt.Tx) {
	b := tx.Bucket(journalBucket)
	first, _ := b.Cursor().First()
	last, _ := b.Cursor().Last()
	l.journal.next, l.journal.size = 1, 0
	if len(first) == journalKeyLen && len(last) == journalKeyLen {
		l.journal.next = binary.BigEndian.Uint64(last) + 1
		l.journal.size = l.journal.next - binary.BigEndian.Uint64(first)
	}
}

// The key of an entry is its number and its time.
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
	for i := range s.entries {
		v, err := json.Marshal(&s.entries[i].Entry)
		if err != nil {
			continue // it never will be written, and must not hold up the others
		}
		if err := put(b, journalKey(next, s.entries[i].at), v); err != nil {
			return err
		}
		next++
		size++
	}
	var gone [][]byte // first all of them: whoever deletes the first one, again and again, walks over ever more empty pages
	c := b.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		old := len(k) != journalKeyLen || int64(binary.BigEndian.Uint64(k[8:])) < s.since.UnixMicro()
		if !old && size <= MaxJournal {
			break
		}
		gone = append(gone, slices.Clone(k))
		size--
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
