package firewall

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// ErrSetFull is wrapped by the error of a ban that has no place in the kernel's set.
var ErrSetFull = errors.New("set is full (raise firewall.max_bans)")

// ErrSetClash is wrapped when a set of fsban's name exists and cannot be fsban's.
var ErrSetClash = errors.New("a set of this name exists and is not fsban's: remove or rename it")

// errNoIPSet says that the kernel does not know what ipset is.
var errNoIPSet = errors.New("does this kernel have ipset (module ip_set)?")

// ipset's own error numbers (linux/netfilter/ipset/ip_set.h), as far as they can happen to us.
const (
	errnoPrivate  = syscall.Errno(4096)
	errnoFindType = syscall.Errno(4098)
	errnoMaxSets  = syscall.Errno(4099)
	errnoBusy     = syscall.Errno(4100)
	errnoCIDR     = syscall.Errno(4104)
	errnoFull     = syscall.Errno(4352)
)

// errInUse is a set that a rule names.
var errInUse = errors.New("the set is in use by a rule")

// setError says what failed on which set and, for the numbers that only ipset knows, why.
func setError(verb, what string, err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.ENOENT:
			err = errNoSet
		case errnoFindType:
			err = errors.New("the kernel has no set type " + setType + " (module ip_set_hash_net)")
		case errnoMaxSets:
			err = errors.New("the kernel holds no more sets (ip_set.max_sets)")
		case errnoBusy:
			err = errInUse
		case errnoCIDR:
			err = errors.New("the kernel takes no prefix of length 0")
		case errnoFull:
			err = ErrSetFull
		case syscall.EPERM:
			err = errors.New("not permitted: fsban needs CAP_NET_ADMIN")
		case syscall.EINVAL, syscall.EOPNOTSUPP, syscall.EPROTONOSUPPORT:
			err = fmt.Errorf("%w (%w)", errNoIPSet, errno)
		default:
			err = errno // without what netlink says around it
			if errno >= errnoPrivate {
				err = fmt.Errorf("the kernel says error %d of ipset", int(errno))
			}
		}
	}
	return fmt.Errorf("ipset %s %s: %w", verb, what, err)
}

// errAll is what the kernel itself says of ipset.
var errAll = errors.New("a prefix of length 0 is everybody")

// errNoNFTables says that the kernel does not know what nftables is, or not all of it.
var errNoNFTables = errors.New("does this kernel have nftables with sets that have timeouts and counters (module nf_tables, Linux 5.7)?")

// nftError says what failed, and what an operator can do.
func nftError(verb, what string, err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.EPERM:
			err = errors.New("not permitted: fsban needs CAP_NET_ADMIN")
		case syscall.ENOENT:
			err = errNoSet
		case syscall.EINVAL, syscall.EOPNOTSUPP, syscall.EPROTONOSUPPORT:
			err = fmt.Errorf("%w (%w)", errNoNFTables, errno)
		default:
			err = errno // without what netlink says around it
		}
	}
	return fmt.Errorf("nft %s %s: %w", verb, what, err)
}

// A ruleError is a failure of iptables: what was to be done, and in one line what iptables said.
type ruleError struct {
	what string
	err  error
}

func (e *ruleError) Error() string {
	text := strings.Join(strings.Fields(e.err.Error()), " ")
	switch {
	case strings.Contains(text, "can't open lock file"):
		text = "iptables-legacy must be able to open its lock file: make it readable for fsban (packaging/fsban.tmpfiles), or name another one in XTABLES_LOCKFILE: " + text
	case strings.Contains(text, "xtables lock"):
		text = "another program holds the lock of iptables: " + text
	case strings.Contains(text, "Permission denied"):
		text = "not permitted: fsban needs CAP_NET_ADMIN and CAP_NET_RAW: " + text
	}
	return e.what + ": " + text
}

func (e *ruleError) Unwrap() error { return e.err }
