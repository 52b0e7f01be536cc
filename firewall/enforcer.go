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

// EnforcerOptions connect an Enforcer with those who know what should be banned.
type EnforcerOptions struct {
	// Bans yields every ban that should be in force, with its end (zero: without end). It is called from Run's goroutine.
	Bans func() iter.Seq2[netip.Prefix, time.Time]
	// Tally returns how many bans Bans yields, and how many of them end by soon, and by later. It is called from Run's
	// goroutine; nil: they are counted one by one.
	Tally func(soon, later time.Time) (all, bySoon, byLater int)
	// Adopt is given the entries that the kernel holds and Bans does not know: what an earlier run left, or somebody
	// added by hand. They stay in force. Called from Run's goroutine; nil: they are left alone.
	Adopt func([]Entry)
	// Amend is given the entries that the kernel holds until another time than Bans says, because somebody has changed them
	// by hand. Their end is that of the kernel from then on: let Bans yield it. Called from Run's goroutine; nil: ends are
	// put right in the kernel.
	Amend func([]Entry)
	// Applied is called for each ban and unban that the kernel took, from Run's goroutine, with what caused it and the time
	// that went by since that was read. Bans that were put back after a start or a repair are not reported.
	Applied func(ban bool, took time.Duration, cause Cause)
	// Operated is called after each operation on the kernel, from any goroutine, with what it took.
	Operated func(op Operation, took time.Duration, err error)
	// Changed is called when bans come into force or are no longer, with another reason why not, and after a repair. It is
	// called from Run's goroutine.
	Changed func(Status)

	Check    time.Duration // how often the kernel is compared with what should be there, unasked; default 10s
	RetryMin time.Duration // the pause after a failure, doubled each time; default 200ms
	RetryMax time.Duration // default 10s
}

// An Enforcer owns the kernel: one goroutine, in Run. The other methods may be called from any goroutine.
type Enforcer struct {
	backend Backend
	opts    EnforcerOptions
	wake    chan struct{} // there are orders
	noticed chan struct{} // somebody else has changed what is ours
	guarded chan guarded  // what a look at the rules has found
	listed  chan listing  // what a look at the entries has
	changes chan change   // of what Run goes by

	// A prefix is in one of the three maps at most, with the newest order for it.
	mu        sync.Mutex
	pending   map[netip.Prefix]op
	restoring map[netip.Prefix]op // bans that are put back, some at a time
	stuck     map[netip.Prefix]op // orders that failed, and wait for the next try
	taken     int                 // orders that are being applied
	status    Status

	// What follows is for Run's goroutine alone.
	helpers  sync.WaitGroup
	setUp    bool       // once, at least
	guarding bool       // a look at the rules is under way
	unmade   error      // why the sets are not what they should be, as of the last check
	unlisted error      // why their entries are not known
	unruled  error      // why the rules are not what they should be
	refused  error      // why orders are stuck
	told     Status     // what Changed was last told
	schedule schedule   // see schedule.go
	compare  comparison // see compare.go
}

// errNotYet stands until the rules, or the entries, have been looked at for the first time.
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
		backend: b, opts: opts,
		wake:    make(chan struct{}, 1),
		noticed: make(chan struct{}, 1),
		guarded: make(chan guarded, 1),
		listed:  make(chan listing, 1),
		changes: make(chan change),
		pending: make(map[netip.Prefix]op), restoring: make(map[netip.Prefix]op), stuck: make(map[netip.Prefix]op),
		status:  Status{Backend: b.Name(), Err: errNotYet},
		unruled: errNotYet, unlisted: errNotYet,
		compare: comparison{ended: make(map[netip.Prefix]struct{})},
	}
}

// Ban orders a ban of prefix that ends at until, or never if until is zero. Call it when Bans yields the ban already: Run takes
// an entry that Bans does not know for somebody else's.
func (e *Enforcer) Ban(prefix netip.Prefix, until time.Time, cause Cause) {
	e.order(op{prefix: prefix, add: true, until: until, cause: cause})
}

// Unban orders the end of a ban. Call it before the ban leaves whatever Bans yields, and let it leave at once: Run adopts
// an entry that Bans does not know, and by the next check but one restores a ban that it still knows.
func (e *Enforcer) Unban(prefix netip.Prefix, cause time.Time) {
	e.order(op{prefix: prefix, cause: Cause{Read: cause}})
}

// A change is what Set asks for.
type change struct {
	check   time.Duration
	maxBans int
	done    chan struct{}
}

