// Package fleet shares bans and failures between several fsbans through a Redis.
//
// Redis holds what is in force now, a statement for each prefix, and a bounded log of what was said last. Each node says
// what it has to say, reads the log, and takes what others said. Of two statements about one prefix the newer holds, by
// Redis' clock. A node that comes, that has missed a part of the log, or that finds Redis empty or older than it was, reads
// everything and puts back what Redis lacks.
//
// Nothing here keeps the caller waiting, and everything that is read is bounded and checked as if it came from an attacker.
package fleet

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// Options say where Redis is, who we are, and what to do with what others say.
type Options struct {
	Addrs              []string
	DB                 int
	Username, Password string
	TLS                *tls.Config // nil: none
	Sentinel           string      // the name that sentinels know the master by; then Addrs are sentinels
	Cluster            bool

	Name string // of the fleet
	Node string // ours
	From Place  // how far the log was read by an earlier process
	// FromEnd: that is not known, though it was read. What the log holds now has counted, or never will.
	FromEnd bool

	// Take takes what others have said. It may wait; what it has not taken is read again. Of what it refuses it tells Refuse.
	Take func(context.Context, Batch) error
	// Current goes through all that holds here and that others may have to know: bans, allowances, what was taken back.
	Current func(ctx context.Context, yield func(Statement)) error
	// Self returns what to tell of ourselves.
	Self func() Node
	// Changed is told when the state changes that Status returns.
	Changed func(Status)

	Pace Pace // for tests: less patience
}

// Pace is how often things are done, and how long is waited. Zero values take what is usual.
type Pace struct {
	Beat               time.Duration // between two signs of life
	RetryMin, RetryMax time.Duration
	Recheck            time.Duration // until it is looked once more for what Redis lacks, at most
}

// A Place is how far a log was read.
type Place struct {
	Epoch string `json:"epoch,omitempty"`
	Seq   uint64 `json:"seq,omitempty"`
}

// A Batch is what others have said.
type Batch struct {
	Statements []Statement
	Sync       bool  // it is what holds in Redis, not what was said now
	Place      Place // where the log goes on behind it; the zero Place with Sync
}

