package firewall

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// A Recorder is the backend of an fsban that only watches: it keeps bans in memory, as the kernel would, and blocks nobody.
type Recorder struct {
	mu    sync.Mutex
	until map[netip.Prefix]time.Time
}

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder { return &Recorder{until: make(map[netip.Prefix]time.Time)} }

// Name returns "none".
func (*Recorder) Name() string { return None }

// Close does nothing.
func (*Recorder) Close() error { return nil }

// Teardown forgets the bans.
func (d *Recorder) Teardown() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.until)
	return nil, nil
}

// Dropped returns nil: a Recorder drops no packets.
func (*Recorder) Dropped() map[string]Dropped { return nil }

// Capacity returns 0: the number of bans has no limit.
func (*Recorder) Capacity() (bans int, shared bool) { return 0, false }

// Sizes returns nil: there are no sets.
func (*Recorder) Sizes() map[string]SetSize { return nil }

// Setup does nothing: there is nothing to create.
func (*Recorder) Setup() ([]string, error) { return nil, nil }

// Resize does nothing: the number of bans has no limit.
func (*Recorder) Resize(int) {}

// SetTap does nothing: a Recorder has no rules, and copies no packets.
func (*Recorder) SetTap(Tap) {}

// Apply records the orders. It never fails.
func (d *Recorder) Apply(orders []Order) ([]Order, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range orders {
		if o.Add {
			d.until[o.Prefix] = o.Until
		} else {
			delete(d.until, o.Prefix)
		}
	}
	return nil, nil
}

// Entries returns the recorded bans that have not expired.
func (d *Recorder) Entries() ([]Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	var list []Entry
	for p, until := range d.until {
		if until.IsZero() || until.After(now) {
			list = append(list, Entry{Prefix: p, Left: Left(until, now)})
		} else {
			delete(d.until, p)
		}
	}
	return list, nil
}

// Intact returns true: nobody else changes a Recorder.
func (*Recorder) Intact(func(int) bool) (bool, error) { return true, nil }

// Verify finds nothing to repair.
func (*Recorder) Verify(context.Context) Verification { return Verification{} }

// Watch waits for ctx and reports no changes.
func (*Recorder) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}
