package firewall

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestErrorsSayWhatAnOperatorCanDo(t *testing.T) {
	set := func(errno syscall.Errno) error {
		return setError("add", "fsban4 192.0.2.7/32", fmt.Errorf("netlink receive: %w", os.NewSyscallError("recvmsg", errno)))
	}
	rule := func(text string) error {
		return (&family{name: "ipv4"}).failed("list", "raw", ChainName, errors.New(text))
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{set(syscall.ENOENT), "ipset add fsban4 192.0.2.7/32: no such set"},
		{set(errnoFull), "ipset add fsban4 192.0.2.7/32: set is full (raise firewall.max_bans)"},
		{set(errnoFindType), "ipset add fsban4 192.0.2.7/32: the kernel has no set type hash:net (module ip_set_hash_net)"},
		{set(errnoMaxSets), "ipset add fsban4 192.0.2.7/32: the kernel holds no more sets (ip_set.max_sets)"},
		{set(syscall.EPERM), "ipset add fsban4 192.0.2.7/32: not permitted: fsban needs CAP_NET_ADMIN"},
		{set(syscall.EINVAL), "ipset add fsban4 192.0.2.7/32: does this kernel have ipset (module ip_set)? (invalid argument)"},
		{set(syscall.ENOMEM), "ipset add fsban4 192.0.2.7/32: cannot allocate memory"},
		{set(5000), "ipset add fsban4 192.0.2.7/32: the kernel says error 5000 of ipset"},
		{rule("exit status 1:\n no\n chain\n"), "ipv4: list raw/FSBAN: exit status 1: no chain"},
		{rule("exit status 4: Another app is currently holding the xtables lock."), "ipv4: list raw/FSBAN: another program holds the lock of iptables: exit status 4: Another app is currently holding the xtables lock."},
		{rule("exit status 4: Permission denied (you must be root)"), "ipv4: list raw/FSBAN: not permitted: fsban needs CAP_NET_ADMIN and CAP_NET_RAW: exit status 4: Permission denied (you must be root)"},
	} {
		if test.err.Error() != test.want {
			t.Errorf("%v, want %s", test.err, test.want)
		}
	}
	if setError("add", SetIPv4, nil) != nil {
		t.Error("no error has become one")
	}
	if err := set(errnoFull); !errors.Is(err, ErrSetFull) {
		t.Errorf("%v is not ErrSetFull", err)
	}
}

// What iptables-legacy says when it cannot open its lock file names what to change.
func TestLockFileThatCannotBeOpenedIsSaid(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		useIPTables(t, "legacy")
		lock := os.Getenv("XTABLES_LOCKFILE")
		t.Setenv("XTABLES_LOCKFILE", "/proc/no/lock")
		book := newBook()
		r := enforce(t, open(t, Options{}), book, EnforcerOptions{RetryMin: 5 * time.Millisecond, RetryMax: 5 * time.Millisecond})
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
