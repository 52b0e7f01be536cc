package firewall

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// DryRun is a backend that touches nothing: bans are kept in memory, as the kernel would keep them.
type DryRun struct {
	mu    sync.Mutex
	until map[netip.Prefix]time.Time
}

// NewDryRun returns an empty DryRun.
func NewDryRun() *DryRun { return &DryRun{until: make(map[netip.Prefix]time.Time)} }

// Name returns "dry-run".
func (*DryRun) Name() string { return "dry-run" }

// Close does nothing.
func (*DryRun) Close() error { return nil }

// Teardown forgets the bans.
func (d *DryRun) Teardown() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.until)
	return nil, nil
}

// Dropped is empty: nothing is thrown away.
func (*DryRun) Dropped() map[string]Dropped { return nil }

func (*DryRun) sizes() map[string]SetSize { return nil }

func (*DryRun) setup() ([]string, error) { return nil, nil }

func (*DryRun) limit(int) {}

func (d *DryRun) apply(ops []op) ([]op, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range ops {
		if o.add {
			d.until[o.prefix] = o.until
		} else {
			delete(d.until, o.prefix)
		}
	}
	return nil, nil
}

func (d *DryRun) entries() ([]Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	var list []Entry
	for p, until := range d.until {
		if until.IsZero() || until.After(now) {
			list = append(list, Entry{Prefix: p, Left: left(until, now)})
		} else {
			delete(d.until, p)
		}
	}
	return list, nil
}

func (*DryRun) intact(func(int) bool) (bool, error) { return true, nil }

func (*DryRun) guard(context.Context) guarded { return guarded{} }

func (*DryRun) watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}
