// Package ledger keeps who is banned, since when, until when, and why: in memory for whoever asks, and on disk for the
// next start. A journal beside it keeps the attempts that count towards a ban.
//
// Changes are written in batches by Run, off the path of a decision. The kernel holds a ban from its first moment, so a
// crash between the two loses nothing but the evidence: the next start finds the entry in the kernel and adopts it.
package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"fsban/policy"
)

// A Ban is one banned prefix.
type Ban struct {
	Prefix   netip.Prefix
	Since    time.Time
	Until    time.Time // zero: until somebody unbans
	Rule     string    // "operator" and "kernel" where no rule banned
	Attempts int
	Source   policy.Source
	Offence  int              // the how manieth ban of this prefix, as far as is known
	By       string           // which operator
	Reason   string           // what the operator wrote
	Node     string           // of the fleet: which one has banned
	Stamp    int64            // when it said so, by the fleet's clock; 0: it has not
	Local    bool             // it is not for the fleet
	Evidence []policy.Attempt // the last attempts, oldest first
}

// Over tells whether the ban has ended at now.
func (b *Ban) Over(now time.Time) bool { return !b.Until.IsZero() && !b.Until.After(now) }

// Left returns how long the ban lasts from now on: policy.Forever for one without end.
func (b *Ban) Left(now time.Time) time.Duration {
	if b.Until.IsZero() {
		return policy.Forever
	}
	return b.Until.Sub(now)
}

// flushEvery is how long a change may wait for company before it is written.
const flushEvery = 100 * time.Millisecond

var bucket = []byte("bans")

// A Ledger may be used from several goroutines. Bans in memory carry no evidence once it is on disk; Load fetches it.
type Ledger struct {
	path string
	db   *bbolt.DB

	mu      sync.RWMutex
	bans    map[netip.Prefix]*Ban
	ends    ends                  // of them, and of some that are gone
	v4, v6  atomic.Int64          // how many of them are of each family: for whoever must not wait
	pending map[netip.Prefix]*Ban // to be written; nil: to be deleted. Never more than prefixes changed since the last batch
	failed  error                 // of the last batch
	errors  uint64
	journal journal
	records map[slot][]byte // to be written; nil: to be deleted
	damage  error           // what the database panicked with: it is not touched any more
	setAway string
	wake    chan struct{}

	flushing sync.Mutex // batches are written in the order in which they were taken
}

// Open opens the ledger at path, making it if need be, and drops the bans that have ended at now. A file that is damaged
// is set aside under another name, which SetAside tells, and a new one begun. A file that another process holds, or that
// may not be read, is an error.
func Open(path string, now time.Time) (*Ledger, error) {
	l := &Ledger{
		path:    path,
		bans:    make(map[netip.Prefix]*Ban),
		pending: make(map[netip.Prefix]*Ban),
		records: make(map[slot][]byte),
		wake:    make(chan struct{}, 1),
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("state directory (state.directory): %w", err)
	}
	err := l.load(now)
	if err == nil {
		return l, nil
	}
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("state file %s is held by another process: is a second fsban running?", path)
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return nil, fmt.Errorf("state file (state.directory): %w", err)
	}
	l.setAway = fmt.Sprintf("%s.damaged-%d", path, now.Unix())
	if renameErr := os.Rename(path, l.setAway); renameErr != nil {
		return nil, fmt.Errorf("state file %s is damaged (%w) and cannot be set aside: %w", path, err, renameErr)
	}
	clear(l.bans)
	clear(l.pending)
	l.ends = nil
	l.v4.Store(0)
	l.v6.Store(0)
	l.damage = nil
	if err := l.load(now); err != nil {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	return l, nil
}

// load opens the file and reads every ban.
func (l *Ledger) load(now time.Time) error {
	err := l.guard(func() (err error) {
		if err := intact(l.path); err != nil {
			return err
		}
		if l.db, err = bbolt.Open(l.path, 0o600, &bbolt.Options{Timeout: time.Second}); err != nil {
			return err
		}
		return l.read(now)
	})
	if err != nil && l.db != nil {
		_ = l.Close()
	}
	return err
}

