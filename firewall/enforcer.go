package firewall

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"net/netip"
	"sync"
	"time"
)

// A backend puts bans into effect. Only the enforcer's goroutine calls setup, apply and size.
type backend interface {
	Name() string
	Dropped() map[string]Dropped
	setup() (made []string, err error)
	apply(ops []op) (failed []op, err error)
	entries() ([]Entry, error)
	size() (int, error)
}

// EnforcerOptions connect an Enforcer with those who know what should be banned.
type EnforcerOptions struct {
	// Bans yields every ban that should be in force, with its end (zero: without end). It is called from Run's goroutine.
	Bans func() iter.Seq2[netip.Prefix, time.Time]
	// Adopt is given the entries that the kernel holds and Bans does not know: what an earlier run left, or somebody
	// added by hand. They stay in force. Called from Run's goroutine; nil: they are left alone.
	Adopt func([]Entry)
	// Applied is called for each ban and unban that the kernel took, from Run's goroutine, with the time that went by since
	// what caused it. Bans that were put back after a start or a repair are not reported.
	Applied func(ban bool, took time.Duration)
	// Changed is called when bans come into force or are no longer, with another reason why not, and after a repair. It is
	// called from Run's goroutine.
	Changed func(Status)

	Check    time.Duration // how often the kernel is compared with what should be there; default 10s
	RetryMin time.Duration // the pause after a failure, doubled each time; default 200ms
	RetryMax time.Duration // default 10s
}

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
	Dropped   map[string]Dropped
}

// An Enforcer owns the kernel: one goroutine, in Run. The other methods may be called from any goroutine.
type Enforcer struct {
	backend backend
	opts    EnforcerOptions
	wake    chan struct{}

	mu      sync.Mutex
	pending map[netip.Prefix]op // the newest order for each prefix: never more than prefixes
	stuck   map[netip.Prefix]op // orders that failed, and wait for the next try
	taken   int                 // orders that are being applied
	status  Status

	// What follows is for Run's goroutine alone.
	setUp   bool       // once, at least
	broken  error      // why the last check failed
	refused error      // why orders are stuck
	told    Status     // what Changed was last told
	compare comparison // see compare.go
}

// NewEnforcer returns an Enforcer for b, which is an *IPTables or a *DryRun. It starts nothing.
func NewEnforcer(b backend, opts EnforcerOptions) *Enforcer {
	opts.Check = cmp.Or(opts.Check, 10*time.Second)
	opts.RetryMin = cmp.Or(opts.RetryMin, 200*time.Millisecond)
	opts.RetryMax = cmp.Or(opts.RetryMax, 10*time.Second)
	return &Enforcer{
		backend: b, opts: opts,
		wake:    make(chan struct{}, 1),
		pending: make(map[netip.Prefix]op),
		stuck:   make(map[netip.Prefix]op),
		status:  Status{Backend: b.Name(), Err: errors.New("not set up yet")},
		compare: comparison{ended: make(map[netip.Prefix]struct{})},
	}
}

// Ban orders a ban of prefix that ends at until, or never if until is zero. cause is when whatever led to it was read.
// Call it when Bans yields the ban already: Run takes an entry that Bans does not know for somebody else's.
func (e *Enforcer) Ban(prefix netip.Prefix, until, cause time.Time) {
	e.order(op{prefix: prefix, add: true, until: until, cause: cause})
}

// Unban orders the end of a ban. Call it before the ban leaves whatever Bans yields, and let it leave at once: Run adopts
// an entry that Bans does not know, and by the next check but one restores a ban that it still knows.
func (e *Enforcer) Unban(prefix netip.Prefix, cause time.Time) {
	e.order(op{prefix: prefix, cause: cause})
}

func (e *Enforcer) order(o op) {
	e.mu.Lock()
	e.pending[o.prefix] = o
	delete(e.stuck, o.prefix)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Status returns whether bans are in force.
func (e *Enforcer) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.status
	s.Pending = len(e.pending) + len(e.stuck) + e.taken
	s.Dropped = e.backend.Dropped()
	return s
}

