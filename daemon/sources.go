package daemon

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"fsban/config"
	"fsban/ctilog"
	"fsban/detect"
	"fsban/esl"
	"fsban/policy"
)

// queueSize is how many attempts may wait for the decision loop: most of a second of the worst flood that a FreeSWITCH
// can report. Beyond it attempts are dropped and counted; the event socket is read without waiting.
const queueSize = 8192

// clockSlack is how far FreeSWITCH's clock may be ahead of ours.
const clockSlack = 2 * time.Second

// A sighting is an attempt on its way to the decision loop.
type sighting struct {
	policy.Attempt
	read time.Time

	// Of a line of mod_cti's log:
	next  ctilog.Position // where the log goes on behind it
	again bool            // it may have been read before
}

// Levels of FreeSWITCH's log (switch_types.h).
const (
	levelWarning = 4 // refusals by access lists
	levelNotice  = 5 // and what mod_cti writes to its file
)

// heartbeat is the event in which FreeSWITCH tells how it is.
const heartbeat = "HEARTBEAT"

// Subscription is what a daemon with cfg logs in to the event socket with, and asks it for, to have d understand it.
func Subscription(cfg *config.Config, d *detect.Detector) esl.Options {
	o := esl.Options{
		User:       cfg.FreeSWITCH.User,
		Password:   string(cfg.FreeSWITCH.Password),
		Fields:     d.Fields(),
		Events:     []string{heartbeat},
		Subclasses: d.Subclasses(),
		Required:   detect.Required,
	}
	if cfg.FreeSWITCH.Log {
		o.LogLevel = levelWarning
		if cfg.UsesModCTI() {
			o.LogLevel = levelNotice
		}
	}
	if filters := d.CallFilters(); len(filters) > 0 {
		calls := esl.Filtered{Event: detect.CallEvent}
		for _, f := range filters {
			calls.Only = append(calls.Only, esl.Filter{Header: f[0], Value: f[1]})
		}
		o.Filtered = []esl.Filtered{calls}
	}
	return o
}

// socket is what a connection to the event socket has to know. What comes over it is heard by detector, until that is
// replaced in d.hears by one that wants the same of it.
func (d *Daemon) socket(detector *detect.Detector) esl.Options {
	hears := new(atomic.Pointer[detect.Detector])
	hears.Store(detector)
	d.hears = hears
	socket := Subscription(d.cfg(), detector)
	socket.OnEvent = func(ev *esl.Event) { d.onEvent(hears.Load(), ev) }
	socket.OnLog = func(frame esl.Log) { d.onFrame(hears.Load(), frame) }
	socket.OnState = d.onState
	if d.opts.tune != nil {
		d.opts.tune(&socket)
	}
	return socket
}

// An otherLog is one to follow from now on; nil: none.
type otherLog struct {
	follower *ctilog.Follower
	done     chan struct{} // closed when the one before is not read any more
}

// follow follows mod_cti's log, and another one when it is told to, until ctx ends.
func (d *Daemon) follow(ctx context.Context) error {
	for {
		one, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			if f := d.ctilog.Load(); f != nil {
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
		case next := <-d.otherLog:
			stop()
			err := <-ended
			d.ctilog.Store(next.follower)
			close(next.done)
			if ctx.Err() != nil {
				return err
			}
		}
	}
}

// followOther follows the log that the configuration names now, from its end: what is in it already belongs to a time in
// which other sources spoke. One that is not there yet is read whole.
func (d *Daemon) followOther(ctx context.Context) error {
	next := &otherLog{done: make(chan struct{})}
	if file := d.cfg().CTILog.File(); file != "" {
		next.follower = ctilog.NewFollower(file, ctilog.Options{OnLine: d.onLine, OnStatus: d.onLog, FromEnd: true, Time: detect.CTITime})
	}
	select {
	case d.otherLog <- next:
		<-next.done
	case <-ctx.Done():
		return ctx.Err()
	}
	return d.do(ctx, func(l *loop) { l.place, l.changed = logPlace{At: time.Now()}, true })
}

// openLog makes the follower of mod_cti's log, if there is one to follow. It starts nothing.
func (d *Daemon) openLog(from logPlace) {
	file := d.cfg().CTILog.File()
	if file == "" {
		return
	}
	since := d.started.Add(-d.loop.memory())
	if d.loop.known.After(since) {
		since = d.loop.known
	}
	d.ctilog.Store(ctilog.NewFollower(file, ctilog.Options{OnLine: d.onLine, OnStatus: d.onLog, From: from.Position, Since: since, Time: detect.CTITime}))
}

// sources are those that this configuration has.
func (d *Daemon) sources() []policy.Source {
	list := []policy.Source{policy.Event}
	if len(d.cfg().CTIEvent.Subclasses) > 0 {
		list = append(list, policy.CTIEvent)
	}
	if d.cfg().FreeSWITCH.Log {
		list = append(list, policy.ESLLog)
	}
	if d.cfg().CTILog.File() != "" {
		list = append(list, policy.CTILog)
	}
	return list
}

