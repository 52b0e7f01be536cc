package daemon

import (
	"bytes"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"fsban/detect"
	"fsban/esl"
)

// A pulse is FreeSWITCH's own state according to its events. The event socket's reader writes it; any goroutine may read it.
type pulse struct {
	last   atomic.Int64 // when the last event was read, unix microseconds
	beat   atomic.Pointer[detect.Heartbeat]
	beatAt atomic.Int64 // when it was read, unix microseconds
	clock  clock

	core    [64]byte // of the last event; the reader's own
	coreLen int
}

// take takes in an event that has just been read, and reports whether FreeSWITCH has restarted since the event before.
func (p *pulse) take(d *detect.Detector, ev *esl.Event, now time.Time) (restarted bool) {
	p.last.Store(now.UnixMicro())
	if at, ok := detect.EventTime(ev); ok {
		p.clock.add(at, now)
	}
	if beat, ok := d.Heartbeat(ev); ok {
		kept := beat // or every event would cost an allocation
		p.beat.Store(&kept)
		p.beatAt.Store(now.UnixMicro())
	}
	return p.noteCore(d.Core(ev))
}

// noteCore reports whether core identifies another process of FreeSWITCH than that of the event before.
func (p *pulse) noteCore(core []byte) (restarted bool) {
	if len(core) == 0 || len(core) > len(p.core) || bytes.Equal(core, p.core[:p.coreLen]) {
		return false
	}
	restarted = p.coreLen > 0
	p.coreLen = copy(p.core[:], core)
	return restarted
}

// heartbeat is the last one, or zero.
func (p *pulse) heartbeat() detect.Heartbeat {
	if beat := p.beat.Load(); beat != nil {
		return *beat
	}
	return detect.Heartbeat{}
}

// A clock estimates how far FreeSWITCH's clock is ahead of ours. An event is read a while after it happened, never before: so
// the largest difference of a minute is the best estimate, however late most events are.
type clock struct {
	began        time.Time // of the window
	best, before time.Duration
	offset       atomic.Int64 // nanoseconds
}

// clockWindow is half of the time that an estimate covers. FreeSWITCH's heartbeat comes every 20 s.
const clockWindow = 30 * time.Second

// add belongs to the reader.
func (c *clock) add(at, now time.Time) {
	offset := at.Sub(now)
	switch age := now.Sub(c.began); {
	case c.began.IsZero() || age >= 2*clockWindow:
		c.began, c.best, c.before = now, offset, math.MinInt64
	case age >= clockWindow:
		c.began, c.best, c.before = now, offset, c.best
	default:
		c.best = max(c.best, offset)
	}
	c.offset.Store(int64(max(c.best, c.before)))
}

// ahead is 0 before the first event.
func (c *clock) ahead() time.Duration { return time.Duration(c.offset.Load()) }

// skewed is the difference of the two clocks that is reported: reports of several sources are matched within two seconds.
const skewed = 2 * time.Second

// problem returns the open problem of the clock, or "".
func (c *clock) problem() string {
	switch ahead := c.ahead(); {
	case ahead > skewed:
		return fmt.Sprintf("FreeSWITCH's clock is %v ahead of ours: set the clocks by NTP, and have FreeSWITCH take over its host's with "+
			"fsctl sync_clock", ahead.Round(100*time.Millisecond))
	case ahead < -skewed:
		return fmt.Sprintf("FreeSWITCH's clock is %v behind ours, or its events come that late: set the clocks by NTP, and have FreeSWITCH take "+
			"over its host's with fsctl sync_clock", -ahead.Round(100*time.Millisecond))
	}
	return ""
}
