// Package fleet shares bans and failures between several nodes through a Redis.
//
// Redis holds the state, one statement for each prefix, and a bounded log of the latest statements. Each node announces its
// own statements, reads the log, and applies the statements of others. Of two statements about one prefix the later holds, by
// Redis' clock. A node reads the whole state, and restores the statements that Redis lacks, when it starts, when a part of the
// log is missing, and when Redis is empty or older than before.
//
// No call waits for Redis. All data from Redis is bounded and checked: it may come from an attacker.
package fleet

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"fsban/fleet/merge"
)

// Options configure a Fleet.
type Options struct {
	Addrs              []string
	DB                 int
	Username, Password string
	TLS                *tls.Config // nil: none
	Sentinel           string      // name of the master; Addrs are Sentinels
	Cluster            bool

	Name string      // of the fleet
	Node string      // own node
	From merge.Place // end of the log as read by an earlier process
	// FromEnd: an earlier process has read the log to an unknown place. The entries in the log now are counted, or lost.
	FromEnd bool

	// Take applies statements of others. It may wait; a batch for which it fails is read again. It counts refused statements
	// with Refuse.
	Take func(context.Context, merge.Batch) error
	// Current yields the statements in force here that other nodes may need: bans, allowances and withdrawals.
	Current func(ctx context.Context, yield func(merge.Statement)) error
	// Self returns the description of the own node.
	Self func() Node
	// Now returns the local time; nil: time.Now.
	Now func() time.Time
	// Changed receives the new status when the connection is made or lost, or fails for another reason.
	Changed func(Status)

	Pace Pace // shorter in tests
}

// Pace are the intervals of a Fleet. A zero value stands for the default.
type Pace struct {
	Beat               time.Duration // between two signs of life
	RetryMin, RetryMax time.Duration
	Recheck            time.Duration // until the state is compared with Redis again, at most
}

// A Node describes a node.
type Node struct {
	Name          string    `json:"name"`
	Instance      string    `json:"instance"`
	Version       string    `json:"version"`
	Started       time.Time `json:"started"`
	Ready         bool      `json:"ready"`
	Watching      bool      `json:"watching,omitempty"` // it blocks nobody
	Bans          int       `json:"bans"`
	ActiveSources []string  `json:"active_sources,omitempty"`
	Share         string    `json:"share"`
	Seen          time.Time `json:"-"` // by the local clock
}

// A Fleet is one node's membership.
type Fleet struct {
	opts     Options
	keys     keys
	instance string // random name of this process
	dialer   dialer
	clients  atomic.Pointer[clients]
	clock    clock
	queue    *queue
	writer   writer
	reader   reader
	counts   counts

	mu     sync.Mutex
	state  connState
	log    logState
	repair repair
}

// writer is used by the writing goroutine only.
type writer struct {
	counter uint64 // of batches
	beaten  bool   // this process has sent a sign of life
}

// reader is used by the reading goroutine only.
type reader struct {
	batches merge.Batches
	counted merge.Place // an earlier process has read the log up to here, as far as the log has not gone back since
}

// connState describes the connection.
type connState struct {
	readErr, writeErr error
	up                bool // both directions work
	since             time.Time
	inStep            bool
	seq               uint64 // end of the log
	nodes             int
	clash             bool
	reported          string // error of the latest report
}

// logState is the part of the log that is read.
type logState struct {
	place  merge.Place
	sum    string // of the entry at place
	resync bool   // read the whole state
}

// repair restores statements that Redis lacks.
type repair struct {
	putBack []merge.Statement
	recheck time.Time // of the next comparison; zero: none is due
}

type counts struct {
	sent, received [merge.NumKinds]atomic.Uint64
	refused        [merge.NumRefusals]atomic.Uint64
	errors         atomic.Uint64
	resyncs, gaps  atomic.Uint64
	full           atomic.Uint64
}

// A Status describes a Fleet.
type Status struct {
	Up      bool // Redis can be read and written
	Since   time.Time
	Err     error // reason when not Up
	InStep  bool  // no statement waits in either direction
	Nodes   int   // present, this one included
	Behind  uint64
	Queue   int
	Dropped uint64        // statements for which the queue had no room
	Skew    time.Duration // Redis' clock minus ours
	Clash   bool          // another node has the same name
	Full    uint64        // statements for which Redis had no room
	Errors  uint64        // failed exchanges with Redis, invalid replies and faults included
	Resyncs uint64
	Gaps    uint64 // log ranges trimmed before this node read them
}

