// Package decide owns the decision loop: one goroutine that owns the arbiter of sources and the policy, and through package
// book changes bans. It knows nothing of metrics, HTTP, the control protocol or the daemon's lifetimes: it reports to a small
// Recorder and publishes an Observed snapshot.
//
// Sources offer attempts to bounded queues. Offer never waits and drops attempts when its queue is full; only a log file's
// reader waits, because a file can. Other goroutines reach the loop's state by requests, which run in it one at a time.
package decide

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"fsban/decide/book"
	"fsban/decide/sequence"
	"fsban/detect"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// A Recorder counts. Its methods are called from the loop's goroutine and must not wait.
type Recorder interface {
	book.Recorder
	Counted(profile string, k policy.Kind) // an attempt that is no duplicate, reported here
	Detailed(k policy.Kind, detail string) // the detail of such an attempt, if its kind has one
	CountedRemote(kind policy.Kind, n int) // attempts of other nodes
	CountedBanned()                        // an attempt of a prefix that is banned already
	Decided(v policy.Verdict)              // the decision on one attempt
	Reported(r policy.Report)              // an observation of the policy that bans nobody
}

// Settings may be changed by a reload.
type Settings struct {
	Rules         []policy.Rule
	Policy        policy.Options
	Sources       []policy.Source // those that are configured
	Memory        time.Duration   // how long an attempt can matter: the longest findtime
	Limits        book.Limits
	History       History
	ShareFailures bool // with the other nodes of the fleet
}

// History limits the ended bans that are kept.
type History struct {
	Keep time.Duration // after their end
	Max  int           // 0: none
}

// Options are the parts that a Loop works with.
type Options struct {
	Log      *slog.Logger
	Ledger   *ledger.Ledger
	Firewall book.Firewall
	Capacity func() (n int, shared bool) // see book.Options
	Recorder Recorder
	Settings Settings
	Started  time.Time
	Mode     Mode
	Clock    *Clock // nil: one that no earlier process is compared with
}

// A Loop is the decision loop. It spends microseconds on an attempt and never does I/O that can wait. Its exported methods may
// be called from any goroutine, except Restore and Join, which precede Run.
type Loop struct {
	log      *slog.Logger
	ledger   *ledger.Ledger
	book     *book.Book
	engine   *policy.Engine
	arbiter  *detect.Arbiter
	sequence *sequence.Sequence // of arbiter and engine
	recorder Recorder
	settings Settings
	started  time.Time
	clock    *Clock

	queues   queues
	health   health
	requests chan func()
	observed atomic.Pointer[Observed]
	resume   resume
	mode     Mode
	busiest  busiest
	exploits exploits
	fleet    fleetState
}

// New returns a Loop that knows nothing from before its start: call Restore. It starts nothing.
func New(o Options) *Loop {
	opts := o.Settings.Policy
	opts.Records = true
	opts.Seed = rand.Uint64() // nobody outside can predict the length of a ban
	o.Settings.Policy.Seed = opts.Seed
	if o.Clock == nil {
		o.Clock = NewClock(Boot{}, nil)
	}
	engine := policy.NewEngine(o.Settings.Rules, policy.NeverBan{}, opts)
	l := &Loop{
		log: o.Log, ledger: o.Ledger, engine: engine, arbiter: detect.NewArbiter(o.Settings.Sources...), recorder: o.Recorder,
		settings: o.Settings, started: o.Started, clock: o.Clock, mode: o.Mode, queues: newQueues(), requests: make(chan func()),
		busiest: newBusiest(),
		book: book.New(book.Options{
			Log: o.Log, Ledger: o.Ledger, Engine: engine, Firewall: o.Firewall, Capacity: o.Capacity, Recorder: o.Recorder,
			Limits: o.Settings.Limits, Started: o.Started, Watching: o.Mode.Watching, Now: o.Clock.Now,
		}),
	}
	l.sequence = sequence.New(l.arbiter, engine, effects{l})
	l.limitHistory(o.Started)
	l.publish()
	return l
}

