package firewall_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fsban/firewall"
	"fsban/firewall/backend"
	"fsban/internal/kerneltest"
)

// An unban survives a lock that another program holds while fsban stops. Only iptables-legacy has one.
func TestUnbanSurvivesALockAtTheStop(t *testing.T) {
	onBackendOf(t, "rules legacy", func(t *testing.T) {
		r := startKind(t, "rules legacy", firewall.Options{})
		r.ban("192.0.2.1", time.Hour)
		r.ban("192.0.2.2", time.Hour)
		r.settle()
		release := kerneltest.HoldLock(t)
		r.unban("192.0.2.1")
		time.AfterFunc(7*time.Second, release) // iptables waits 5 s
		r.stop()
		again := started(t, openKind(t, "rules legacy", firewall.Options{}), r.book)
		if len(again.adopted) > 0 {
			t.Errorf("adopted %v", again.adopted)
		}
		if got := kerneltest.Banned(t, r.backend); fmt.Sprint(got) != "[192.0.2.2/32]" {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestUnbansAreRetriedAtTheStop(t *testing.T) {
	for name, test := range map[string]struct {
		fault error
		lasts time.Duration
		ends  time.Duration
		lost  bool
	}{
		"lock of 29 s":  {fmt.Errorf("change: %w", firewall.ErrLocked), 29 * time.Second, 29 * time.Second, false},
		"lock for ever": {fmt.Errorf("change: %w", firewall.ErrLocked), time.Hour, firewall.StopPatience, true},
		"permission":    {errBroken, time.Hour, 0, true},
		"one failure":   {errBroken, 100 * time.Millisecond, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKernel()
				k.holds[kerneltest.Prefix("192.0.2.1")] = time.Time{}
				e := firewall.NewEnforcer(k, firewall.EnforcerOptions{Bans: newBook().all})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- e.Run(ctx) }()
				synctest.Wait()
				began := time.Now()
				k.change(func() { k.noApply = test.fault })
				e.Unban(kerneltest.Prefix("192.0.2.1"), time.Now())
				cancel()
				timer := time.AfterFunc(test.lasts, func() { k.change(func() { k.noApply = nil }) })
				err := <-done
				timer.Stop()
				took := time.Since(began)
				if took < test.ends || took > test.ends+2*time.Second {
					t.Errorf("it took %v", took)
				}
				lost := err != nil && strings.HasPrefix(err.Error(), "1 unbans have not reached the kernel, one of them of 192.0.2.1/32: ") && errors.Is(err, test.fault)
				if lost != test.lost || !lost && !errors.Is(err, context.Canceled) || (k.held() != "") != test.lost {
					t.Errorf("%v; the kernel holds %q", err, k.held())
				}
			})
		})
	}
}

// While another program holds the lock, an abandoned backend is an error; afterwards it is removed.
func TestAbandonedBackendIsReportedUntilItIsRemoved(t *testing.T) {
	onBackendOf(t, "rules legacy", func(t *testing.T) {
		for _, kind := range []string{"legacy", "rules legacy"} {
			if _, err := setUp(openKind(t, kind, firewall.Options{})); err != nil {
				t.Fatal(err)
			}
			b := openKind(t, "nftables", firewall.Options{})
			release := kerneltest.HoldLock(t)
			if removed, err := backend.Abandoned(b); !errors.Is(err, firewall.ErrLocked) {
				t.Errorf("%s: removed %q, %v", kind, removed, err)
			}
			release()
			if removed, err := backend.Abandoned(b); err != nil || !strings.Contains(strings.Join(removed, " "), "ipv4 chain raw/FSBAN") {
				t.Errorf("%s: removed %q, %v", kind, removed, err)
			}
			if removed, err := backend.Abandoned(b); err != nil || len(removed) > 0 {
				t.Errorf("%s: the second time it removed %q, %v", kind, removed, err)
			}
		}
	})
}