// guard makes an error of whatever a damaged file makes the database do, a fault of a mapped page included. After a panic
// the database may hold its own locks for ever: it is left as it is, until the process ends.
func (l *Ledger) guard(f func() error) (err error) {
	if err := l.damaged(); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged: %v", p)
			l.mu.Lock()
			l.damage = err
			l.mu.Unlock()
		}
	}()
	return f()
}

func (l *Ledger) damaged() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.damage
}

// read reads the bans that last, and has those dropped that are over. It writes to a new file alone: a disk that is full keeps
// nobody from starting.
func (l *Ledger) read(now time.Time) error {
	buckets := [][]byte{bucket, journalBucket, metaBucket}
	isNew := false
	err := l.db.View(func(tx *bbolt.Tx) error {
		isNew = slices.ContainsFunc(buckets, func(name []byte) bool { return tx.Bucket(name) == nil })
		return nil
	})
	if err == nil && isNew {
		err = l.db.Update(func(tx *bbolt.Tx) error {
			for _, name := range buckets {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	return l.db.View(func(tx *bbolt.Tx) error {
		l.openJournal(tx)
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
			v, err := whole(k, v)
			if err != nil {
				return fmt.Errorf("damaged: ban %x: %w", k, err)
			}
			ban, err := readBan(k, v, false)
			if err != nil {
				return fmt.Errorf("ban %x: %w", k, err)
			}
			if ban.Over(now) {
				l.change(ban.Prefix, nil)
				return nil
			}
			l.put(ban.Prefix, ban)
			return nil
		})
	})
}

// SetAside returns where a damaged file was moved by Open, or "".
func (l *Ledger) SetAside() string { return l.setAway }

// Add records b, in place of an earlier ban of the same prefix.
func (l *Ledger) Add(b Ban) {
	l.mu.Lock()
	l.change(b.Prefix, &b)
	l.mu.Unlock()
}

// Remove ends the ban of prefix and returns it.
func (l *Ledger) Remove(prefix netip.Prefix) (Ban, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.bans[prefix]
	if !ok {
		return Ban{}, false
	}
	l.change(prefix, nil)
	return *b, true
}

// change makes b, or nothing, the ban of prefix, and has that written. The caller holds the lock.
func (l *Ledger) change(prefix netip.Prefix, b *Ban) {
	l.put(prefix, b)
	l.pending[prefix] = b
	l.wakeUp()
}

func (l *Ledger) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Ledger) put(prefix netip.Prefix, b *Ban) {
	before := len(l.bans)
	if b == nil {
		delete(l.bans, prefix)
	} else {
		l.expect(b)
		l.bans[prefix] = b
	}
	count := &l.v6
	if prefix.Addr().Is4() {
		count = &l.v4
	}
	count.Add(int64(len(l.bans) - before))
}

// Get returns the ban of exactly prefix.
func (l *Ledger) Get(prefix netip.Prefix) (Ban, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	b, ok := l.bans[prefix]
	if !ok {
		return Ban{}, false
	}
	return *b, true
}

// ErrNotBanned stands behind what Load returns where there is no ban, or no longer.
var ErrNotBanned = errors.New("not banned")

// Load returns the ban of prefix with its evidence.
func (l *Ledger) Load(prefix netip.Prefix) (Ban, error) {
	ban, ok := l.Get(prefix)
	if !ok {
		return Ban{}, fmt.Errorf("%v is %w", prefix, ErrNotBanned)
	}
	if ban.Evidence != nil {
		return ban, nil
	}
	stored := new(Ban)
	err := l.guard(func() error {
		return l.db.View(func(tx *bbolt.Tx) (err error) {
			key := fileKey(prefix)
			v := tx.Bucket(bucket).Get(key)
			if v == nil {
				return nil
			}
			if v, err = whole(key, v); err == nil {
				stored, err = readBan(key, v, true)
			}
			return err
		})
	})
	if err != nil {
		return ban, fmt.Errorf("read the evidence against %v: %w", prefix, err)
	}
	if stored.Since.Equal(ban.Since) { // the file may have an earlier ban still
		ban.Evidence = stored.Evidence
	}
	return ban, nil
}

// List returns all bans, by start.
func (l *Ledger) List() []Ban {
	l.mu.RLock()
	list := make([]Ban, 0, len(l.bans))
	for _, b := range l.bans {
		list = append(list, *b)
	}
	l.mu.RUnlock()
	slices.SortFunc(list, func(a, b Ban) int {
		return cmp.Or(a.Since.Compare(b.Since), a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return list
}

// Each calls f for every ban until it returns false: prefix and end.
func (l *Ledger) Each(f func(netip.Prefix, time.Time) bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for p, b := range l.bans {
		if !f(p, b.Until) {
			return
		}
	}
}

// Count returns the number of bans by family. It waits for nobody.
func (l *Ledger) Count() (v4, v6 int) { return int(l.v4.Load()), int(l.v6.Load()) }

// Failures returns how many writes have failed, and why the last write did; nil when it did not.
func (l *Ledger) Failures() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.errors, l.failed
}

// Run writes changes until ctx ends, then the last of them, and closes the file.
func (l *Ledger) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			err := l.Flush()
			return errors.Join(err, l.Close())
		case <-l.wake:
		}
		timer.Reset(flushEvery)
		select {
		case <-ctx.Done():
		case <-timer.C:
			if err := l.Flush(); err != nil {
				l.retry(ctx, timer)
			}
		}
	}
}

