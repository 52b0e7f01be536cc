package logging

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxLines  = 4096        // queued; further lines are dropped and counted
	flushTime = time.Second // for queued lines on Close
)

// A Sink writes log lines in a goroutine of its own, so that a blocked output, such as a journal on a hanging disk, blocks no
// caller. It is safe for concurrent use.
type Sink struct {
	out     io.Writer
	journal bool // out is systemd's journal
	lines   chan []byte
	dropped atomic.Uint64
	stop    chan struct{}
	stopped chan struct{}
}

// NewSink starts a sink that writes to out. The caller closes it.
func NewSink(out io.Writer) *Sink {
	s := &Sink{out: out, journal: isJournal(out), lines: make(chan []byte, maxLines), stop: make(chan struct{}), stopped: make(chan struct{})}
	go s.run()
	return s
}

// Write queues a copy of line. It never fails and never waits.
func (s *Sink) Write(line []byte) (int, error) {
	prefix := ""
	if s.journal {
		prefix = priority(line)
	}
	select {
	case s.lines <- append([]byte(prefix), line...):
	default:
		s.dropped.Add(1)
	}
	return len(line), nil
}

// Dropped returns the number of lines dropped because the queue was full.
func (s *Sink) Dropped() uint64 { return s.dropped.Load() }

func (s *Sink) run() {
	defer close(s.stopped)
	for {
		select {
		case line := <-s.lines:
			_, _ = s.out.Write(line) // an error has no other place to go
		case <-s.stop:
			for len(s.lines) > 0 {
				_, _ = s.out.Write(<-s.lines)
			}
			return
		}
	}
}

// Close writes the queued lines, for at most flushTime, and ends the sink.
func (s *Sink) Close() {
	close(s.stop)
	select {
	case <-s.stopped:
	case <-time.After(flushTime):
	}
}

// isJournal reports whether out is systemd's journal, by JOURNAL_STREAM.
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

// priority returns the prefix that states a line's priority to the journal (journalctl -p). The level precedes all text that
// a peer may have chosen.
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
