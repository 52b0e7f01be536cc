package detect

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"fsban/policy"
)

// Outcomes of a line of mod_cti's log that is not a current attempt.
const (
	Repeated Outcome = "repeated" // the line was counted before; the log was rewritten, replaced or copied
	// older than the longest findtime, in the future, or without a time in content that was not seen being written.
	Outdated Outcome = "outdated"
)

// A LogLine is a line of mod_cti's log, with the circumstances of its reading.
type LogLine struct {
	Text []byte
	// Reading numbers the readings of content from its beginning. 0 is the reading that an earlier process began: all its
	// lines are new.
	Reading uint64
	// Since is when the log was last seen without the line; zero if the log contained the line when the reading began.
	Since time.Time
	// Cut reports that the end of a long line is missing, and with it mod_cti's time and reason.
	Cut bool
}

// Slack is how much older than the preceding line a line of mod_cti's log may be.
const Slack = time.Second

// A LineMark identifies a line of mod_cti's log by its address and its own time. Equal marks may belong to several lines.
type LineMark struct {
	Addr netip.Addr
	At   time.Time // by FreeSWITCH's clock
}

// A LogReader turns lines of mod_cti's log into attempts, each line once, however often the log is rewritten, replaced or
// restored. Each line keeps its own time. Only if FreeSWITCH's clock is more than MaxSkew away from ours, as shown by events or
// by lines seen being written, is the time corrected.
//
// It remembers the last 16,384 lines. Beyond them, a line that was not seen being written and is no newer than a forgotten
// one counts as taken. A LogReader reads no clock and is not safe for concurrent use.
type LogReader struct {
	detector *Detector
	clock    logClock
	memory   lineMemory
}

// NewLogReader returns a LogReader that has read nothing.
func NewLogReader() *LogReader {
	return &LogReader{detector: New(Options{}), memory: lineMemory{counts: make(map[lineKey]lineCount)}}
}

// LinesTaken describes the lines that an earlier process has counted. Times are by FreeSWITCH's clock.
type LinesTaken struct {
	Before time.Time     // lines before this
	Newest []LineMark    // lines after it
	Ahead  time.Duration // how far FreeSWITCH's clock was ahead of ours; 0 unless more than MaxSkew
}

// Restore makes r continue after an earlier process, whose reading is 0.
func (r *LogReader) Restore(t LinesTaken) {
	r.clock.ahead = t.Ahead
	r.memory.forgotten, r.memory.newest = t.Before.UnixMicro(), t.Before.Add(Slack).UnixMicro()
	for _, m := range t.Newest {
		k := lineKey{m.Addr, m.At.UnixMicro()}
		known, _ := r.memory.repeats(k, 0)
		r.memory.add(k, known, 0)
	}
}

// Oldest returns the time of the oldest line that may count, by FreeSWITCH's clock.
func (r *LogReader) Oldest(now time.Time, findtime time.Duration) time.Time {
	oldest := now.Add(min(r.clock.ahead, 0) - findtime)
	if known := time.UnixMicro(r.memory.forgotten); known.After(oldest) {
		return known
	}
	return oldest
}

// Line returns the attempt that a line read at now reports. findtime is how long an attempt matters; ahead is how far
// FreeSWITCH's clock is ahead of ours by its events, 0 if unknown.
func (r *LogReader) Line(l LogLine, now time.Time, findtime, ahead time.Duration) (policy.Attempt, Outcome) {
	a, outcome := r.detector.CTILine(l.Text, now)
	return r.Judge(a, outcome, l, now, findtime, ahead)
}

// Judge is Line for a line that CTILine has already parsed. A line without a time has a.At = now.
func (r *LogReader) Judge(a policy.Attempt, outcome Outcome, l LogLine, now time.Time, findtime,
	ahead time.Duration) (policy.Attempt, Outcome) {
	if l.Cut && outcome == Attempt { // the peer may have written time and reason
		a.At, a.Kind, outcome = now, policy.Violation, ClockAdrift
	}
	isNew := l.Reading == 0 || !l.Since.IsZero()
	switch {
	case outcome == ClockAdrift && !isNew: // without a time, it may be arbitrarily old
		return a, Outdated
	case outcome != Attempt:
		return a, outcome
	}
	k := lineKey{a.Addr, a.At.UnixMicro()}
	known, repeated := r.memory.repeats(k, l.Reading)
	if repeated {
		return a, Repeated
	}
	fresh := isNew && r.clock.confirms(a.At, l.Since, now, ahead)
	if k.at <= r.memory.forgotten && (!fresh || l.Since.IsZero()) {
		return a, Repeated
	}
	if r.clock.ahead != 0 {
		a.CorrectTime(a.At.Add(-r.clock.ahead))
		outcome = ClockAdrift
	}
	if a.At.Before(now.Add(-findtime)) || a.At.After(now.Add(MaxSkew)) {
		return a, Outdated
	}
	r.memory.add(k, known, l.Reading)
	return a, outcome
}

