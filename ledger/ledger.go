// Package ledger keeps bans in memory, with start, end and reason, and on disk for the next start. It also keeps
// a journal of the attempts that count towards a ban, and shelves of other records by prefix.
//
// Changes are written in batches by Run, off the path of a decision. The kernel holds a ban from its first moment, so a
// crash between the two loses nothing but the evidence: the next start finds the entry in the kernel and adopts it.
package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fsban/policy"
)

// A Ban is one banned prefix.
type Ban struct {
	Prefix   netip.Prefix
	Since    time.Time
	Until    time.Time // zero: until somebody unbans
	Rule     string    // "operator" and "kernel" for bans that no rule made
	Attempts int
	Source   policy.Source
	Local    bool             // not announced to the fleet
	Forced   bool             // an operator of this host has overridden the never-ban list
	Watched  bool             // made by an fsban that watched, and never enforced
	Offence  int              // ordinal of this ban among the prefix's bans, 0 if unknown
	By       string           // operator
	Reason   string           // given by the operator
	Node     string           // of the fleet that made the ban
	Stamp    int64            // time of its announcement, by the fleet's clock; 0: not announced
	Evidence []policy.Attempt // the last attempts, oldest first
}

// Over reports whether the ban has ended at now.
func (b *Ban) Over(now time.Time) bool { return !b.Until.IsZero() && !b.Until.After(now) }

// Left returns how long the ban lasts from now on: policy.Forever for one without end.
func (b *Ban) Left(now time.Time) time.Duration {
	if b.Until.IsZero() {
		return policy.Forever
	}
	return b.Until.Sub(now)
}

// flushEvery is how long a change may wait for others before they are written together.
const flushEvery = 100 * time.Millisecond

// A kept ban is one in memory. Once its evidence is on disk it is only there: at is the frame that has it.
type kept struct {
	Ban
	at place
}

// A Ledger may be used from several goroutines. Bans in memory carry no evidence once it is on disk; Load reads it.
type Ledger struct {
	mu        sync.RWMutex
	bans      map[netip.Prefix]*kept
	ends      ends                   // of them, and of some that were replaced
	v4, v6    atomic.Int64           // number of bans by family: reading them waits for nobody
	pending   map[netip.Prefix]*kept // to be written; nil: to be deleted. At most the prefixes changed since the last batch
	records   map[slot][]byte        // the same for shelves
	journal   journal
	history   history
	stored    contents
	store     *store // its file may be read with the lock; the rest is the flusher's
	failed    error  // of the last batch
	compact   error  // of the last compaction
	errors    uint64
	opened    damage
	slack     int64
	notBefore time.Time // no compaction before, because the last one failed
	wake      chan struct{}
	together  int // calls of Together under way

	flushing sync.Mutex // batches are written in the order in which they were taken
}

// damage describes the damage that Open found in the file.
type damage struct {
	aside   string // name under which the file is kept; empty: intact
	skipped int    // damaged stretches
}

// Open opens the ledger at path, making it if there is none, and drops the bans that have ended at now. Records that are
// damaged are skipped and counted, and the file is kept under the name that SetAside returns; so is a file of another format,
// and a new one begun. The end of a write that a power cut interrupted is no damage. Opening needs no room on the disk. A file that
// another process holds, or that may not be opened, is an error.
func Open(path string, now time.Time) (*Ledger, error) { return OpenStepped(path, now, nil) }

// OpenStepped is Open for a clock that may have been stepped since the file was written: it calls stepped with the state sealed
// with the journal, nil if there is none, and moves all bans by the result before it drops those that have ended. Nil: by nothing.
func OpenStepped(path string, now time.Time, stepped func(state []byte) time.Duration) (*Ledger, error) {
	l := &Ledger{
		bans:    make(map[netip.Prefix]*kept),
		pending: make(map[netip.Prefix]*kept),
		records: make(map[slot][]byte),
		stored:  newContents(),
		slack:   usualSlack,
		history: history{limit: usualEnded, since: now.Add(-usualHistory).UnixMicro()},
		wake:    make(chan struct{}, 1),
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("state directory (state.directory): %w", err)
	}
	s, size, err := openStore(path)
	if errors.Is(err, errHeld) {
		return nil, fmt.Errorf("state file %s is held by another process: is a second fsban running?", path)
	}
	if err == nil {
		l.store = s
		err = l.load(size, now, stepped)
	}
	if err != nil {
		if s != nil {
			_ = l.Close()
		}
		return nil, fmt.Errorf("state file (state.directory): %w", err)
	}
	return l, nil
}

// SetAside returns the name under which Open keeps a file that was damaged or of another format, or "".
func (l *Ledger) SetAside() string { return l.opened.aside }

// Skipped returns how many damaged stretches of the file, of one record or more, Open has skipped.
func (l *Ledger) Skipped() int { return l.opened.skipped }

// Add records b, in place of an earlier ban of the same prefix.
func (l *Ledger) Add(b Ban) {
	l.mu.Lock()
	l.change(b.Prefix, &kept{Ban: b})
	l.mu.Unlock()
}

