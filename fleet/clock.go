package fleet

import (
	"sync"
	"time"
)

// A clock is Redis', as far as we know it. While Redis is away, ours goes on with what was known of the difference.
type clock struct {
	mu     sync.Mutex
	offset time.Duration // Redis' clock minus ours
	known  bool
	trip   time.Duration // how long the question took that offset is from: it is wrong by at most half of that
	asked  time.Time
	last   int64 // the newest stamp that was given or seen
}

// fresh is how long an offset is better than one that took longer to find out.
const fresh = time.Minute

// heard notes what Redis' clock said to a question that was asked at one time of ours and answered at another.
func (c *clock) heard(redis, asked, answered time.Time) {
	trip := answered.Sub(asked)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known && trip > c.trip && answered.Sub(c.asked) < fresh {
		return
	}
	c.offset, c.known = redis.Sub(asked.Add(trip/2)), true
	c.trip, c.asked = trip, answered
}

// stamp returns the time of a new statement: later than that of any before, and than any that we have seen.
func (c *clock) stamp(now time.Time) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last+1, now.Add(c.offset).UnixMicro())
	return c.last
}

// saw notes the stamp of somebody else's statement. decode has seen to it that it is not far ahead.
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