// A Node is what is known of a node.
type Node struct {
	Name     string    `json:"name"`
	Instance string    `json:"instance"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Ready    bool      `json:"ready"`
	Bans     int       `json:"bans"`
	Speaks   []string  `json:"speaks,omitempty"` // the sources whose word counts there
	Share    string    `json:"share"`
	Seen     time.Time `json:"-"` // by our clock
}

// A Fleet is one node's part of it.
type Fleet struct {
	opts     Options
	keys     keys
	instance string
	in, out  redis.UniversalClient // what is read and what is said does not wait for the other
	clock    clock
	queue    *queue
	counter  uint64             // of batches; the writer's own
	heard    map[string]numbers // the last batch of each node; the reader's own
	first    bool               // no beat of this process yet; the writer's own

	mu      sync.Mutex
	state   state
	place   Place
	sum     string      // of the entry at place
	putBack []Statement // what Redis lacks
	recheck time.Time   // when to look once more for what it lacks; zero: no need
	resync  bool        // the state is to be read again

	sent, received [NumWhat]atomic.Uint64
	refused        [len(Reasons)]atomic.Uint64
	errors         atomic.Uint64
	resyncs, gaps  atomic.Uint64
	full           atomic.Uint64
}

// numbers are those of the last batch of a node.
type numbers struct {
	instance string
	counter  uint64
}

// state is what is known of the connection.
type state struct {
	readErr, writeErr error
	up                bool // both directions
	since             time.Time
	inStep            bool
	seq               uint64 // of the log's end
	nodes             int
	clash             bool
	told              string // the error, as last told
}

// Reasons why a statement is not taken. The set is closed and small: safe as a metric label.
var Reasons = [...]string{"malformed", "version", "too_wide", "never_ban", "rate", "full"}

// The reasons' places in Reasons.
const (
	Malformed = iota
	Version
	TooWide
	NeverBan
	Rate
	Full
)

// A Status is how a fleet stands.
type Status struct {
	Up      bool // Redis answers, and takes what we say
	Since   time.Time
	Err     error // why not
	InStep  bool  // all that was said is taken here, and all that we had to say is said
	Nodes   int   // heard lately, this one included
	Behind  uint64
	Queue   int
	Dropped uint64        // statements that found no room in the queue
	Skew    time.Duration // Redis' clock minus ours
	Clash   bool          // another node has our name
	Full    uint64        // statements that found no room in Redis
	Errors  uint64
	Resyncs uint64
	Gaps    uint64 // parts of the log that were gone before they were read
}

// New returns a Fleet. It starts nothing.
func New(o Options) *Fleet {
	defaults := func(d *time.Duration, usual time.Duration) {
		if *d == 0 {
			*d = usual
		}
	}
	defaults(&o.Pace.Beat, 5*time.Second)
	defaults(&o.Pace.RetryMin, 100*time.Millisecond)
	defaults(&o.Pace.RetryMax, 15*time.Second)
	defaults(&o.Pace.Recheck, 30*time.Second)
	return &Fleet{
		opts: o, keys: keysOf(o.Name), instance: random(), in: newClient(&o), out: newClient(&o), queue: newQueue(),
		place: o.From, heard: make(map[string]numbers), state: state{since: time.Now()}, first: true, resync: true,
	}
}

// random returns a name that nobody else has.
func random() string {
	b := make([]byte, 6)
	_, _ = crand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Stamp returns the stamp of what is said now: newer than all that was said or heard here before.
func (f *Fleet) Stamp() int64 { return f.clock.stamp(time.Now()) }

// StampOf returns the stamp of something that happened at a time of our clock.
func (f *Fleet) StampOf(t time.Time) int64 { return t.Add(f.clock.ahead()).UnixMicro() }

// Say has the others told. It never waits.
func (f *Fleet) Say(s Statement) { f.queue.add(s) }

// Refuse counts a statement that was not taken.
func (f *Fleet) Refuse(reason int) { f.refused[reason].Add(1) }

// Resync has everything read again that is in Redis.
func (f *Fleet) Resync() {
	f.mu.Lock()
	f.resync = true
	f.mu.Unlock()
}

// Sent, Received and Refused return counts for metrics.
func (f *Fleet) Sent(w What) uint64 { return f.sent[w].Load() }

// Received returns how many statements of others were read.
func (f *Fleet) Received(w What) uint64 { return f.received[w].Load() }

// Refused returns how many statements were not taken for one of Reasons.
func (f *Fleet) Refused(reason int) uint64 { return f.refused[reason].Load() }

// Run reads and says until ctx ends; then it says what is left, if Redis takes it within a second.
func (f *Fleet) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = f.in.Close() }) // it may be waiting for the log to go on
	defer stop()
	group.Go(func() error { return f.read(ctx) })
	group.Go(func() error { return f.write(ctx) })
	err := group.Wait()
	_ = f.out.Close()
	return err
}

// Status returns how the fleet stands.
func (f *Fleet) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status()
}

func (f *Fleet) status() Status {
	st := &f.state
	s := Status{
		Up: st.up, Since: st.since, Nodes: st.nodes, Skew: f.clock.ahead(), Clash: st.clash, Full: f.full.Load(),
		Errors: f.errors.Load(), Resyncs: f.resyncs.Load(), Gaps: f.gaps.Load(),
	}
	s.Queue, s.Dropped = f.queue.size()
	s.Queue += len(f.putBack)
	if f.place.Epoch != "" && st.seq > f.place.Seq {
		s.Behind = st.seq - f.place.Seq
	}
	s.InStep = st.up && st.inStep && s.Queue == 0 && s.Behind == 0
	if s.Err = st.readErr; s.Err == nil {
		s.Err = st.writeErr
	}
	return s
}

// change changes the state, and tells of it where Redis has come or gone, or fails in another way.
func (f *Fleet) change(do func(*state)) {
	f.mu.Lock()
	st := &f.state
	was, told := st.up, st.told
	do(st)
	if st.up = st.readErr == nil && st.writeErr == nil && st.inStep; st.up != was {
		st.since = time.Now()
	}
	s := f.status()
	if st.told = ""; s.Err != nil {
		st.told = s.Err.Error()
	}
	changed := st.up != was || st.told != told
	f.mu.Unlock()
	if changed && f.opts.Changed != nil {
		f.opts.Changed(s)
	}
}

// A pause grows with each failure, and is never the same for two nodes, so that they do not come back all at once.
type pause struct{ min, max, last time.Duration }

func (p *pause) next() time.Duration {
	p.last = min(max(p.last*2, p.min), p.max)
	return p.last/2 + rand.N(p.last/2+1)
}

func (p *pause) reset() { p.last = 0 }

// sleep waits, and tells false when ctx ends.
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
