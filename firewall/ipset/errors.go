package ipset

import (
	"errors"
	"fmt"
	"syscall"

	"fsban/firewall"
)

// ErrUnsupported is wrapped if the kernel has no ipset.
var ErrUnsupported = errors.New("does this kernel have ipset (module ip_set)?")

// ipset's own error numbers (linux/netfilter/ipset/ip_set.h) that fsban's requests can lead to.
const (
	errnoPrivate  = syscall.Errno(4096)
	errnoFindType = syscall.Errno(4098)
	errnoMaxSets  = syscall.Errno(4099)
	errnoBusy     = syscall.Errno(4100)
	errnoCIDR     = syscall.Errno(4104)
	errnoFull     = syscall.Errno(4352)
)

// ErrNoSet is wrapped if there is no set of that name.
var ErrNoSet = errors.New("no such set")

// ErrInUse is wrapped if a rule refers to the set.
var ErrInUse = errors.New("the set is in use by a rule")

// setError returns an error with the operation, the set and the cause, also for ipset's own error numbers.
func setError(verb, what string, err error) error {
	if err == nil {
		return nil
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		switch errno {
		case syscall.ENOENT:
			err = ErrNoSet
		case errnoFindType:
			err = errors.New("the kernel has no set type " + Type + " (module ip_set_hash_net)")
		case errnoMaxSets:
			err = errors.New("the kernel holds no more sets (ip_set.max_sets)")
		case errnoBusy:
			err = ErrInUse
		case errnoCIDR:
			err = errors.New("the kernel does not accept a prefix of length 0")
		case errnoFull:
			err = firewall.ErrSetFull
		case syscall.EPERM:
			err = errors.New("not permitted: fsban needs CAP_NET_ADMIN")
		case syscall.EINVAL, syscall.EOPNOTSUPP, syscall.EPROTONOSUPPORT:
			err = fmt.Errorf("%w (%w)", ErrUnsupported, errno)
		default:
			err = errno // without netlink's words around it
			if errno >= errnoPrivate {
				err = fmt.Errorf("ipset error %d of the kernel", int(errno))
			}
		}
	}
	return fmt.Errorf("ipset %s %s: %w", verb, what, err)
}
