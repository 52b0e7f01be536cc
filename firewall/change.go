package firewall

import (
	"context"
	"net/netip"
	"time"
)

// A change is the argument of Set, of Switch or of SetTap.
type change struct {
	check   time.Duration
	maxBans int
	backend Backend      // nil: the backend stays
	tap     *Tap         // nil: the tap stays, and check and maxBans change
	commit  func() error // of Switch
	err     error        // of commit
	done    chan struct{}
}

// Set changes EnforcerOptions.Check, and the Options.MaxBans of the backend, while Run runs. It returns after a check with
// both, or when ctx ends. A set that holds more entries than maxBans keeps its size.
func (e *Enforcer) Set(ctx context.Context, check time.Duration, maxBans int) error {
	return e.change(ctx, change{check: check, maxBans: maxBans})
}

// Switch replaces the backend by b, which the Enforcer uses from then on, and closes the old one, which keeps its entries. Orders
// that wait are dropped: the first comparison with b's entries restores the bans that Bans yields, and reports the others. Switch
// returns once b is in use: Status says when it is in force.
//
// commit is called from Run's goroutine right before: what it changes of Bans is what b enforces. After an error of commit, or if ctx
// ends before Run takes the order, the old backend stays, and Switch returns that error. commit must not wait for the Enforcer.
func (e *Enforcer) Switch(ctx context.Context, b Backend, commit func() error) error {
	return e.change(ctx, change{backend: b, commit: commit})
}

func (e *Enforcer) change(ctx context.Context, c change) error {
	c.done = make(chan struct{})
	select {
	case e.changes <- &c:
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.commit != nil { // it may have changed everything
		<-c.done
		return c.err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Backend returns the backend in use.
func (e *Enforcer) Backend() Backend {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.backend
}

// replace closes the backend and goes on with c's as at the start, unless commit fails. Results of the old backend's helpers are
// discarded.
func (e *Enforcer) replace(ctx context.Context, c *change) {
	if c.err = c.commit(); c.err != nil {
		return
	}
	b := c.backend
	e.unlisten()
	if e.verifying {
		<-e.verified
	}
	if e.compare.changed != nil {
		<-e.listed
	}
	_ = e.backend.Close()
	e.queue.clear()
	e.verifying, e.setUp = false, false
	e.compare = comparison{ended: make(map[netip.Prefix]struct{})}
	e.faults = faults{rules: errNotYet, entries: errNotYet}
	e.mu.Lock()
	e.backend = b
	e.status.Backend, e.status.Enforcing, e.status.Err, e.status.Since, e.status.Notes = b.Name(), false, errNotYet, time.Now(), nil
	e.mu.Unlock()
	e.reported = Status{}
	b.SetTap(e.retap())
	e.startListening(ctx)
}