// A logClock estimates how far FreeSWITCH's clock is ahead of ours, from lines that were seen being written.
type logClock struct {
	ahead  time.Duration // 0 unless more than MaxSkew
	doubt  time.Duration // another offset, seen in one line that was being written
	doubts time.Time     // when that line was read; zero: no such line
}

// A clock that is behind is distinguished from an old line that is written again by a second line, at least confirmAfter later,
// with the same offset, give or take confirmWithin.
const (
	confirmAfter  = 5 * time.Second
	confirmWithin = 2 * time.Second
)

// confirms reports whether a line with that stamp can have been written between since and now, and adjusts the clock to it.
// since is zero if only now is known. byEvents is the offset that events show.
func (c *logClock) confirms(stamp, since, now time.Time, byEvents time.Duration) bool {
	offset := stamp.Sub(now)
	for _, ahead := range [...]time.Duration{c.ahead, 0, byEvents} {
		if at := stamp.Add(-ahead); !at.After(now.Add(MaxSkew)) && !at.Before(since.Add(-MaxSkew)) {
			if !since.IsZero() {
				c.set(ahead, offset)
			}
			return true
		}
	}
	if offset < 0 {
		apart := (offset - c.doubt).Abs()
		switch {
		case c.doubts.IsZero() || apart > confirmWithin:
			c.doubt, c.doubts = offset, now
			return false
		case now.Sub(c.doubts) < confirmAfter:
			return false
		}
	}
	c.set(offset, offset) // no old line has a future time
	return true
}

// set adopts an offset. A line is read after it was written, never before: of two offsets the larger is more accurate.
func (c *logClock) set(ahead, offset time.Duration) {
	*c = logClock{}
	if ahead != 0 {
		ahead = max(ahead, offset)
	}
	if ahead.Abs() > MaxSkew {
		c.ahead = ahead
	}
}

// maxLines is how many lines a lineMemory holds.
const maxLines = 16_384

type lineKey struct {
	addr netip.Addr
	at   int64 // unix microseconds, FreeSWITCH's clock
}

// A lineCount counts the lines of one key: those taken, and those that the current reading has shown.
type lineCount struct {
	taken, seen uint32
	reading     uint64 // of seen
}

// A lineMemory holds the lines taken last, equal ones with their count.
type lineMemory struct {
	counts    map[lineKey]lineCount
	ring      []lineKey
	next      int   // index in ring of the oldest, once it is full
	forgotten int64 // the newest stamp that was evicted; unix microseconds

	reading uint64 // the current one
	newest  int64  // its newest stamp
}

// repeats records that a reading has shown a line of key k. It returns the count of k, which is zero for a new key, and whether
// as many lines were taken before. Equal lines are adjacent: behind newer ones, an equal line is a copy.
func (m *lineMemory) repeats(k lineKey, reading uint64) (c lineCount, repeated bool) {
	if m.reading != reading {
		m.reading, m.newest = reading, math.MinInt64
	}
	m.newest = max(m.newest, k.at)
	c, ok := m.counts[k]
	if !ok {
		return c, false
	}
	if c.reading != reading {
		c.seen, c.reading = 0, reading
	}
	c.seen++
	m.counts[k] = c
	return c, c.seen <= c.taken || k.at < m.newest-Slack.Microseconds()
}

// add records that a line of key k, for which repeats has just returned c, was taken.
func (m *lineMemory) add(k lineKey, c lineCount, reading uint64) {
	if c.taken == 0 {
		c.seen, c.reading = 1, reading
	}
	c.taken++
	m.counts[k] = c
	if len(m.ring) < maxLines {
		m.ring = append(m.ring, k)
		return
	}
	oldest := m.ring[m.next]
	m.ring[m.next] = k
	m.next = (m.next + 1) % maxLines
	m.drop(oldest)
}

func (m *lineMemory) drop(k lineKey) {
	m.forgotten = max(m.forgotten, k.at)
	c := m.counts[k]
	if c.taken--; c.taken == 0 {
		delete(m.counts, k)
		return
	}
	m.counts[k] = c
}

// maxTail is the maximum number of marks in a LineTail.
const maxTail = 16_384

// A LineTail holds the marks of lines that a restart may read again although no newer line proves that they were taken.
type LineTail struct{ marks []LineMark }

// Add adds the mark of a line. Of more than maxTail lines it drops the older half.
func (t *LineTail) Add(m LineMark) {
	if len(t.marks) == maxTail {
		t.marks = slices.Delete(t.marks, 0, maxTail/2)
	}
	t.marks = append(t.marks, m)
}

// From drops the marks of lines before from, and returns the others. They belong to t until the next call.
func (t *LineTail) From(from time.Time) []LineMark {
	t.marks = slices.DeleteFunc(t.marks, func(m LineMark) bool { return m.At.Before(from) })
	return t.marks
}
