package ledger

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"go.etcd.io/bbolt"
)

// A Shelf keeps one record for each prefix, of what must survive a restart beside bans. Whoever puts records there bounds
// their number.
type Shelf string

// The shelves.
const (
	Known    Shelf = "known"    // known-good addresses
	Offences Shelf = "offences" // past bans
	Allowed  Shelf = "allowed"  // what operators have put on the never-ban list

	// What was taken back, as long as another node of the fleet may not know it.
	Unbanned   Shelf = "unbanned"
	Disallowed Shelf = "disallowed"
)

// A slot is a prefix's place on a shelf.
type slot struct {
	shelf  Shelf
	prefix netip.Prefix
}

// Keep puts a record in the place of an earlier one; nil removes it. It is written with the next batch.
func (l *Ledger) Keep(shelf Shelf, prefix netip.Prefix, record any) error {
	var data []byte
	if record != nil {
		var err error
		if data, err = json.Marshal(record); err != nil {
			return fmt.Errorf("%s %v: %w", shelf, prefix, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records[slot{shelf, prefix}] = data
	l.wakeUp()
	return nil
}

// Records calls f for what is on the shelf in the file, by address. A record that f refuses is passed over and counted.
func (l *Ledger) Records(shelf Shelf, f func(record []byte) error) (unreadable int, err error) {
	err = l.guard(func() error {
		return l.db.View(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(shelf))
			if b == nil {
				return nil
			}
			return b.ForEach(func(k, v []byte) error {
				v, err := whole(k, v)
				if err != nil || f(v) != nil {
					unreadable++
				}
				return nil
			})
		})
	})
	if err != nil {
		return unreadable, fmt.Errorf("read %s in the state file %s: %w", shelf, l.path, err)
	}
	return unreadable, nil
}

// writeRecords puts a batch of records into the file.
func writeRecords(tx *bbolt.Tx, records map[slot][]byte) error {
	slots := make([]slot, 0, len(records))
	for s := range records {
		slots = append(slots, s)
	}
	slices.SortFunc(slots, func(a, b slot) int { return a.prefix.Compare(b.prefix) })
	for _, s := range slots {
		b, err := tx.CreateBucketIfNotExists([]byte(s.shelf))
		if err != nil {
			return err
		}
		if v := records[s]; v != nil {
			err = put(b, fileKey(s.prefix), slices.Clone(v)) // it may have to be written again
		} else {
			err = b.Delete(fileKey(s.prefix))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
