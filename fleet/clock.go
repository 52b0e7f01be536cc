package fleet

import (
	"fmt"
	"sync"
	"time"
)

// A clock estimates Redis' clock. While Redis is unreachable, it goes on with the last known offset.
type clock struct {
	mu     sync.Mutex
	offset time.Duration // Redis' clock minus the local one
	known  bool
	trip   time.Duration // round trip of the measurement: offset is wrong by at most half of it
	asked  time.Time
	last   int64 // latest stamp given or seen
}

// fresh is the time for which a measurement is preferred to one with a longer round trip.
const fresh = time.Minute

// maxSkew bounds the offset. Stamps of a clock further ahead would outlive the fault.
const maxSkew = 366 * 24 * time.Hour

// heard takes the time of Redis' clock that was asked for and answered at times of the local one.
func (c *clock) heard(redis, asked, answered time.Time) error {
	trip := answered.Sub(asked)
	offset := redis.Sub(asked.Add(trip / 2))
	if offset.Abs() > maxSkew {
		return fmt.Errorf("its clock shows %.40s: more than a year from ours", redis.UTC().Format(time.RFC3339))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known && trip > c.trip && answered.Sub(c.asked) < fresh {
		return nil
	}
	c.offset, c.known = offset, true
	c.trip, c.asked = trip, answered
	return nil
}

// step follows a step of the local clock: Redis' clock was not stepped.
func (c *clock) step(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset -= by
	c.asked = c.asked.Round(0).Add(by)
}

// stamp returns the stamp of a new statement: later than all stamps given or seen.
func (c *clock) stamp(now time.Time) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last+1, now.Add(c.offset).UnixMicro())
	return c.last
}

// saw notes the stamp of a received statement. decode refuses one that is far ahead.
func (c *clock) saw(stamp int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, stamp)
}

func (c *clock) ahead() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}
