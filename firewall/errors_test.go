package firewall_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

// The error of an unreadable lock file of iptables-legacy names the remedy.
func TestUnreadableLockFileIsReported(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		kerneltest.UseIPTables(t, "legacy")
		lock := os.Getenv("XTABLES_LOCKFILE")
		t.Setenv("XTABLES_LOCKFILE", "/proc/no/lock")
		book := newBook()
		r := enforce(t, open(t, firewall.Options{}), book, firewall.EnforcerOptions{RetryMin: 5 * time.Millisecond, RetryMax: 5 * time.Millisecond})
		r.until("said", func() bool {
			s := r.Status()
			if s.Enforcing || s.Err == nil {
				return false
			}
			text := s.Err.Error()
			return strings.Contains(text, "name another one in XTABLES_LOCKFILE") && strings.Contains(text, "/proc/no/lock") && !strings.Contains(text, "\n")
		})
		r.stop()
		t.Setenv("XTABLES_LOCKFILE", lock)
	})
}
