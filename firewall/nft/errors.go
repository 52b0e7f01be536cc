package nft

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrUnsupported is wrapped if the kernel lacks nftables, or a part of it.
var ErrUnsupported = errors.New("does this kernel have nftables with sets that have timeouts and counters (module nf_tables, Linux 5.7)?")

// nftError returns an error with the operation, its object, the cause and the remedy.
func nftError(verb, what string, err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		switch errno {
		case syscall.EPERM:
			err = errors.New("not permitted: fsban needs CAP_NET_ADMIN")
		case syscall.ENOENT:
			err = errNoSet
		case syscall.EINVAL, syscall.EOPNOTSUPP, syscall.EPROTONOSUPPORT:
			err = fmt.Errorf("%w (%w)", ErrUnsupported, errno)
		default:
			err = errno // without netlink's words around it
		}
	}
	return fmt.Errorf("nft %s %s: %w", verb, what, err)
}

// errNoSet is a set that does not exist.
var errNoSet = errors.New("no such set")
