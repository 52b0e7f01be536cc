package logging

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Limits of lines with the same message. Messages are fixed texts, so their number is small; the bound is for mistakes.
const (
	perMinute = 30
	maxKinds  = 512
)

// unlimited lists the messages of bans and their ends: other programs and people count on one line each.
var unlimited = []string{"banned", "would be banned", "unbanned"}

// A limiter passes perMinute lines of each message a minute, and then one line with the number of those left out. Lines of level debug
// always pass.
type limiter struct {
	mu    sync.Mutex
	kinds map[string]*kind
	emit  func(slog.Record)
}

// A kind is the lines of one message in the current minute.
type kind struct {
	since   time.Time
	passed  int
	left    int // left out
	level   slog.Level
	summary *time.Timer // nil: none is due
}

func newLimiter(emit func(slog.Record)) *limiter {
	return &limiter{kinds: make(map[string]*kind), emit: emit}
}

// pass reports whether a line is written. The minutes are those of the clock that runs, so that a step of the other one has no effect.
func (l *limiter) pass(level slog.Level, message string) bool {
	if level < slog.LevelInfo || slices.Contains(unlimited, message) {
		return true
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[message]
	if k == nil {
		if len(l.kinds) >= maxKinds {
			l.forget(now)
		}
		if len(l.kinds) >= maxKinds {
			return true
		}
		k = &kind{since: now}
		l.kinds[message] = k
	}
	if now.Sub(k.since) >= time.Minute && k.summary == nil {
		k.since, k.passed = now, 0
	}
	if k.passed < perMinute {
		k.passed++
		return true
	}
	k.left++
	k.level = max(k.level, level)
	if k.summary == nil {
		k.summary = time.AfterFunc(time.Minute-now.Sub(k.since), func() { l.end(message) })
	}
	return false
}

// forget removes the kinds that have been silent for a minute. The caller holds the lock.
func (l *limiter) forget(now time.Time) {
	for message, k := range l.kinds {
		if k.summary == nil && now.Sub(k.since) >= time.Minute {
			delete(l.kinds, message)
		}
	}
}

// end ends the minute of a message with the line of those left out.
func (l *limiter) end(message string) {
	l.mu.Lock()
	k := l.kinds[message]
	if k == nil || k.summary == nil {
		l.mu.Unlock()
		return
	}
	k.summary.Stop()
	r := slog.NewRecord(time.Now(), k.level, "log lines left out", 0)
	r.AddAttrs(slog.String("message", message), slog.Int("lines", k.left), slog.Duration("within", time.Since(k.since).Round(time.Second)))
	*k = kind{since: time.Now()}
	l.mu.Unlock()
	l.emit(r)
}

// flush writes the lines that are due later.
func (l *limiter) flush() {
	l.mu.Lock()
	var due []string
	for message, k := range l.kinds {
		if k.summary != nil {
			due = append(due, message)
		}
	}
	l.mu.Unlock()
	slices.Sort(due)
	for _, message := range due {
		l.end(message)
	}
}

// Flush writes the numbers of lines left out so far. The caller ends the process.
func (h *Handler) Flush() { h.limit.flush() }

func (h *Handler) write(r slog.Record) { _ = h.format().Handle(context.Background(), r) }
