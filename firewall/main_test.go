package firewall_test

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// A book holds the bans, in place of the ledger.
type book struct {
	mu   sync.Mutex
	bans map[netip.Prefix]time.Time
}

func newBook() *book { return &book{bans: make(map[netip.Prefix]time.Time)} }

func (b *book) all() iter.Seq2[netip.Prefix, time.Time] {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.All(maps.Clone(b.bans))
}

func (b *book) write(p netip.Prefix, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bans[p] = until
}

func (b *book) strike(p netip.Prefix) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.bans, p)
}

// A rig is a running enforcer with the calls that it made to its owner.
type rig struct {
	*firewall.Enforcer
	backend firewall.Backend
	t       testing.TB
	book    *book
	stop    func() // ends Run and waits for it

	mu      sync.Mutex
	adopted []firewall.Entry
	removed int // entries that were not adopted
	changes []firewall.Status
	bans    int // applied, and reported
	unbans  int
}

// adoptions returns the entries that were adopted.
func (r *rig) adoptions() []firewall.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.adopted)
}

// removals returns the number of entries that were not adopted.
func (r *rig) removals() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removed
}

// enforce starts an enforcer, which ends with the test at the latest.
func enforce(t testing.TB, b firewall.Backend, book *book, opts firewall.EnforcerOptions) *rig {
	t.Helper()
	return rejecting(t, b, book, opts, nil)
}

// rejecting starts an enforcer whose owner unbans the entries for which reject holds.
func rejecting(t testing.TB, b firewall.Backend, book *book, opts firewall.EnforcerOptions, reject func(netip.Prefix) bool) *rig {
	t.Helper()
	r := &rig{backend: b, t: t, book: book}
	opts.Bans = book.all
	opts.Rejected = func(entries []firewall.Entry) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.removed += len(entries)
	}
	opts.Adopt = func(entries []firewall.Entry) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, e := range entries {
			if reject != nil && reject(e.Prefix) {
				r.Unban(e.Prefix, time.Now())
				r.removed++
				continue
			}
			r.adopted = append(r.adopted, e)
			until := time.Time{}
			if e.Left != firewall.Forever {
				until = time.Now().Add(e.Left)
			}
			book.write(e.Prefix, until)
		}
	}
	opts.Applied = func(ban bool, took time.Duration, _ firewall.Cause) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if took < 0 {
			t.Errorf("a change took %v", took)
		}
		if ban {
			r.bans++
		} else {
			r.unbans++
		}
	}
	opts.Changed = func(s firewall.Status) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changes = append(r.changes, s)
	}
	r.Enforcer = firewall.NewEnforcer(b, opts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// ban bans as the daemon does: the book first, then the enforcer.
func (r *rig) ban(p string, d time.Duration) {
	until := time.Time{}
	if d != firewall.Forever {
		until = time.Now().Add(d)
	}
	r.book.write(kerneltest.Prefix(p), until)
	r.Ban(kerneltest.Prefix(p), until, firewall.Cause{Read: time.Now()})
}

// unban unbans as the daemon does: the enforcer first, then the book.
func (r *rig) unban(p string) {
	r.Unban(kerneltest.Prefix(p), time.Now())
	r.book.strike(kerneltest.Prefix(p))
}

func (r *rig) applied() (bans, unbans int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bans, r.unbans
}

func (r *rig) reported() []firewall.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.changes)
}
