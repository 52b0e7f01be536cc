package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"sync"
	"time"
)

// EnforcerOptions connect an Enforcer with the owner of the bans.
type EnforcerOptions struct {
	// Bans yields every ban that should be in force, with its end (zero: without end). It is called from Run's goroutine.
	Bans func() iter.Seq2[netip.Prefix, time.Time]
	// Tally returns the number of bans that Bans yields, and how many of them end by soon, and by later. It is called from
	// Run's goroutine; nil: they are counted one by one.
	Tally func(soon, later time.Time) (all, bySoon, byLater int)
	// Adopt receives the entries that the kernel holds and Bans does not yield: left by an earlier run, restored from a file,
	// or added by hand. The owner makes Bans yield an entry, or orders an unban. Until then the entry stays, and a later
	// comparison reports it again. Called from Run's goroutine; nil: all of them are left alone.
	Adopt func([]Entry)
	// Rejected receives the entries that Run removes by itself instead of calling Adopt: entries that cannot be bans, and after
	// a loss of unbans all that Bans does not yield. It is called before they are removed, from Run's goroutine.
	Rejected func([]Entry)
	// Amend receives the entries that end at another time in the kernel than Bans says, because somebody has changed them by
	// hand. Bans should yield the kernel's end from then on, unless the ban no longer ends at Entry.Expected: then it has
	// changed since Bans yielded it. Called from Run's goroutine; nil: ends are restored in the kernel.
	Amend func([]Entry)
	// Applied is called from Run's goroutine for each ban and unban that the kernel took, with its cause and the time since
	// that was read. Restored bans are not reported.
	Applied func(ban bool, took time.Duration, cause Cause)
	// Operated is called after each operation on the kernel, from any goroutine, with its duration.
	Operated func(op Operation, took time.Duration, err error)
	// Changed is called from Run's goroutine when enforcement begins or ends, when its error changes, and after a repair.
	Changed func(Status)

	// Tapped is called from Run's goroutine when copying of packets begins or ends, or when its error changes.
	Tapped func(TapStatus)

	// Clock returns the time that the ends of Bans, Tally and Ban are given in, and a number that differs when the system's clock
	// was stepped in between: odd until Bans has followed. The kernel's timeouts are monotonic, and so is all that Run remembers.
	// Nil: the system's clock, which is never stepped.
	Clock func() (now time.Time, steps uint64)

	Check    time.Duration // interval between checks; default 10s
	RetryMin time.Duration // pause after a failure, doubled each time; default 200ms
	RetryMax time.Duration // default 10s
}

// An Enforcer owns the kernel: one goroutine, in Run. The other methods may be called from any goroutine.
type Enforcer struct {
	opts     EnforcerOptions
	queue    *queue
	wake     chan struct{}     // there are orders
	noticed  chan struct{}     // another program has changed fsban's objects
	verified chan Verification // results of verifications
	listed   chan listing      // results of listings
	changes  chan *change      // of settings, or of the backend

	mu      sync.Mutex // guards the following
	backend Backend    // replaced by Run's goroutine alone
	status  Status
	tap     TapStatus

	// The following is for Run's goroutine alone.
	helpers    sync.WaitGroup
	unlisten   context.CancelFunc // ends listen
	setUp      bool               // everything was in force once, at least
	verifying  bool               // a verification is under way
	tapChanged bool               // since it began
	faults     faults
	reported   Status // the last argument of Changed
	schedule   schedule
	compare    comparison
}

// faults are the reasons why bans are not in force.
type faults struct {
	sets    error // of the last set-up
	entries error // of the last listing
	rules   error // of the last verification
	orders  error // of the last order that failed
}

// errNotYet stands for the result of the first verification, and of the first listing.
var errNotYet = errors.New("not set up yet")

// NewEnforcer returns an Enforcer for b. It starts nothing.
func NewEnforcer(b Backend, opts EnforcerOptions) *Enforcer {
	opts.Check = cmp.Or(opts.Check, 10*time.Second)
	if opts.Tally == nil {
		opts.Tally = opts.tally
	}
	opts.RetryMin = cmp.Or(opts.RetryMin, 200*time.Millisecond)
	opts.RetryMax = cmp.Or(opts.RetryMax, 10*time.Second)
	return &Enforcer{
		backend: b, opts: opts, queue: newQueue(),
		wake:     make(chan struct{}, 1),
		noticed:  make(chan struct{}, 1),
		verified: make(chan Verification, 1),
		listed:   make(chan listing, 1),
		changes:  make(chan *change),
		status:   Status{Backend: b.Name(), Err: errNotYet},
		faults:   faults{rules: errNotYet, entries: errNotYet},
		compare:  comparison{ended: make(map[netip.Prefix]struct{})},
	}
}