// Set changes EnforcerOptions.Check, and the Options.MaxBans of the backend, while Run runs. It returns when the kernel has
// been looked at with both, or when ctx ends. A set that holds more entries than it may have stays as large as it is.
func (e *Enforcer) Set(ctx context.Context, check time.Duration, maxBans int) error {
	c := change{check, maxBans, make(chan struct{})}
	select {
	case e.changes <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Enforcer) order(o op) {
	e.mu.Lock()
	e.pending[o.prefix] = o
	delete(e.restoring, o.prefix)
	delete(e.stuck, o.prefix)
	e.mu.Unlock()
	signal(e.wake)
}

// signal leaves a sign on a channel that holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Status returns whether bans are in force.
func (e *Enforcer) Status() Status {
	dropped, sizes := e.backend.Dropped(), e.backend.sizes()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.status
	s.Pending = len(e.pending) + len(e.restoring) + len(e.stuck) + e.taken
	s.Dropped, s.Sets = dropped, sizes
	return s
}

// Entries lists what the kernel holds, with what it counted for each. It holds up neither bans nor packets, and takes
// about 2 µs an entry.
func (e *Enforcer) Entries() (entries []Entry, err error) {
	err = e.timed(List, func() error {
		entries, err = e.backend.entries()
		return err
	})
	return entries, err
}

// Run sets the kernel up, restores what should be in it, and applies orders until ctx ends. What is pending then is tried
// once more. It leaves every ban in force.
//
// Rules are looked at in a goroutine of their own, because another program can make that wait, and so are entries, because
// there can be many. Orders wait for neither.
func (e *Enforcer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer e.helpers.Wait()
	defer cancel()
	e.helpers.Go(func() { e.listen(ctx) })
	e.schedule = newSchedule(e.opts)
	defer e.schedule.Stop()
	round := func() {
		err := e.check()
		if !e.guarding {
			e.guarding = true
			e.helpers.Go(func() { e.guarded <- e.guard(ctx) })
		}
		e.schedule.next(err)
	}
	round()
	for {
		select {
		case <-ctx.Done():
			e.unstick()
			_ = e.drain()
			if e.compare.changed != nil {
				_ = e.reconcile(<-e.listed)
				_ = e.drain()
			}
			return ctx.Err()
		case <-e.wake:
			if e.drain() != nil {
				e.schedule.hurry()
			}
		case <-e.noticed:
			e.schedule.soon()
		case c := <-e.changes:
			e.opts.Check, e.schedule.opts.Check = c.check, c.check
			e.backend.limit(c.maxBans)
			round()
			close(c.done)
		case g := <-e.guarded:
			if ctx.Err() != nil {
				continue // the look was broken off, which says nothing of the rules
			}
			if e.finish(g) != nil {
				e.schedule.hurry()
			}
		case l := <-e.listed:
			err := e.reconcile(l)
			if cmp.Or(e.drain(), err) != nil {
				e.schedule.hurry()
			}
		case <-e.schedule.C:
			round()
		}
	}
}

func (e *Enforcer) guard(ctx context.Context) (g guarded) {
	_ = e.timed(Guard, func() error {
		g = e.backend.guard(ctx)
		return g.err
	})
	return g
}

// listen hears of what others change in the kernel. Where it cannot, the next check will find it.
func (e *Enforcer) listen(ctx context.Context) {
	for ctx.Err() == nil {
		_ = e.backend.watch(ctx, func() { signal(e.noticed) })
		select {
		case <-ctx.Done():
		case <-time.After(e.opts.RetryMax):
		}
	}
}

// check makes the sets what they should be, has their entries listed if it must, and tries again what failed. Where it
// cannot do everything it does the rest. It returns what is wrong, as far as it is known by now.
func (e *Enforcer) check() error {
	var made []string
	err := e.timed(Setup, func() (err error) {
		made, err = e.backend.setup()
		return err
	})
	e.unmade = err
	e.note(made, 0, err)
	e.look()
	e.unstick()
	for _, known := range []error{e.drain(), e.unmade, e.unlisted, e.unruled} {
		if known != nil && known != errNotYet { //nolint:errorlint // this very one
			return known
		}
	}
	return nil
}

// finish takes in what a look at the rules has found.
func (e *Enforcer) finish(g guarded) error {
	e.guarding = false
	e.unruled = g.err
	e.mu.Lock()
	e.status.Notes = g.notes
	e.mu.Unlock()
	e.note(g.made, 0, g.err)
	e.conclude()
	return g.err
}

// note counts what has been repaired, and what has failed.
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
	var first error
	for more := true; more; {
		var orders map[netip.Prefix]op
		if orders, more = e.take(); len(orders) > 0 {
			first = cmp.Or(first, e.apply(orders))
		}
	}
	e.conclude()
	return first
}

// restoreAtOnce is how many bans are put back at once. It takes 20 to 100 ms, for which a new ban may have to wait.
const restoreAtOnce = 10_000

// take returns what is pending, and with it some of the bans to put back, and tells whether there are more of those.
func (e *Enforcer) take() (orders map[netip.Prefix]op, more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	orders, e.pending = e.pending, make(map[netip.Prefix]op)
	room := restoreAtOnce
	for p, o := range e.restoring {
		if room--; room < 0 {
			break
		}
		orders[p] = o
		delete(e.restoring, p)
	}
	if room < restoreAtOnce && len(e.restoring) == 0 {
		e.restoring = make(map[netip.Prefix]op) // one that was large stays so
	}
	e.taken = len(orders)
	return orders, len(e.restoring) > 0
}

func (e *Enforcer) apply(taken map[netip.Prefix]op) error {
	ops := make([]op, 0, len(taken))
	for _, o := range taken {
		ops = append(ops, o)
	}
	if e.compare.changed != nil {
		for p := range taken {
			e.compare.changed[p] = struct{}{}
		}
	}
	var failed []op
	err := e.timed(Apply, func() (err error) {
		failed, err = e.backend.apply(ops)
		return err
	})
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
		if o.add {
			delete(e.compare.ended, o.prefix)
		} else {
			e.compare.ended[o.prefix] = struct{}{}
		}
		if e.opts.Applied != nil && !o.cause.Read.IsZero() {
			e.opts.Applied(o.add, now.Sub(o.cause.Read), o.cause)
		}
	}
	return err
}