// onEvent runs in the reader's goroutine: detect, hand over, never wait.
func (d *Daemon) onEvent(detector *detect.Detector, ev *esl.Event) {
	now := time.Now()
	d.pulse.take(detector, ev, now)
	a, outcome := detector.Event(ev, now)
	d.metrics.events[outcome].Inc()
	switch outcome {
	case detect.Attempt, detect.ClockAdrift:
		d.offer(a, now)
	case detect.GatewayChanged:
		d.never.Refresh()
	}
}

// onFrame runs in the reader's goroutine, as onEvent does.
func (d *Daemon) onFrame(detector *detect.Detector, frame esl.Log) {
	now := time.Now()
	a, outcome := detector.Log(&frame, now)
	d.metrics.frames[outcome].Inc()
	if outcome == detect.Attempt || outcome == detect.ClockAdrift {
		d.offer(a, now)
	}
}

// offer hands an attempt to the decision loop. It never waits.
func (d *Daemon) offer(a policy.Attempt, read time.Time) {
	d.tell(&a, read)
	select {
	case d.attempts <- sighting{Attempt: a, read: read}:
	default:
		d.dropped.Add(1)
	}
}

// tell counts what a source told of.
func (d *Daemon) tell(a *policy.Attempt, now time.Time) {
	d.metrics.attempts[a.Source][a.Kind].Inc()
	d.told[a.Source].Store(now.UnixMicro())
}

// onLine runs in the log follower's goroutine. A file can wait, so nothing of it is dropped.
func (d *Daemon) onLine(line ctilog.Line) {
	outcome := detect.NotUnderstood
	if !line.Torn { // its first word may be the middle of another one
		now := time.Now()
		var a policy.Attempt
		a, outcome = d.lines.CTILine(line.Text, now)
		// Of a line that may have been read before, and is of a time that has not come, nobody can know whether it was counted.
		// Counting it twice could ban somebody honest.
		again := line.Again || line.Backlog && d.loop.lost
		doubtful := again && a.At.After(now.Add(clockSlack))
		// What is read back is as old as it says.
		if outcome == detect.Attempt && detect.Adrift(a.At, now) && (!line.Backlog || a.At.After(now)) {
			a.Adrift(now)
			outcome = detect.ClockAdrift
		}
		if outcome == detect.Attempt || outcome == detect.ClockAdrift {
			d.tell(&a, now)
			if !doubtful {
				select {
				case d.read <- sighting{a, now, line.Next, again}:
				case <-d.halt: // it is read again at the next start
				}
			}
		}
	}
	d.metrics.lines[outcome].Inc()
}

func (d *Daemon) onLog(s ctilog.Status) {
	d.alive[policy.CTILog].Store(s.Following)
	switch {
	case s.Err != nil:
		d.log.Warn("mod_cti's log cannot be read (cti_log.path): trying again", "error", s.Err)
	case s.Following:
		d.log.Info("following mod_cti's log", "file", d.cfg().CTILog.File())
		if s.Polling != nil {
			d.log.Warn("nobody tells when mod_cti's log changes: it is looked at once a second", "error", s.Polling)
		}
	}
	if s.Gap != nil && !d.gapTold {
		d.gapTold = true
		d.log.Warn("what mod_cti wrote while fsban was down is not all there", "error", s.Gap)
	}
	d.wake()
}

// aliveWith has the sources come alive that an event socket brings whose login may not see what is denied.
func (d *Daemon) aliveWith(denied []string) {
	d.alive[policy.Event].Store(true)
	d.alive[policy.ESLLog].Store(d.cfg().FreeSWITCH.Log && !slices.Contains(denied, "log"))
	mayNot := func(subclass string) bool { return slices.Contains(denied, subclass) }
	d.alive[policy.CTIEvent].Store(slices.ContainsFunc(d.cfg().CTIEvent.Subclasses, func(s string) bool { return !mayNot(s) }))
}

// missed are those of what is denied that a guard needs. The heartbeat is not: without it a few metrics are zero.
func missed(denied []string) []string {
	return slices.DeleteFunc(slices.Clone(denied), func(name string) bool { return name == heartbeat })
}

func (d *Daemon) onState(s esl.State) {
	if !s.Up {
		for _, source := range []policy.Source{policy.Event, policy.ESLLog, policy.CTIEvent} {
			d.alive[source].Store(false)
		}
	}
	switch {
	case s.Up:
		d.aliveWith(s.Denied)
		d.log.Info("event socket is up", "address", d.cfg().FreeSWITCH.Address, "connects", s.Connects)
		if missed := missed(s.Denied); len(missed) > 0 {
			d.log.Warn("this login may not see all events (esl-allowed-events in the directory)", "not_allowed", missed)
		}
		d.watchPeer()
		d.never.Refresh()
		d.lastError = ""
	case s.Err != nil:
		d.metrics.sourceErrs[s.Err.Reason].Inc()
		level := slog.LevelWarn
		switch {
		case s.Err.Error() == d.lastError:
			level = slog.LevelDebug // said once; the state is in status and metrics
		case s.Err.Reason.Permanent():
			level = slog.LevelError
		}
		d.lastError = s.Err.Error()
		d.log.Log(context.Background(), level, s.Err.Error(), "reason", s.Err.Reason, "retry", time.Until(s.Retry).Round(time.Millisecond))
	}
	d.wake()
}

func (d *Daemon) followsLog() bool { return d.alive[policy.CTILog].Load() }
