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
	Enforcing bool      // the kernel is set up, and everything asked for is in it or on its way
	Err       error     // why not
	Since     time.Time // when Enforcing last changed
	Pending   int       // changes that the kernel has not taken yet
	Repairs   uint64    // things that were missing in the kernel after the first set-up, and were made again
	Restored  uint64    // bans that were missing in the kernel, and were put back
	Failures  uint64    // checks and batches of changes that failed
	Notes     []string  // sentences for the operator: what is not as it should be, though bans are in force
	Dropped   map[string]Dropped
	Sets      map[string]SetSize // by family, as of the last check; nil where the kernel does not count entries
}

// conclude brings the status up to date after a check or a batch, and tells of news.
func (e *Enforcer) conclude() {
	if e.unruled == errNotYet || e.unlisted == errNotYet { //nolint:errorlint // this very one
		return
	}
	wrong := cmp.Or(e.unmade, e.unlisted, e.unruled)
	e.setUp = e.setUp || wrong == nil
	e.mu.Lock()
	if len(e.stuck) == 0 {
		e.refused = nil
	}
	before := e.status
	e.status.Err = cmp.Or(wrong, e.refused)
	e.status.Enforcing = e.status.Err == nil
	if before.Enforcing != e.status.Enforcing || before.Since.IsZero() {
		e.status.Since = time.Now()
	}
	e.mu.Unlock()
	now := e.Status()
	news := now.Enforcing != e.told.Enforcing || cause(now.Err) != cause(e.told.Err) || !slices.Equal(now.Notes, e.told.Notes)
	if e.compare.changed == nil { // else there may be more to repair
		news = news || now.Repairs != e.told.Repairs || now.Restored != e.told.Restored
	}
	if news && e.opts.Changed != nil {
		e.told = now
		e.opts.Changed(now)
	}
}

// cause is the innermost error's text: which ban it was that failed is no news.
func cause(err error) string {
	text := ""
	for ; err != nil; err = errors.Unwrap(err) {
		text = err.Error()
	}
	return text
}