// New returns a Fleet that is not running.
func New(o Options) *Fleet {
	defaults := func(d *time.Duration, usual time.Duration) {
		if *d == 0 {
			*d = usual
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	defaults(&o.Pace.Beat, 5*time.Second)
	defaults(&o.Pace.RetryMin, 100*time.Millisecond)
	defaults(&o.Pace.RetryMax, 15*time.Second)
	defaults(&o.Pace.Recheck, 30*time.Second)
	f := &Fleet{
		opts: o, keys: keysOf(o.Name), instance: random(), queue: newQueue(), reader: reader{counted: o.From},
		state: connState{since: time.Now()}, log: logState{place: o.From, resync: true},
	}
	f.dialer.opts = &f.opts
	f.clients.Store(f.dialer.clients())
	return f
}

// random returns a name that no other process has.
func random() string {
	b := make([]byte, 6)
	_, _ = crand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Stamp returns the stamp of a new statement: later than all given or seen before.
func (f *Fleet) Stamp() int64 { return f.clock.stamp(f.opts.Now()) }

// Step says that the local clock was stepped by so much.
func (f *Fleet) Step(by time.Duration) {
	f.clock.step(by)
	f.queue.step(by)
}

// StampOf returns the stamp of an event at a time of the local clock.
func (f *Fleet) StampOf(t time.Time) int64 { return t.Add(f.clock.ahead()).UnixMicro() }

// Announce queues a statement for the other nodes. It never waits.
func (f *Fleet) Announce(s merge.Statement) { f.queue.add(s) }

// Refuse counts a statement that was not applied.
func (f *Fleet) Refuse(reason merge.Refusal) { f.counts.refused[reason].Add(1) }

// Resync requests that the whole state is read again.
func (f *Fleet) Resync() {
	f.mu.Lock()
	f.log.resync = true
	f.mu.Unlock()
}

// Sent returns the number of statements announced.
func (f *Fleet) Sent(w merge.Kind) uint64 { return f.counts.sent[w].Load() }

// Received returns the number of statements of others that were read.
func (f *Fleet) Received(w merge.Kind) uint64 { return f.counts.received[w].Load() }

// Refused returns the number of statements that were not applied for a reason.
func (f *Fleet) Refused(reason merge.Refusal) uint64 { return f.counts.refused[reason].Load() }

// Run reads and writes until ctx ends. Then it announces the queued statements, if Redis accepts them within a second.
func (f *Fleet) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = f.clients.Load().in.Close() }) // a read may block
	defer stop()
	group.Go(func() error { return f.keep(ctx, f.read) })
	group.Go(func() error { return f.keep(ctx, f.write) })
	err := group.Wait()
	f.clients.Load().close()
	return err
}

// keep runs do until ctx ends, and again after each fault. read and write contain the faults of one exchange themselves.
func (f *Fleet) keep(ctx context.Context, do func(context.Context) error) error {
	for {
		err := contained(func() error { return do(ctx) })
		if !errors.Is(err, errPanic) || ctx.Err() != nil {
			return err
		}
		f.counts.errors.Add(1)
		if !sleep(ctx, f.opts.Pace.RetryMax) {
			return ctx.Err()
		}
	}
}

// failed counts an error, and replaces the connections of a Redis that no longer serves the fleet.
func (f *Fleet) failed(ctx context.Context, err error) {
	f.counts.errors.Add(1)
	if replaced(err) && ctx.Err() == nil {
		f.clients.Swap(f.dialer.clients()).close()
	}
}

// Status returns the current status.
func (f *Fleet) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status()
}

func (f *Fleet) status() Status {
	st, c := &f.state, &f.counts
	s := Status{
		Up: st.up, Since: st.since, Nodes: st.nodes, Skew: f.clock.ahead(), Clash: st.clash, Full: c.full.Load(),
		Errors: c.errors.Load(), Resyncs: c.resyncs.Load(), Gaps: c.gaps.Load(),
	}
	s.Queue, s.Dropped = f.queue.size()
	s.Queue += len(f.repair.putBack)
	if f.log.place.Epoch != "" && st.seq > f.log.place.Seq {
		s.Behind = st.seq - f.log.place.Seq
	}
	s.InStep = st.up && st.inStep && s.Queue == 0 && s.Behind == 0
	if s.Err = st.readErr; s.Err == nil {
		s.Err = st.writeErr
	}
	return s
}

// change changes the state, and reports it if the connection is made or lost or fails for another reason.
func (f *Fleet) change(do func(*connState)) {
	f.mu.Lock()
	st := &f.state
	was, reported := st.up, st.reported
	do(st)
	if st.up = st.readErr == nil && st.writeErr == nil && st.inStep; st.up != was {
		st.since = time.Now()
	}
	s := f.status()
	if st.reported = ""; s.Err != nil {
		st.reported = s.Err.Error()
	}
	changed := st.up != was || st.reported != reported
	f.mu.Unlock()
	if changed && f.opts.Changed != nil {
		f.opts.Changed(s)
	}
}

// A pause grows with each failure. It is random, so that nodes do not return all at once.
type pause struct{ min, max, last time.Duration }

func (p *pause) next() time.Duration {
	p.last = min(max(p.last*2, p.min), p.max)
	return p.last/2 + rand.N(p.last/2+1)
}

func (p *pause) reset() { p.last = 0 }

// sleep waits, and reports false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
