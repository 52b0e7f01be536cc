package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An earlier backend's entries are removed until none is left, with retries after failures, and are an open problem until then.
func TestAnEarlierBackendIsRemovedUntilItIsGone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		failures int
		partial  bool // each failing call removes some entries
		calls    int
		after    time.Duration
	}{
		"nothing there":      {0, false, 1, 0},
		"two failures":       {2, false, 3, 3 * time.Second},
		"partial failures":   {3, true, 5, 15 * time.Second},
		"ten failures":       {10, false, 11, (1+2+4+8+16+32)*time.Second + 4*time.Minute},
		"for as long as run": {1 << 30, false, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var problem atomic.Pointer[string]
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				began, calls := time.Now(), 0
				err := removeUntilGone(ctx, slog.New(slog.DiscardHandler), &problem, func() (removed []string, err error) {
					calls++
					if calls > 1 && calls <= test.failures+1 && (problem.Load() == nil || !strings.Contains(*problem.Load(), "still drops packets, also of addresses that were unbanned: lock is held")) {
						t.Errorf("call %d: the open problem is %v", calls, problem.Load())
					}
					if calls <= test.failures {
						err = errors.New("lock is held")
					}
					if test.partial && calls <= test.failures+1 {
						removed = []string{"set fsban4"}
					}
					return removed, err
				})
				if test.calls == 0 {
					if !errors.Is(err, context.DeadlineExceeded) || problem.Load() == nil {
						t.Errorf("%v, the open problem is %v", err, problem.Load())
					}
					return
				}
				if took := time.Since(began); err != nil || calls != test.calls || took != test.after || problem.Load() != nil {
					t.Errorf("%d calls, %v, %v, the open problem is %v", calls, took, err, problem.Load())
				}
			})
		})
	}
}
