package decide

import (
	"sync"
	"time"
)

// maxDrift is by how much the system's clock may differ from a Clock before that is a step.
const maxDrift = time.Second

// A Clock is the time by which ends are compared: of bans in the ledger and in the enforcer, of allowances, and of all that the
// policy remembers. It follows the system's clock, but a step of that clock does not show before Follow, which moves all these
// times at once. Until then a Clock goes on by monotonic time, as the kernel's timeouts do: at no moment does a step end a ban,
// or extend one. Its methods may be called from any goroutine, except Follow, which is for the loop's.
type Clock struct {
	now   func() time.Time
	wall  func(time.Time) time.Time
	boot  Boot
	start time.Time

	mu     sync.RWMutex
	base   time.Time // by this clock, at start
	steps  uint64
	missed time.Duration
}

// A Boot identifies a run of the kernel, in which monotonic time is one. The zero Boot is unknown.
type Boot struct {
	ID string
	Up time.Duration // monotonic time at the call of NewClock
}

// NewClock returns a Clock that agrees with the system's. wall returns the reading of the system's clock at a time that time.Now
// has returned; nil: the time's own.
func NewClock(boot Boot, wall func(time.Time) time.Time) *Clock {
	if wall == nil {
		wall = func(t time.Time) time.Time { return t }
	}
	c := &Clock{now: time.Now, wall: wall, boot: boot, start: time.Now()}
	c.base = wall(c.start).Round(0)
	return c
}

// Now returns the time.
func (c *Clock) Now() time.Time { return c.of(c.now()) }

// of returns the time of this clock at a time that time.Now has returned.
func (c *Clock) of(t time.Time) time.Time {
	c.mu.RLock()
	defer c.mu.RUnlock()
	steady, drift := c.read(t)
	if drift.Abs() > maxDrift {
		return steady
	}
	return c.wall(t)
}

// shift returns of(t) minus the reading of the system's clock at t: 0 unless that clock was stepped between t and the last Follow.
func (c *Clock) shift(t time.Time) time.Duration {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if _, drift := c.read(t); drift.Abs() > maxDrift {
		return -drift
	}
	return 0
}

// read returns the time of this clock at t, and by how much the system's differs. The caller holds the lock.
func (c *Clock) read(t time.Time) (steady time.Time, drift time.Duration) {
	steady = c.base.Add(t.Sub(c.start))
	return steady, c.wall(t).Round(0).Sub(steady)
}

// Reading returns the time, and a number that differs when the system's clock was stepped in between. It is odd after a step until
// Follow: comparisons with the system's clock, also by the kernel, mean nothing then.
func (c *Clock) Reading() (now time.Time, steps uint64) {
	t := c.now()
	c.mu.RLock()
	defer c.mu.RUnlock()
	steady, drift := c.read(t)
	if drift.Abs() > maxDrift {
		return steady, c.steps + 1
	}
	return c.wall(t), c.steps
}

// Follow follows a step of the system's clock. It calls move with the new time and the step. Nobody can read the clock until move
// returns, not even move.
func (c *Clock) Follow(move func(now time.Time, by time.Duration)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.now()
	_, by := c.read(t)
	if by.Abs() <= maxDrift {
		return
	}
	c.base = c.base.Add(by)
	c.steps += 2
	move(c.wall(t), by)
}

// A clockState is the part of a Clock that is sealed with the journal.
type clockState struct {
	Boot  string    `json:"boot,omitempty"`
	Epoch time.Time `json:"epoch,omitzero"` // when the kernel started, by the clock
	At    time.Time `json:"at,omitzero"`    // of the seal
}

// state returns the state for a seal, without its time. It is for the loop's goroutine, the only one that changes it.
func (c *Clock) state() clockState {
	if c.boot.ID == "" {
		return clockState{}
	}
	return clockState{Boot: c.boot.ID, Epoch: c.base.Add(-c.boot.Up)}
}

// Missed returns by how much the clock was stepped since an earlier process sealed state, and remembers it for Restore. Within a
// run of the kernel it is exact. Over a boot only a clock that shows a time before the seal is known to be wrong: it was set back
// at least as far. Call it once, before Restore.
func (c *Clock) Missed(state []byte) time.Duration {
	p, _, _, err := readState(state)
	if err != nil {
		return 0
	}
	by := time.Duration(0)
	switch now, s := c.Now(), &p.Clock; {
	case s.Boot != "" && s.Boot == c.boot.ID:
		by = c.state().Epoch.Sub(s.Epoch)
	case s.At.After(now):
		by = now.Sub(s.At)
	}
	if by.Abs() > maxDrift {
		c.missed = by.Round(time.Millisecond)
		c.steps = 2 // since the entries of the kernel were made
	}
	return c.missed
}
