package firewall

import "time"

// An Operation is a kind of access to the kernel: a small closed set, safe as a metric label.
type Operation string

// The operations.
const (
	Setup  Operation = "setup"  // missing sets are made
	Verify Operation = "verify" // rules are checked and repaired
	Apply  Operation = "apply"  // a batch of bans and unbans
	List   Operation = "list"   // entries are listed
)

// Operations lists all operations.
var Operations = []Operation{Setup, Verify, Apply, List}

// timed runs one operation, and reports its duration.
func (e *Enforcer) timed(op Operation, do func() error) error {
	began := time.Now()
	err := do()
	if e.opts.Operated != nil {
		e.opts.Operated(op, time.Since(began), err)
	}
	return err
}
