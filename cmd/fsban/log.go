package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"fsban/config"
)

// A logger is a handler of a log whose level and format can be changed while it is used.
type logger struct {
	text, json slog.Handler
	asJSON     *atomic.Bool
	level      *slog.LevelVar
}

func newLogger(out io.Writer) *logger {
	level := new(slog.LevelVar)
	opts := &slog.HandlerOptions{Level: level}
	return &logger{slog.NewTextHandler(out, opts), slog.NewJSONHandler(out, opts), new(atomic.Bool), level}
}

func (l *logger) set(c config.Log) {
	l.level.Set(c.SlogLevel())
	l.asJSON.Store(c.Format == "json")
}

func (l *logger) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level.Level() }

func (l *logger) Handle(ctx context.Context, r slog.Record) error {
	if l.asJSON.Load() {
		return l.json.Handle(ctx, r)
	}
	return l.text.Handle(ctx, r)
}

func (l *logger) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logger{l.text.WithAttrs(attrs), l.json.WithAttrs(attrs), l.asJSON, l.level}
}

func (l *logger) WithGroup(name string) slog.Handler {
	return &logger{l.text.WithGroup(name), l.json.WithGroup(name), l.asJSON, l.level}
}

// A sink writes a log in a goroutine of its own: who logs never waits for who reads the log, which can be a journal that
// waits for a disk. What finds no room is lost, and counted.
type sink struct {
	out     io.Writer
	journal bool // out is systemd's
	lines   chan []byte
	lost    atomic.Uint64
	end     chan struct{}
	ended   chan struct{}
}

const (
	maxLines = 4096        // that wait to be written
	lastWait = time.Second // for those that wait at the end
)

func newSink(out io.Writer) *sink {
	s := &sink{out: out, journal: isJournal(out), lines: make(chan []byte, maxLines), end: make(chan struct{}), ended: make(chan struct{})}
	go s.run()
	return s
}

// Write never fails and never waits.
func (s *sink) Write(line []byte) (int, error) {
	mark := ""
	if s.journal {
		mark = priority(line)
	}
	select {
	case s.lines <- append([]byte(mark), line...):
	default:
		s.lost.Add(1)
	}
	return len(line), nil
}

func (s *sink) run() {
	defer close(s.ended)
	for {
		select {
		case line := <-s.lines:
			_, _ = s.out.Write(line) // nobody is left to be told
		case <-s.end:
			for len(s.lines) > 0 {
				_, _ = s.out.Write(<-s.lines)
			}
			return
		}
	}
}

// close writes what waits, if that can be done soon.
func (s *sink) close() {
	close(s.end)
	select {
	case <-s.ended:
	case <-time.After(lastWait):
	}
}

// isJournal tells whether out is systemd's journal, as systemd itself says it.
func isJournal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// priority is what the journal wants at the begin of a line, so that journalctl -p finds it. The level stands before
// everything that somebody else may have chosen.
func priority(line []byte) string {
	_, level, _ := bytes.Cut(line, []byte("level"))
	switch level = bytes.TrimLeft(level, `=":`); {
	case bytes.HasPrefix(level, []byte("ERROR")):
		return "<3>"
	case bytes.HasPrefix(level, []byte("WARN")):
		return "<4>"
	case bytes.HasPrefix(level, []byte("DEBUG")):
		return "<7>"
	}
	return "<6>"
}