// change makes b, or nothing, the ban of prefix, and has that written. The caller holds the lock.
func (l *Ledger) change(prefix netip.Prefix, b *kept) {
	if b != nil {
		l.expect(b)
	}
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

func (l *Ledger) put(prefix netip.Prefix, b *kept) {
	before := len(l.bans)
	if old := l.bans[prefix]; old != nil && (b == nil || b.at != old.at) {
		l.stored.live -= old.at.size()
	}
	if b == nil {
		delete(l.bans, prefix)
	} else {
		l.bans[prefix] = b
	}
	l.family(prefix).Add(int64(len(l.bans) - before))
}

// family returns the number of bans of prefix's family.
func (l *Ledger) family(prefix netip.Prefix) *atomic.Int64 {
	if prefix.Addr().Is4() {
		return &l.v4
	}
	return &l.v6
}

// Get returns the ban of exactly prefix.
func (l *Ledger) Get(prefix netip.Prefix) (Ban, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	b, ok := l.bans[prefix]
	if !ok {
		return Ban{}, false
	}
	return b.Ban, true
}

// ErrNotBanned is wrapped by the error of Load if the prefix is not banned.
var ErrNotBanned = errors.New("not banned")

// Load returns the ban of prefix with its evidence. If the evidence cannot be read, the ban is returned with the error.
func (l *Ledger) Load(prefix netip.Prefix) (Ban, error) {
	for {
		l.mu.RLock()
		k, ok := l.bans[prefix]
		if !ok {
			l.mu.RUnlock()
			return Ban{}, fmt.Errorf("%v is %w", prefix, ErrNotBanned)
		}
		ban, at, file := k.Ban, k.at, l.store.file
		l.mu.RUnlock()
		if ban.Evidence != nil || at == 0 {
			return ban, nil
		}
		var err error
		if ban.Evidence, err = loadEvidence(file, at); err == nil {
			return ban, nil
		}
		if !errors.Is(err, os.ErrClosed) || l.uses(file) { // or the file was compacted meanwhile
			return ban, fmt.Errorf("read the evidence against %v: %w", prefix, err)
		}
	}
}

// uses reports whether f is the state file now.
func (l *Ledger) uses(f file) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.store.file == f
}

// List returns all bans, by start.
func (l *Ledger) List() []Ban {
	l.mu.RLock()
	list := make([]Ban, 0, len(l.bans))
	for _, b := range l.bans {
		list = append(list, b.Ban)
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

// AnyWatched reports whether a ban was made by an fsban that watched, and never enforced.
func (l *Ledger) AnyWatched() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, b := range l.bans {
		if b.Watched {
			return true
		}
	}
	return false
}

// Count returns the number of bans by family, without waiting for a lock.
func (l *Ledger) Count() (v4, v6 int) { return int(l.v4.Load()), int(l.v6.Load()) }

// Failures returns how many writes have failed, and the error of the last write or the last compaction; nil if both succeeded.
func (l *Ledger) Failures() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.errors, cmp.Or(l.failed, l.compact)
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
	l.flushing.Lock()
	defer l.flushing.Unlock()
	return l.store.file.Close()
}

// A batch is a set of changes that are written together.
type batch struct {
	bans    map[netip.Prefix]*kept
	records map[slot][]byte
	ended   []*ended
	seal    seal
}

func (b *batch) empty() bool {
	return len(b.bans) == 0 && len(b.records) == 0 && len(b.ended) == 0 && b.seal.empty()
}

// Flush writes all pending changes; after an error they stay pending. Then it compacts the file if that is due. A compaction
// that fails is reported by Failures alone.
func (l *Ledger) Flush() error {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	l.mu.Lock()
	if l.together > 0 {
		l.mu.Unlock()
		return nil
	}
	b := batch{bans: l.pending, records: l.records, ended: l.history.take(), seal: l.journal.take()}
	l.pending = make(map[netip.Prefix]*kept)
	l.records = make(map[slot][]byte)
	trim := l.history.trim
	l.mu.Unlock()
	if b.empty() && !trim {
		return nil
	}
	var err error
	if !b.empty() {
		err = l.write(&b)
	}
	if err != nil {
		err = fmt.Errorf("write to the state file %s: %w", l.store.path, err)
	}
	l.mu.Lock()
	if l.failed = err; err != nil {
		l.errors++
		l.giveBack(&b)
	}
	l.history.writing, l.history.trim = nil, false
	l.stored.forget(l.history.since, l.history.limit, trim)
	due := err == nil && l.compactionDue()
	l.mu.Unlock()
	if due {
		l.tryCompact()
	}
	return err
}

// Together calls f, whose changes are written in one batch. f must not call Flush.
func (l *Ledger) Together(f func()) {
	l.mu.Lock()
	l.together++
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.together--
		l.wakeUp()
		l.mu.Unlock()
	}()
	f()
}

// giveBack makes the changes of a failed batch pending again, except those that newer changes replace. The caller holds the lock.
func (l *Ledger) giveBack(b *batch) {
	for p, k := range b.bans {
		if _, newer := l.pending[p]; !newer {
			l.pending[p] = k
		}
	}
	for s, r := range b.records {
		if _, newer := l.records[s]; !newer {
			l.records[s] = r
		}
	}
	l.history.giveBack()
	l.journal.giveBack(b.seal)
}