// retry waits before a batch that failed is tried again.
func (l *Ledger) retry(ctx context.Context, timer *time.Timer) {
	timer.Reset(50 * flushEvery)
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	l.wakeUp()
}

// Close closes a ledger whose Run was never called.
func (l *Ledger) Close() error {
	if l.damaged() != nil {
		return nil
	}
	return l.db.Close()
}

// Flush writes what is pending. What could not be written stays pending.
func (l *Ledger) Flush() error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	batch := l.pending
	l.pending = make(map[netip.Prefix]*Ban)
	sealed := l.journal.take()
	records := l.records
	l.records = make(map[slot][]byte)
	l.mu.Unlock()
	if len(batch) == 0 && len(records) == 0 && sealed.empty() {
		return nil
	}
	err := l.write(batch, records, &sealed)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = err
	if err != nil {
		l.errors++
		for p, b := range batch {
			if _, newer := l.pending[p]; !newer {
				l.pending[p] = b
			}
		}
		for s, r := range records {
			if _, newer := l.records[s]; !newer {
				l.records[s] = r
			}
		}
		l.journal.giveBack(sealed)
		return err
	}
	for _, b := range batch {
		if b != nil {
			b.Evidence = nil
		}
	}
	return nil
}

func (l *Ledger) write(batch map[netip.Prefix]*Ban, records map[slot][]byte, sealed *seal) error {
	err := l.guard(func() error {
		return l.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(bucket)
			// In order: each key out of order moves all those behind it.
			for _, p := range slices.SortedFunc(maps.Keys(batch), netip.Prefix.Compare) {
				ban := batch[p]
				if ban == nil {
					if err := b.Delete(fileKey(p)); err != nil {
						return err
					}
					continue
				}
				if err := put(b, fileKey(p), appendBan(nil, ban)); err != nil {
					return err
				}
			}
			if err := writeRecords(tx, records); err != nil {
				return err
			}
			return l.writeJournal(tx, sealed)
		})
	})
	if err != nil {
		return fmt.Errorf("write to the state file %s: %w", l.path, err)
	}
	return nil
}
