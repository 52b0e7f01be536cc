package firewall

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// A Status says whether bans are in force.
type Status struct {
	Backend   string
	Enforcing bool      // the kernel is set up, and everything ordered is in it or on its way
	Err       error     // why not
	Since     time.Time // when Enforcing last changed
	Pending   int       // orders that the kernel has not taken yet
	Repairs   uint64    // objects that were missing in the kernel after the first set-up, and were made again
	Restored  uint64    // bans that were missing in the kernel, and were restored
	Expired   uint64    // bans that ended before the kernel took them
	Overflows uint64    // orders that were dropped because too many waited; a comparison makes up for them
	Failures  uint64    // checks and batches of orders that failed
	Notes     []string  // sentences for the operator: deviations that do not keep bans from being in force
	Dropped   map[string]Dropped
	Sets      map[string]SetSize // by family, as of the last check; nil if the kernel does not count entries
}

// report updates the status after a check or a batch, and calls Changed if it has changed.
func (e *Enforcer) report() {
	if e.faults.rules == errNotYet || e.faults.entries == errNotYet { //nolint:errorlint // this value itself
		return
	}
	wrong := cmp.Or(e.faults.sets, e.faults.entries, e.faults.rules)
	e.setUp = e.setUp || wrong == nil
	if _, stuck, _, _ := e.queue.counts(); stuck == 0 {
		e.faults.orders = nil
	}
	e.mu.Lock()
	before := e.status
	e.status.Err = cmp.Or(wrong, e.faults.orders)
	e.status.Enforcing = e.status.Err == nil
	e.status.Notes = slices.Concat(e.compare.notes.rules, e.compare.notes.entries)
	if before.Enforcing != e.status.Enforcing || before.Since.IsZero() {
		e.status.Since = time.Now()
	}
	e.mu.Unlock()
	now := e.Status()
	news := now.Enforcing != e.reported.Enforcing || cause(now.Err) != cause(e.reported.Err) || !slices.Equal(now.Notes, e.reported.Notes)
	if e.compare.changed == nil { // else there may be more to repair
		news = news || now.Repairs != e.reported.Repairs || now.Restored != e.reported.Restored
	}
	if news && e.opts.Changed != nil {
		e.reported = now
		e.opts.Changed(now)
	}
}

// cause returns the text of the innermost error: another ban that fails for the same reason is no news.
func cause(err error) string {
	text := ""
	for ; err != nil; err = errors.Unwrap(err) {
		text = err.Error()
	}
	return text
}
