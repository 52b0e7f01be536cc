package fleet

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"fsban/fleet/merge"
	"fsban/policy"
)

// Bounds of the queue.
const (
	maxQueue    = 100_000 // statements about prefixes
	maxAttempts = 10_000  // attempts, distinct in more than their times
	batchSize   = 100     // statements at once
)

// A queue holds the statements to announce: the latest about each prefix, and attempts, equal ones as one with their times.
type queue struct {
	mu       sync.Mutex
	limit    int
	states   map[place]merge.Statement
	order    []place
	attempts map[policy.Attempt]*merge.Statement // by attempts without times
	failed   []policy.Attempt                    // the order of attempts
	dropped  uint64
	lost     bool // a statement found no room: a resync finds it
	wake     chan struct{}
}

// A place names a ban, an allowance or a known-good address.
type place struct {
	kind   string
	prefix netip.Prefix
}

func placeOf(s *merge.Statement) place { return place{kinds[s.Kind], s.Prefix} }

func newQueue() *queue {
	return &queue{limit: maxQueue, states: make(map[place]merge.Statement), attempts: make(map[policy.Attempt]*merge.Statement),
		wake: make(chan struct{}, 1)}
}

// add queues a statement. It never waits.
func (q *queue) add(s merge.Statement) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.rouse()
	if s.Kind == merge.Attempt {
		q.addAttempt(s)
		return
	}
	at := placeOf(&s)
	old, there := q.states[at]
	switch {
	case there && old.Stamp > s.Stamp:
		return
	case !there && len(q.states) >= q.limit:
		q.dropped++
		q.lost = true
		return
	case !there:
		q.order = append(q.order, at)
	}
	q.states[at] = s
}

// step moves the times of all statements by a step of the local clock.
func (q *queue) step(by time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for at, s := range q.states {
		s.Step(by)
		q.states[at] = s
	}
	for _, s := range q.attempts {
		s.Step(by)
	}
}

// addAttempt merges attempts that differ in nothing but their times. Of more than maxTimes the oldest are dropped: the newest ones
// fill a rule's window.
func (q *queue) addAttempt(s merge.Statement) {
	k := s.Attempt
	k.At, k.ReportedAt, k.Source, k.Number = time.Time{}, time.Time{}, 0, "" // not announced, or as times
	old := q.attempts[k]
	switch {
	case old == nil && len(q.attempts) >= maxAttempts:
		q.dropped += uint64(1 + len(s.Earlier))
		return
	case old == nil:
		q.attempts[k] = &s
		q.failed = append(q.failed, k)
		return
	}
	times := slices.Concat(old.Earlier, s.Earlier, []time.Time{old.Attempt.At, s.Attempt.At})
	slices.SortFunc(times, time.Time.Compare)
	if n := len(times) - maxTimes; n > 0 {
		q.dropped += uint64(n)
		times = times[n:]
	}
	old.Earlier, old.Attempt.At = times[:len(times)-1], times[len(times)-1]
}

func (q *queue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes and returns the next statements, attempts last, without bans that are over. It returns none if the queue is empty.
func (q *queue) take(now time.Time) (batch []merge.Statement) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.order) > 0 && len(batch) < batchSize {
		at := q.order[0]
		q.order = q.order[1:]
		if s, ok := q.states[at]; ok {
			delete(q.states, at)
			if s.Kind != merge.Ban || s.Until.IsZero() || s.Until.After(now) {
				batch = append(batch, s)
			}
		}
	}
	for len(q.failed) > 0 && len(batch) < batchSize {
		k := q.failed[0]
		q.failed = q.failed[1:]
		batch = append(batch, *q.attempts[k])
		delete(q.attempts, k)
	}
	return batch
}

// size returns the number of queued statements, and of those dropped.
func (q *queue) size() (waiting int, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.states) + len(q.attempts), q.dropped
}

// lose counts statements that are dropped, and requests a resync.
func (q *queue) lose(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped += uint64(n) //nolint:gosec // never negative
	q.lost = true
}

// overflowed reports whether statements were lost since the last call, once the queue is empty.
func (q *queue) overflowed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	lost := q.lost && len(q.states) == 0
	if lost {
		q.lost = false
	}
	return lost
}