// Run decides until ctx ends, then on the attempts that are still in the queues, and seals the journal.
func (l *Loop) Run(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case q := <-l.queues.offered:
			l.decide(&q)
		case q := <-l.queues.lines:
			l.decide(&q)
		case f := <-l.requests:
			f()
		case <-l.book.Ready():
			l.book.TakeKernel(l.clock.Now())
		case <-ticker.C:
			l.followClock()
			l.Tick(l.clock.Now())
		case <-ctx.Done():
			l.Drain()
			l.resume.changed = true // the time of the end
			l.seal(l.clock.Now())
			return ctx.Err()
		}
	}
}

// Drain decides on the attempts that are queued. Only the goroutine of Run may call it, or any before Run.
func (l *Loop) Drain() {
	for {
		select {
		case q := <-l.queues.offered:
			l.decide(&q)
		case q := <-l.queues.lines:
			l.decide(&q)
		default:
			return
		}
	}
}

// Tick does the work that is due without an attempt. Run calls it every second. The same goroutines as for Drain may call it.
func (l *Loop) Tick(now time.Time) {
	l.book.Expire(now)
	l.updateArbiter(now)
	l.sequence.CountMissed(now)
	l.sequence.Advance(now)
	l.book.ExpireAllowances(now)
	l.book.Tick(now)
	l.sweep(now)
	l.seal(now)
	l.publish()
}

// Now returns the time that ends of bans are compared with.
func (l *Loop) Now() time.Time { return l.clock.Now() }

// followClock moves all times in memory and on disk when the clock was stepped. They are written with the entry of the journal that
// says so, or the next start would move them again.
func (l *Loop) followClock() {
	l.clock.Follow(func(now time.Time, by time.Duration) {
		l.log.Warn("clock stepped", "by", by)
		l.ledger.Together(func() {
			l.ledger.Step(by)
			l.book.Step(by)
			l.step(by, now)
			l.resume.swept = l.resume.swept.Add(by)
			l.busiest = newBusiest()
			l.seal(now)
		})
	})
}

// step moves the policy's times, and notes that in the journal.
func (l *Loop) step(by time.Duration, now time.Time) {
	l.engine.StepClock(by)
	l.book.Note(ledger.Entry{Step: by, At: now}, now)
	l.resume.ahead += max(by, 0)
}

// Do runs f in the loop's goroutine and waits for its end. f must not wait.
func (l *Loop) Do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case l.requests <- func() { defer close(done); f() }:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// Apply replaces rules, options and sources. Counts of unchanged rules are kept.
func (l *Loop) Apply(ctx context.Context, s Settings) error {
	return l.Do(ctx, func() {
		s.Policy.Seed = l.settings.Policy.Seed
		l.settings = s
		l.engine.SetRules(s.Rules, s.Policy)
		l.book.SetLimits(s.Limits)
		l.limitHistory(l.clock.Now())
		l.arbiter.SetSources(l.clock.Now(), s.Sources...)
	})
}

// SetNeverBan replaces the never-ban list of the configuration and of this host, and ends the bans that it forbids.
func (l *Loop) SetNeverBan(ctx context.Context, entries []policy.NeverEntry) error {
	return l.Do(ctx, func() { l.book.SetConfigured(entries) })
}

// Found reports entries that the kernel holds and the ledger does not know. It does not wait for the loop.
func (l *Loop) Found(entries []firewall.Entry) { l.book.Found(entries) }

// Amended reports ends of bans that somebody has changed in the kernel. It does not wait for the loop.
func (l *Loop) Amended(entries []firewall.Entry) { l.book.Amended(entries) }

// SkipLog forgets how far mod_cti's log was read: another one is followed from its end.
func (l *Loop) SkipLog(ctx context.Context) error {
	now := l.clock.Now()
	return l.Do(ctx, func() {
		l.resume.log, l.resume.lines, l.resume.changed = LogPosition{At: now, Clock: now}, detect.LineTail{}, true
	})
}
