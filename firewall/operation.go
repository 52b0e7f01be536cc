package firewall

import "time"

// An Operation is something that is done to the kernel: a closed, small set, safe as a metric label.
type Operation string

// The operations.
const (
	Setup Operation = "setup" // sets that are missing are made
	Guard Operation = "guard" // rules are looked at, and made where they are missing
	Apply Operation = "apply" // a batch of bans and unbans
	List  Operation = "list"  // entries are listed
)

// Operations lists what is done to the kernel.
var Operations = []Operation{Setup, Guard, Apply, List}

// timed does one operation, and tells how long it took.
func (e *Enforcer) timed(op Operation, do func() error) error {
	began := time.Now()
	err := do()
	if e.opts.Operated != nil {
		e.opts.Operated(op, time.Since(began), err)
	}
	return err
}