// Ban orders a ban of prefix that ends at until, or never if until is zero. Bans should yield the ban at about the same time: Run
// reports an entry that Bans does not yield to Adopt, and a ban of a replaced entry that Bans yields with its old end to Amend.
func (e *Enforcer) Ban(prefix netip.Prefix, until time.Time, cause Cause) {
	now, _ := e.opts.clock()
	e.queue.put(Order{Prefix: prefix, Add: true, Until: deadline(until, now), Cause: cause})
	signal(e.wake)
}

// deadline returns until, which is by the clock that shows now, with a monotonic reading.
func deadline(until, now time.Time) time.Time {
	if until.IsZero() {
		return until
	}
	return time.Now().Add(until.Sub(now))
}

// clock is Clock with its default.
func (o *EnforcerOptions) clock() (time.Time, uint64) {
	if o.Clock == nil {
		return time.Now(), 0
	}
	return o.Clock()
}

// Unban orders the end of a ban. Call it right before Bans ceases to yield the ban: Run reports an entry that Bans does not
// yield to Adopt, and the next check but one restores a ban that Bans still yields.
func (e *Enforcer) Unban(prefix netip.Prefix, cause time.Time) {
	e.queue.put(Order{Prefix: prefix, Cause: Cause{Read: cause}})
	signal(e.wake)
}

// signal leaves a value in a channel of capacity one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Status returns whether bans are in force.
func (e *Enforcer) Status() Status {
	backend := e.Backend()
	dropped, sizes := backend.Dropped(), backend.Sizes()
	pending, _, expired, overflows := e.queue.counts()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.status
	s.Pending, s.Expired, s.Overflows = pending, expired, overflows
	s.Dropped, s.Sets = dropped, sizes
	return s
}

// Entries lists the kernel's entries with their counters. It holds up neither bans nor packets, and takes about 2 µs an entry.
func (e *Enforcer) Entries() (entries []Entry, err error) {
	backend := e.Backend()
	err = e.timed(List, func() error {
		entries, err = backend.Entries()
		return err
	})
	return entries, err
}

// Packets returns the packets dropped of each ban, as of the last change or check, if the backend has them at hand; nil: it has not.
func (e *Enforcer) Packets() map[netip.Prefix]uint64 {
	if b, ok := e.Backend().(interface {
		Packets() map[netip.Prefix]uint64
	}); ok {
		return b.Packets()
	}
	return nil
}

// Run sets the kernel up, restores missing bans, and applies orders until ctx ends. Then it tries pending orders once more,
// and unbans for up to stopPatience while another program holds a lock. It leaves every ban in force. It returns an error
// that does not wrap ctx.Err() if unbans have not reached the kernel.
//
// Rules are verified in a goroutine of their own, because another program can make that wait, and entries are listed in
// another one, because there can be many. Orders wait for neither.
func (e *Enforcer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer e.helpers.Wait()
	defer cancel()
	e.startListening(ctx)
	e.schedule = newSchedule(e.opts)
	defer e.schedule.Stop()
	e.round(ctx)
	for {
		select {
		case <-ctx.Done():
			return cmp.Or(e.finish(), ctx.Err())
		case <-e.wake:
			if e.drain() != nil {
				e.schedule.hurry()
			}
		case <-e.noticed:
			e.schedule.soon()
		case c := <-e.changes:
			e.take(ctx, c)
			e.round(ctx)
			close(c.done)
		case v := <-e.verified:
			if ctx.Err() != nil {
				continue // interrupted: the result means nothing
			}
			err := e.conclude(v)
			if e.concludeTap(&v) {
				e.round(ctx)
			}
			if err != nil {
				e.schedule.hurry()
			}
		case l := <-e.listed:
			err := e.reconcile(l)
			if cmp.Or(e.drain(), err) != nil {
				e.schedule.hurry()
			}
		case <-e.schedule.C:
			e.round(ctx)
		}
	}
}

// take takes over a change.
func (e *Enforcer) take(ctx context.Context, c *change) {
	switch {
	case c.backend != nil:
		e.replace(ctx, c)
	case c.tap != nil:
		e.setTap(*c.tap)
	default:
		e.opts.Check, e.schedule.opts.Check = c.check, c.check
		e.backend.Resize(c.maxBans)
	}
}

// round checks sets and entries, and begins a verification of the rules.
func (e *Enforcer) round(ctx context.Context) {
	err := e.check()
	if !e.verifying {
		e.verifying = true
		b := e.backend
		e.helpers.Go(func() { e.verified <- e.verify(ctx, b) })
	}
	e.schedule.next(err)
}