// Entries lists what the kernel holds, with what it counted for each. It holds up neither bans nor packets, and takes
// about 2 µs an entry.
func (e *Enforcer) Entries() ([]Entry, error) { return e.backend.entries() }

// Run sets the kernel up, restores what should be in it, and applies orders until ctx ends. What is pending then is tried
// once more. It leaves every ban in force.
func (e *Enforcer) Run(ctx context.Context) error {
	pause := e.opts.RetryMin
	timer := time.NewTimer(0)
	defer timer.Stop()
	var due time.Time // when the timer fires
	round := func() {
		wait := e.opts.Check
		if e.check() != nil {
			wait, pause = pause, min(2*pause, e.opts.RetryMax)
		} else {
			pause = e.opts.RetryMin
		}
		due = time.Now().Add(wait)
		timer.Reset(wait)
	}
	round()
	for {
		select {
		case <-ctx.Done():
			e.unstick()
			_ = e.drain()
			return ctx.Err()
		case <-e.wake:
			// A failure brings the next round forward, and never puts it off: orders may keep coming.
			if retry := time.Now().Add(pause); e.drain() != nil && retry.Before(due) {
				due = retry
				timer.Reset(pause)
			}
		case <-timer.C:
			round()
		}
	}
}

// check makes the kernel what it should be, and tries again what failed. Where it cannot do everything it does the rest.
func (e *Enforcer) check() error {
	made, err := e.backend.setup()
	restored, compareErr := e.reconcile()
	err = cmp.Or(err, compareErr)
	e.broken = err
	e.mu.Lock()
	if e.setUp {
		e.status.Repairs += uint64(len(made))
		e.status.Restored += uint64(restored)
	}
	if err != nil {
		e.status.Failures++
	}
	e.mu.Unlock()
	e.setUp = e.setUp || err == nil
	e.unstick()
	return cmp.Or(e.drain(), err)
}

// unstick puts what failed back among what is pending. No order is among both: a newer one replaces the one that failed.
func (e *Enforcer) unstick() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for p, o := range e.stuck {
		e.pending[p] = o
	}
	clear(e.stuck)
}

// drain applies what is pending. What fails is kept for the next try.
func (e *Enforcer) drain() error {
	var err error
	if orders := e.take(); orders != nil {
		err = e.apply(orders)
	}
	e.conclude()
	return err
}

// take returns what is pending, if anything, and leaves nothing.
func (e *Enforcer) take() map[netip.Prefix]op {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.pending) == 0 {
		return nil
	}
	orders := e.pending
	e.pending = make(map[netip.Prefix]op)
	e.taken = len(orders)
	return orders
}

func (e *Enforcer) apply(taken map[netip.Prefix]op) error {
	ops := make([]op, 0, len(taken))
	for _, o := range taken {
		ops = append(ops, o)
	}
	failed, err := e.backend.apply(ops)
	now := time.Now()
	e.mu.Lock()
	e.taken = 0
	for _, o := range failed {
		delete(taken, o.prefix)
		if _, newer := e.pending[o.prefix]; !newer {
			e.stuck[o.prefix] = o
		}
	}
	if err != nil {
		e.refused = err
		e.status.Failures++
	}
	e.mu.Unlock()
	for _, o := range taken {
		if !o.add {
			e.compare.ended[o.prefix] = struct{}{}
		}
		if e.opts.Applied != nil && !o.cause.IsZero() {
			e.opts.Applied(o.add, now.Sub(o.cause))
		}
	}
	return err
}

// conclude brings the status up to date after a check or a batch, and tells of news.
func (e *Enforcer) conclude() {
	e.mu.Lock()
	if len(e.stuck) == 0 {
		e.refused = nil
	}
	before := e.status
	e.status.Err = cmp.Or(e.broken, e.refused)
	e.status.Enforcing = e.status.Err == nil
	if before.Enforcing != e.status.Enforcing || before.Since.IsZero() {
		e.status.Since = time.Now()
	}
	e.mu.Unlock()
	now := e.Status()
	news := now.Enforcing != e.told.Enforcing || cause(now.Err) != cause(e.told.Err) ||
		now.Repairs != e.told.Repairs || now.Restored != e.told.Restored
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
