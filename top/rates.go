package top

import (
	"slices"
	"time"

	"fsban/control"
)

// Counts of the last minutes are kept in buckets of bucketTime.
const (
	bucketTime = 5 * time.Second
	maxBuckets = 240
)

// counters are the counts with a rate in the live view.
var counters = []struct {
	name   string
	always bool // shown though it never happened
	of     func(*control.Top) uint64
}{
	{"failures", true, func(t *control.Top) uint64 { return t.Attempts["auth_failure"] }},
	{"violations", false, func(t *control.Top) uint64 { return t.Attempts["violation"] }},
	{"calls refused", false, func(t *control.Top) uint64 { return t.Attempts["call_reject"] }},
	{"lists refused", false, func(t *control.Top) uint64 { return t.Attempts["acl_reject"] }},
	{"scans", false, func(t *control.Top) uint64 { return t.Attempts["scan"] }},
	{"malformed", false, func(t *control.Top) uint64 { return t.Attempts["malformed"] }},
	{"floods", false, func(t *control.Top) uint64 { return t.Attempts["flood"] }},
	{"exploits", false, func(t *control.Top) uint64 { return t.Attempts["exploit"] }},
	{"challenges", false, func(t *control.Top) uint64 { return t.Attempts["challenge"] }},
	{"successes", true, func(t *control.Top) uint64 { return t.Attempts["auth_success"] }},
	{"bans", true, func(t *control.Top) uint64 { return t.Bans.Made }},
	{"packets dropped", true, func(t *control.Top) uint64 { return t.Dropped.Packets }},
}

// rates are differences between answers of a daemon, by its own clock.
type rates struct {
	last    *control.Top
	known   bool // two looks at one run of the daemon
	second  []float64
	buckets [][]uint64 // of each counter, the newest last
}

func newRates() *rates {
	r := &rates{second: make([]float64, len(counters)), buckets: make([][]uint64, len(counters))}
	for i := range r.buckets {
		r.buckets[i] = make([]uint64, maxBuckets)
	}
	return r
}

func (r *rates) clone() *rates {
	c := *r
	c.second, c.buckets = slices.Clone(r.second), slices.Clone(r.buckets)
	for i, b := range c.buckets {
		c.buckets[i] = slices.Clone(b)
	}
	return &c
}

// take adds the difference to the last answer. After a restart of the daemon counts begin at zero.
func (r *rates) take(t *control.Top) {
	last := r.last
	r.last = t
	r.known = last != nil && last.Started.Equal(t.Started) && t.At.After(last.At)
	if last == nil {
		return
	}
	passed := min(max(number(t.At)-number(last.At), 0), maxBuckets)
	for i, c := range counters {
		b := r.buckets[i]
		copy(b, b[passed:])
		clear(b[maxBuckets-passed:])
		r.second[i] = 0
		if now, before := c.of(t), c.of(last); r.known && now > before {
			b[maxBuckets-1] += now - before
			r.second[i] = float64(now-before) / t.At.Sub(last.At).Seconds()
		}
	}
}

// number is that of the bucket that t falls into.
func number(t time.Time) int { return int(t.UnixNano() / int64(bucketTime)) }

// sparkline draws the last buckets, as many as there are cells, relative to the highest.
func sparkline(buckets []uint64, width int, thin bool) string {
	buckets = buckets[max(0, len(buckets)-width):]
	levels := []rune("▁▂▃▄▅▆▇█")
	if !thin {
		levels = []rune(".:-=+*#@")
	}
	var highest uint64
	for _, n := range buckets {
		highest = max(highest, n)
	}
	line := make([]rune, len(buckets))
	for i, n := range buckets {
		line[i] = ' '
		if n > 0 {
			line[i] = levels[int(float64(n)/float64(highest)*float64(len(levels)-1))]
		}
	}
	return string(line)
}