// stopPatience is the time for which Run retries unbans at its end: without the unban, the next start would find the address in
// the kernel and adopt it.
const stopPatience = 45 * time.Second

// finish applies the last orders.
func (e *Enforcer) finish() error {
	deadline := time.Now().Add(stopPatience)
	e.queue.unstick()
	_ = e.drain()
	if _, steps := e.opts.clock(); steps != e.compare.steps { // entries that end by the clock must not be found so by the next start
		e.look()
	}
	if e.compare.changed != nil {
		_ = e.reconcile(<-e.listed)
		_ = e.drain()
	}
	for attempt := 0; ; attempt++ {
		n, one := e.queue.unbans()
		if n == 0 {
			return nil
		}
		if attempt > 0 && !errors.Is(e.faults.orders, ErrLocked) || time.Now().After(deadline) {
			return fmt.Errorf("%d unbans have not reached the kernel, one of them of %v: %w", n, one, e.faults.orders)
		}
		time.Sleep(e.opts.RetryMin)
		_, _ = e.backend.Setup()
		e.queue.unstick()
		_ = e.drain()
	}
}

func (e *Enforcer) verify(ctx context.Context, b Backend) (v Verification) {
	_ = e.timed(Verify, func() error {
		v = b.Verify(ctx)
		return v.Err
	})
	return v
}

func (e *Enforcer) startListening(ctx context.Context) {
	b := e.backend
	ctx, e.unlisten = context.WithCancel(ctx)
	e.helpers.Go(func() { e.listen(ctx, b) })
}

// listen watches for changes by other programs. If it cannot, the next check finds them.
func (e *Enforcer) listen(ctx context.Context, b Backend) {
	for ctx.Err() == nil {
		_ = b.Watch(ctx, func() { signal(e.noticed) })
		select {
		case <-ctx.Done():
		case <-time.After(e.opts.RetryMax):
		}
	}
}

// check repairs the sets, has their entries listed if necessary, and retries failed orders. A failure of one step does not
// prevent the others. It returns the first known fault.
func (e *Enforcer) check() error {
	var made []string
	err := e.timed(Setup, func() (err error) {
		made, err = e.backend.Setup()
		return err
	})
	e.faults.sets = err
	e.note(made, 0, err)
	e.look()
	e.queue.unstick()
	for _, known := range []error{e.drain(), e.faults.sets, e.faults.entries, e.faults.rules} {
		if known != nil && known != errNotYet { //nolint:errorlint // this value itself
			return known
		}
	}
	return nil
}

// conclude takes over the result of a verification.
func (e *Enforcer) conclude(v Verification) error {
	e.verifying = false
	e.faults.rules = v.Err
	e.compare.notes.rules = v.Notes
	e.note(v.Made, 0, v.Err)
	e.report()
	return v.Err
}

// note counts repairs and failures.
func (e *Enforcer) note(made []string, restored int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.setUp {
		e.status.Repairs += uint64(len(made))
		e.status.Restored += uint64(restored)
	}
	if err != nil {
		e.status.Failures++
	}
}

// drain applies the orders in the queue. Those that fail are kept for the next try.
func (e *Enforcer) drain() error {
	var first error
	for more := true; more; {
		var orders map[netip.Prefix]Order
		if orders, more = e.queue.take(time.Now()); len(orders) > 0 {
			first = cmp.Or(first, e.apply(orders))
		}
	}
	e.report()
	return first
}

func (e *Enforcer) apply(taken map[netip.Prefix]Order) error {
	orders := make([]Order, 0, len(taken))
	for _, o := range taken {
		orders = append(orders, o)
	}
	if e.compare.changed != nil {
		for p := range taken {
			e.compare.changed[p] = struct{}{}
		}
	}
	var failed []Order
	err := e.timed(Apply, func() (err error) {
		failed, err = e.backend.Apply(orders)
		return err
	})
	now := time.Now()
	e.queue.done(failed)
	for _, o := range failed {
		delete(taken, o.Prefix)
	}
	if err != nil {
		e.faults.orders = err
		e.note(nil, 0, err)
	}
	for _, o := range taken {
		if o.Add {
			delete(e.compare.ended, o.Prefix)
		} else {
			e.compare.ended[o.Prefix] = struct{}{}
		}
		if e.opts.Applied != nil && !o.Cause.Read.IsZero() {
			e.opts.Applied(o.Add, now.Sub(o.Cause.Read), o.Cause)
		}
	}
	return err
}
