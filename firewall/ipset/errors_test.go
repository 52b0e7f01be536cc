package ipset

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"fsban/firewall"
)

func TestErrorsSayWhatAnOperatorCanDo(t *testing.T) {
	set := func(errno syscall.Errno) error {
		return setError("add", "fsban4 192.0.2.7/32", fmt.Errorf("netlink receive: %w", os.NewSyscallError("recvmsg", errno)))
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
		{set(5000), "ipset add fsban4 192.0.2.7/32: ipset error 5000 of the kernel"},
	} {
		if test.err.Error() != test.want {
			t.Errorf("%v, want %s", test.err, test.want)
		}
	}
	if setError("add", firewall.SetIPv4, nil) != nil {
		t.Error("no error has become one")
	}
	if err := set(errnoFull); !errors.Is(err, firewall.ErrSetFull) {
		t.Errorf("%v is not ErrSetFull", err)
	}
}

func TestEveryErrnoIsKept(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOBUFS, syscall.EBUSY, syscall.EINVAL, syscall.ENOMEM, syscall.EEXIST} {
		err := setError("add", "fsban4", errno)
		if text := err.Error(); !strings.HasPrefix(text, "ipset add fsban4: ") || strings.Contains(text, "\n") || !errors.Is(err, errno) {
			t.Errorf("%v: %q", errno, text)
		}
	}
}
