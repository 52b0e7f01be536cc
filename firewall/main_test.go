package firewall

import (
	"context"
	"errors"
	"flag"
	"iter"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fsban/internal/netns"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" {
		os.Exit(netns.Main(m))
	}
	goleak.VerifyTestMain(m)
}

// A book is what should be banned, in place of the ledger.
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

// A rig is a running enforcer and what it has said.
type rig struct {
	*Enforcer
	t    testing.TB
	book *book
	stop func() // ends Run and waits for it

	mu      sync.Mutex
	adopted []Entry
	changes []Status
	bans    int // applied, and reported
	unbans  int
}

// enforce starts an enforcer, which ends with the test at the latest.
func enforce(t testing.TB, b Backend, book *book, opts EnforcerOptions) *rig {
	t.Helper()
	r := &rig{t: t, book: book}
	opts.Bans = book.all
	opts.Adopt = func(entries []Entry) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.adopted = append(r.adopted, entries...)
		for _, e := range entries {
			until := time.Time{}
			if e.Left != Forever {
				until = time.Now().Add(e.Left)
			}
			book.write(e.Prefix, until)
		}
	}
	opts.Applied = func(ban bool, took time.Duration, _ Cause) {
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
	opts.Changed = func(s Status) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.changes = append(r.changes, s)
	}
	r.Enforcer = NewEnforcer(b, opts)
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

// ban does what the daemon does: the book first, then the enforcer.
func (r *rig) ban(p string, d time.Duration) {
	until := time.Time{}
	if d != Forever {
		until = time.Now().Add(d)
	}
	r.book.write(prefix(p), until)
	r.Ban(prefix(p), until, Cause{Read: time.Now()})
}

// unban does what the daemon does: the enforcer first, then the book.
func (r *rig) unban(p string) {
	r.Unban(prefix(p), time.Now())
	r.book.strike(prefix(p))
}

func (r *rig) applied() (bans, unbans int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bans, r.unbans
}

func (r *rig) told() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.changes)
}

// inKernel lists the prefixes that are banned, in order.
func inKernel(t testing.TB, b Backend) []string {
	t.Helper()
	entries, err := b.entries()
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Prefix.String())
	}
	slices.Sort(list)
	return list
}

// prefix reads an address or a prefix.
func prefix(s string) netip.Prefix {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	return netip.MustParsePrefix(s)
}
