package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"syscall"
)

// A Shelf keeps one record for each prefix that must survive a restart. Its user bounds the number of records, and deletes
// each that it forgets itself: with Keep, or later with Sweep.
type Shelf string

// The shelves.
const (
	Known    Shelf = "known"    // known-good addresses
	Offences Shelf = "offences" // past bans
	Allowed  Shelf = "allowed"  // prefixes that operators have put on the never-ban list

	// Tombstones, until every node of the fleet has seen the withdrawal.
	Unbanned   Shelf = "unbanned"
	Disallowed Shelf = "disallowed"
)

// A slot is a prefix's place on a shelf.
type slot struct {
	shelf  Shelf
	prefix netip.Prefix
}

// Keep puts a record, as JSON, in the place of an earlier one; nil removes it. It is written with the next batch.
func (l *Ledger) Keep(shelf Shelf, prefix netip.Prefix, record any) error {
	var data []byte
	if record != nil {
		var err error
		if data, err = json.Marshal(record); err != nil {
			return fmt.Errorf("%s %v: %w", shelf, prefix, err)
		}
		if len(data) > maxRecord/2 {
			return fmt.Errorf("%s %v: a record of %d bytes is too long", shelf, prefix, len(data))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[slot{shelf, prefix}] = data
	l.wakeUp()
	return nil
}

// Sweep removes the records for which keep returns false, and returns their number.
func (l *Ledger) Sweep(shelf Shelf, keep func(netip.Prefix) bool) (removed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range l.stored.shelves[shelf] {
		at := slot{shelf, key.prefix()}
		if _, changed := l.records[at]; !changed && !keep(at.prefix) {
			l.records[at] = nil
			removed++
		}
	}
	if removed > 0 {
		l.wakeUp()
	}
	return removed
}

// Shelved returns the number of records of a shelf on disk.
func (l *Ledger) Shelved(shelf Shelf) int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.stored.shelves[shelf])
}

// Records calls f for each record of the shelf on disk, by address. A record that cannot be read, or that f refuses, is skipped
// and counted.
func (l *Ledger) Records(shelf Shelf, f func(record []byte) error) (unreadable int, err error) {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	on := l.stored.shelves[shelf]
	keys := slices.SortedFunc(maps.Keys(on), func(a, b recordKey) int { return bytes.Compare(a[:], b[:]) })
	for _, key := range keys {
		payload, err := readFrame(l.store.file, on[key])
		if err != nil && !errors.Is(err, errDamaged) && !errors.Is(err, syscall.EIO) {
			return unreadable, fmt.Errorf("read %s in the state file %s: %w", shelf, l.store.path, err)
		}
		if err != nil || f(recordOf(payload)) != nil {
			unreadable++
		}
	}
	return unreadable, nil
}

// recordOf returns the record of a frame that is valid.
func recordOf(payload []byte) []byte {
	r := Reader{Data: payload[1:]}
	r.take(r.Uvarint())
	r.key()
	return r.Data
}

// writeRecord writes a record, or that there is none, and returns its place.
func writeRecord(w *frameWriter, s slot, record []byte) place {
	kind := byte(frameDrop)
	if record != nil {
		kind = frameKeep
	}
	w.begin(kind)
	key := keyOf(s.prefix)
	w.buf = append(append(AppendTexts(w.buf, string(s.shelf)), key[:]...), record...)
	return w.end()
}
