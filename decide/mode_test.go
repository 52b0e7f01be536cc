package decide

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fsban/decide/book"
	"fsban/ledger"
)

// fsban is killed around an order to enforce: the next process watches with all bans, or enforces with those that stay.
func TestAKillLeavesAnOrderToEnforceWholeOrUndone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fsban.db")
	now := time.Now()
	disk := openLedger(t, path, now)
	t.Cleanup(func() { _ = disk.Close() })
	o := testOptions(disk, now)
	o.Mode.Watching = true
	l := New(o)
	l.Restore(nil, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	p := netip.MustParsePrefix("203.0.113.66/32")
	if _, err := l.Ban(ctx, BanOrder{Prefix: p, BanTime: time.Hour, By: "anna"}); err != nil {
		t.Fatal(err)
	}
	if err := l.change(ctx, func() {}); err != nil { // on disk
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	result, err := l.Enforce(ctx, new(book.Enforcement), Mode{By: "anna", At: now})
	if err != nil || result != (book.Enforced{Ended: 1}) {
		t.Fatalf("%+v, %v", result, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[Mode]int)
	for n := before.Size(); n <= int64(len(data)); n++ { // the kill cuts the write off here
		file := filepath.Join(t.TempDir(), "fsban.db")
		if err := os.WriteFile(file, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		var mode Mode
		next, err := ledger.OpenStepped(file, now, func(state []byte) time.Duration { mode = SealedMode(state); return 0 })
		if err != nil {
			t.Fatal(err)
		}
		if v4, _ := next.Count(); v4 > 0 && !mode.Watching {
			t.Fatalf("%d of %d bytes: fsban enforces a watched ban", n, len(data))
		}
		if err := next.Close(); err != nil {
			t.Fatal(err)
		}
		mode.At = mode.At.UTC()
		seen[mode]++
	}
	if len(seen) != 2 || seen[Mode{Watching: true}] == 0 || seen[Mode{By: "anna", At: now.Round(0).UTC()}] != 1 {
		t.Errorf("%+v", seen)
	}
}
