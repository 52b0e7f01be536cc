package nflog

import (
	"errors"
	"fmt"
	"syscall"
)

// Errors of Open.
var (
	ErrUnsupported  = errors.New("this kernel has no NFLOG (module nfnetlink_log): load it, or set sip.tap to hep")
	ErrInUse        = errors.New("another program receives this NFLOG group: stop it")
	ErrNotPermitted = errors.New("not permitted: fsban needs CAP_NET_ADMIN in the network namespace of FreeSWITCH, or set sip.tap to hep")
)

// openError returns an error with the operation, the group, the cause and the remedy.
func openError(group uint16, err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		switch errno {
		case syscall.EPERM, syscall.EACCES:
			err = ErrNotPermitted
		case syscall.EBUSY:
			err = ErrInUse
		case syscall.EINVAL, syscall.EOPNOTSUPP, syscall.EPROTONOSUPPORT, syscall.EAFNOSUPPORT:
			err = fmt.Errorf("%w (%w)", ErrUnsupported, errno)
		default:
			err = errno // without netlink's words around it
		}
	}
	return fmt.Errorf("open NFLOG group %d: %w", group, err)
}
