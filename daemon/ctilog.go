package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"fsban/config"
	"fsban/ctilog"
	"fsban/decide"
	"fsban/detect"
	"fsban/policy"
)

// openLog makes the follower of mod_cti's log, if one is configured. It reads on where an earlier process was; without that
// place, back to the oldest line that may count. It starts nothing.
func (s *sources) openLog(r *decide.Restored) {
	s.lines.Restore(r.Lines)
	file := s.parts.config().CTILog.File()
	if file == "" {
		return
	}
	o := s.logOptions()
	o.From = r.Log.Position
	s.follower.Store(ctilog.NewFollower(file, o))
}

func (s *sources) logOptions() ctilog.Options {
	return ctilog.Options{OnLine: s.onLine, OnStatus: s.onLog, Since: s.oldestLine, Time: detect.CTITime}
}

// oldestLine runs in the log follower's goroutine, as onLine does.
func (s *sources) oldestLine() time.Time { return s.lines.Oldest(time.Now(), s.findtime()) }

// findtime is how long an attempt matters.
func (s *sources) findtime() time.Duration { return s.parts.config().Policy.LongestFindTime() }

// A logSwitch replaces the log that is followed.
type logSwitch struct {
	follower *ctilog.Follower // nil: none from now on
	done     chan struct{}    // closed when the log before is not read any more
}

// followLog follows mod_cti's log, and another one after a logSwitch, until ctx ends.
func (s *sources) followLog(ctx context.Context) error {
	for {
		one, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			if f := s.follower.Load(); f != nil {
				ended <- f.Run(one)
				return
			}
			<-one.Done()
			ended <- one.Err()
		}()
		select {
		case err := <-ended:
			stop()
			return err
		case next := <-s.switches:
			stop()
			err := <-ended
			s.follower.Store(next.follower)
			close(next.done)
			if ctx.Err() != nil {
				return err
			}
		}
	}
}

// switchLog follows the log that cfg names, from its end: its lines so far belong to a time when other sources were active. A
// log that does not exist yet is read from its start.
func (s *sources) switchLog(ctx context.Context, cfg *config.Config) error {
	next := &logSwitch{done: make(chan struct{})}
	if file := cfg.CTILog.File(); file != "" {
		o := s.logOptions()
		o.FromEnd = true
		next.follower = ctilog.NewFollower(file, o)
	}
	select {
	case s.switches <- next:
		<-next.done
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.parts.loop.SkipLog(ctx)
}

// onLine runs in the log follower's goroutine. A file can wait, so none of its lines is dropped.
func (s *sources) onLine(line ctilog.Line) {
	outcome := detect.NotUnderstood
	if !line.Torn { // its first word may be the middle of another one
		outcome = s.readLine(&line, time.Now())
	}
	s.parts.metrics.lines[outcome].Inc()
}

func (s *sources) readLine(line *ctilog.Line, now time.Time) detect.Outcome {
	l := detect.LogLine{Text: line.Text, Reading: line.Reading, Since: line.Since, Cut: line.Cut}
	a, outcome := s.lines.Line(l, now, s.findtime(), s.pulse.clock.ahead())
	switch outcome {
	case detect.Attempt, detect.ClockAdrift:
		s.count(&a, now)
		s.parts.loop.OfferLine(decide.Line{Attempt: a, Read: now, Next: line.Next}, s.halt)
	case detect.Repeated, detect.Outdated: // but reading goes on behind it
		s.parts.loop.OfferLine(decide.Line{Read: now, Next: line.Next}, s.halt)
	}
	return outcome
}

func (s *sources) onLog(st ctilog.Status) {
	s.parts.loop.SetAlive(policy.CTILog, st.Following)
	switch {
	case st.Err != nil:
		s.parts.log.Warn("mod_cti's log cannot be read (cti_log.path): trying again", "error", st.Err)
	case st.Following:
		s.parts.log.Info("following mod_cti's log", "file", s.parts.config().CTILog.File())
		if st.Polling != nil {
			s.parts.log.Warn("inotify unavailable for mod_cti's log: polling every second", "error", st.Polling)
		}
	}
	if st.Gap != nil && !s.gapsLogged {
		s.gapsLogged = true
		s.parts.log.Warn("lines that mod_cti wrote while fsban was down are missing", "error", st.Gap)
	}
	s.parts.changed()
}

// logProblem returns why mod_cti's log cannot be read, or "". A log that does not exist yet is no problem, its missing directory is.
func (s *sources) logProblem() string {
	follower := s.follower.Load()
	if follower == nil {
		return ""
	}
	err := follower.Status().Err
	if err == nil {
		return ""
	}
	if errors.Is(err, fs.ErrNotExist) {
		path := s.parts.config().CTILog.Path
		if checkLogPath(path) == nil {
			return ""
		}
		return noLogDirectory(path)
	}
	return fmt.Sprintf("mod_cti's log cannot be read (cti_log.path): %v", err)
}

func (s *sources) followsLog() bool { return s.parts.loop.Alive(policy.CTILog) }
