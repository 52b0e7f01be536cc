package nft

import (
	"errors"
	"strings"
	"syscall"
	"testing"
)

func TestEveryErrnoIsKept(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOBUFS, syscall.EBUSY, syscall.EINVAL, syscall.ENOMEM, syscall.EEXIST} {
		err := nftError("add", "fsban4", errno)
		if text := err.Error(); !strings.HasPrefix(text, "nft add fsban4: ") || strings.Contains(text, "\n") || !errors.Is(err, errno) {
			t.Errorf("%v: %q", errno, text)
		}
	}
	for errno, want := range map[syscall.Errno]string{
		syscall.EPERM: "nft add x: not permitted: fsban needs CAP_NET_ADMIN", syscall.ENOENT: "nft add x: no such set",
	} {
		if got := nftError("add", "x", errno).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
