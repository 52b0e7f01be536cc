package xtables

import (
	"strings"

	"fsban/firewall"
)

// A ruleError is a failure of iptables: the operation, and the output of iptables in one line.
type ruleError struct {
	what string
	err  error
}

func (e *ruleError) Error() string {
	text := strings.Join(strings.Fields(e.err.Error()), " ")
	switch {
	case strings.Contains(text, "can't open lock file"):
		text = "iptables-legacy must be able to open its lock file: make it readable for fsban (packaging/fsban.tmpfiles), or name another one " +
			"in XTABLES_LOCKFILE: " + text
	case strings.Contains(text, "xtables lock"):
		text = firewall.ErrLocked.Error() + ": " + text
	case strings.Contains(text, "Permission denied"):
		text = "not permitted: fsban needs CAP_NET_ADMIN and CAP_NET_RAW: " + text
	}
	return e.what + ": " + text
}

func (e *ruleError) Unwrap() error { return e.err }

// Is reports whether target is firewall.ErrLocked, and iptables said so.
func (e *ruleError) Is(target error) bool {
	return target == firewall.ErrLocked && strings.Contains(e.err.Error(), "xtables lock")
}
