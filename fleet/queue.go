package fleet

import (
	"net/netip"
	"sync"
	"time"

	"fsban/policy"
)

// The bounds of what waits to be said.
const (
	maxQueue    = 100_000 // statements about prefixes
	maxAttempts = 10_000  // attempts, told apart by address, kind and user
	batchSize   = 100     // statements at once
)

// A queue is what a node has to say. Of statements about one prefix the newest is kept; attempts that are alike are
// counted.
type queue struct {
	mu       sync.Mutex
	limit    int
	states   map[place]Statement
	order    []place
	attempts map[alike]*Statement
	failed   []alike // the order of attempts
	dropped  uint64
	lost     bool // a statement found no room: what Redis lacks has to be found out
	wake     chan struct{}
}

// A place is what there is one statement of.
type place struct {
	kind   string
	prefix netip.Prefix
}

// alike are attempts that count as one statement.
type alike struct {
	addr netip.Addr
	kind policy.Kind
	user string
}

func newQueue() *queue {
	return &queue{limit: maxQueue, states: make(map[place]Statement), attempts: make(map[alike]*Statement), wake: make(chan struct{}, 1)}
}

// add never waits.
func (q *queue) add(s Statement) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.rouse()
	if s.What == Attempt {
		q.addAttempt(s)
		return
	}
	at := place{kinds[s.What], s.Prefix}
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

func (q *queue) addAttempt(s Statement) {
	k := alike{s.Attempt.Addr, s.Attempt.Kind, s.Attempt.User}
	if old := q.attempts[k]; old != nil && old.Times < maxTimes {
		old.Times += s.Times
		old.Attempt.At = later(old.Attempt.At, s.Attempt.At)
		return
	}
	if q.attempts[k] != nil || len(q.attempts) >= maxAttempts {
		q.dropped += uint64(s.Times)
		return
	}
	q.attempts[k] = &s
	q.failed = append(q.failed, k)
}

func (q *queue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns what to say next, states first: nothing when there is nothing. What is too old to matter is left out.
func (q *queue) take(now time.Time) (batch []Statement) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.order) > 0 && len(batch) < batchSize {
		at := q.order[0]
		q.order = q.order[1:]
		if s, ok := q.states[at]; ok {
			delete(q.states, at)
			if s.What != Ban || s.Until.IsZero() || s.Until.After(now) {
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

// size returns how many statements wait, and how many were dropped.
func (q *queue) size() (waiting int, dropped uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.states) + len(q.attempts), q.dropped
}

// overflowed tells whether statements were lost since it was last asked.
func (q *queue) overflowed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	lost := q.lost && len(q.states) == 0
	if lost {
		q.lost = false
	}
	return lost
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
