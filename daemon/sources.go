package daemon

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"fsban/api"
	"fsban/config"
	"fsban/control"
	"fsban/ctilog"
	"fsban/decide"
	"fsban/detect"
	"fsban/esl"
	"fsban/firewall"
	"fsban/policy"
)

// Levels of FreeSWITCH's log (switch_types.h).
const (
	levelWarning = 4 // refusals by access lists
	levelNotice  = 5 // and the lines that mod_cti writes to its file
)

// heartbeat is the event that reports FreeSWITCH's own state.
const heartbeat = "HEARTBEAT"

// Subscription is the login of a daemon with cfg to the event socket, and the events that it requests, for d to read.
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

// sourceOptions are the parts that sources work with. The functions are called from the readers' goroutines.
type sourceOptions struct {
	config  func() *config.Config
	log     *slog.Logger
	loop    *decide.Loop
	metrics *metrics
	tune    func(*esl.Options) // nil: none

	changed        func() // readiness may have changed
	connected      func() // the event socket has come up
	gatewayChanged func()

	setTap   func(context.Context, firewall.Tap) error // what the kernel copies
	api      func(ctx context.Context, name, arguments string) ([]byte, error)
	enforces <-chan struct{} // closed once fsban enforces
}

// sources reads attempts from the event socket and from mod_cti's log, and offers them to the decision loop.
type sources struct {
	parts    sourceOptions
	client   *esl.Client
	detector *atomic.Pointer[detect.Detector] // of the event socket's connection; replaced by reloads only
	pulse    pulse
	failed   string // last error logged; the event socket's goroutine's own
	domains  domains

	tap *tap // nil: none

	follower   atomic.Pointer[ctilog.Follower] // of mod_cti's log; nil: none
	switches   chan *logSwitch
	lines      *detect.LogReader // the follower's goroutine's own
	halt       chan struct{}     // closed when no more lines are read
	gapsLogged bool              // the follower's goroutine's own
}

func newSources(o sourceOptions) *sources {
	s := &sources{parts: o, switches: make(chan *logSwitch), lines: detect.NewLogReader(), halt: make(chan struct{}), domains: newDomains()}
	cfg := o.config()
	s.tap = newTap(o)
	s.client = esl.NewClient(cfg.FreeSWITCH.Address, s.socket(cfg, s.newDetector(cfg)))
	if s.tap != nil {
		s.tap.capture = newCapture(s.tap, s.client)
	}
	return s
}

// newDetector returns a detector of a configuration, which counts users in the domains in which FreeSWITCH looks them up.
func (s *sources) newDetector(cfg *config.Config) *detect.Detector {
	d := detect.New(cfg.Detect())
	d.ForceDomains(s.domains.forced)
	return d
}

// stopAt stops reading lines when ctx ends. The function that it returns must be called at the end.
func (s *sources) stopAt(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { close(s.halt) })
}

// socket are the options of a connection to the event socket. Its events are read by detector, until a detector that needs
// the same events replaces it in s.detector.
func (s *sources) socket(cfg *config.Config, detector *detect.Detector) esl.Options {
	current := new(atomic.Pointer[detect.Detector])
	current.Store(detector)
	s.detector = current
	socket := Subscription(cfg, detector)
	socket.OnEvent = func(ev *esl.Event) { s.onEvent(current.Load(), ev) }
	socket.OnLog = func(frame esl.Log) { s.onFrame(current.Load(), frame) }
	socket.OnState = s.onState
	if s.parts.tune != nil {
		s.parts.tune(&socket)
	}
	return socket
}

// onEvent runs in the reader's goroutine: detect, offer, never wait.
func (s *sources) onEvent(detector *detect.Detector, ev *esl.Event) {
	now := time.Now()
	if s.pulse.take(detector, ev, now) {
		s.tap.restarted(now)
	}
	a, outcome := detector.Event(ev, now)
	s.parts.metrics.events[outcome].Inc()
	switch outcome {
	case detect.Attempt, detect.ClockAdrift:
		s.count(&a, now)
		s.tap.know(&a, now)
		if id, ok := detector.Login(); !ok || s.tap.ready(&a, id, now) {
			s.parts.loop.Offer(a, now)
		}
	case detect.GatewayChanged:
		s.parts.gatewayChanged()
	}
}

// onFrame runs in the reader's goroutine, as onEvent does.
func (s *sources) onFrame(detector *detect.Detector, frame esl.Log) {
	now := time.Now()
	a, outcome := detector.Log(&frame, now)
	s.parts.metrics.frames[outcome].Inc()
	if outcome == detect.Attempt || outcome == detect.ClockAdrift {
		s.offer(a, now)
	}
}

func (s *sources) offer(a policy.Attempt, read time.Time) {
	s.count(&a, read)
	s.parts.loop.Offer(a, read)
}

// count counts a report of a source.
func (s *sources) count(a *policy.Attempt, now time.Time) {
	s.parts.metrics.attempts[a.Source][a.Kind].Inc()
	s.parts.loop.Reported(a.Source, now)
}

// setConnected marks the sources of the event socket alive, without those that its login may not see.
func (s *sources) setConnected(denied []string) {
	cfg := s.parts.config()
	s.parts.loop.SetAlive(policy.Event, true)
	s.parts.loop.SetAlive(policy.ESLLog, cfg.FreeSWITCH.Log && !slices.Contains(denied, "log"))
	s.parts.loop.SetAlive(policy.CTIEvent, slices.ContainsFunc(cfg.CTIEvent.Subclasses,
		func(c string) bool { return !slices.Contains(denied, c) }))
}

func (s *sources) onState(state esl.State) {
	if !state.Up {
		for _, source := range []policy.Source{policy.Event, policy.ESLLog, policy.CTIEvent} {
			s.parts.loop.SetAlive(source, false)
		}
	}
	switch {
	case state.Up:
		s.setConnected(state.Denied)
		s.parts.log.Info("event socket is up", "address", s.parts.config().FreeSWITCH.Address, "connects", state.Connects)
		if missed := api.Missed(state.Denied); len(missed) > 0 {
			s.parts.log.Warn("this login may not see all events (esl-allowed-events in the directory)", "not_allowed", missed)
		}
		s.parts.connected()
		s.tap.connected()
		s.failed = ""
	case state.Err != nil:
		s.parts.metrics.sourceErrs[state.Err.Reason].Inc()
		level := slog.LevelWarn
		switch {
		case state.Err.Error() == s.failed:
			level = slog.LevelDebug // logged once; the state is in status and metrics
		case state.Err.Reason.Permanent():
			level = slog.LevelError
		}
		s.failed = state.Err.Error()
		s.parts.log.Log(context.Background(), level, s.failed, "reason", state.Err.Reason, "retry", time.Until(state.Retry).
			Round(time.Millisecond))
	}
	s.parts.changed()
}

// status returns the state of each configured source, the event socket first.
func (s *sources) status() []control.Source {
	cfg := s.parts.config()
	var list []control.Source
	for _, source := range configuredSources(cfg) {
		st := control.Source{Name: source.String(), Up: s.parts.loop.Alive(source)}
		if us := s.parts.loop.LastReport(source); us > 0 {
			st.LastEvent = time.UnixMicro(us)
		}
		switch source {
		case policy.Event:
			s.socketStatus(&st, cfg)
		case policy.CTIEvent:
			st.Address = strings.Join(cfg.CTIEvent.Subclasses, " ")
		case policy.SIP:
			s.tap.status(&st)
		case policy.CTILog:
			s.logStatus(&st, cfg)
		}
		list = append(list, st)
	}
	return list
}

func (s *sources) socketStatus(st *control.Source, cfg *config.Config) {
	state := s.client.State()
	st.Address, st.Up, st.Since, st.Retry = cfg.FreeSWITCH.Address, state.Up, state.Since, state.Retry
	st.Connects, st.Dropped, st.NotAllowed = state.Connects, s.parts.loop.Dropped(), state.Denied
	if state.Err != nil {
		st.Error = state.Err.Error()
	}
	if us := s.pulse.last.Load(); us > 0 {
		st.LastEvent = time.UnixMicro(us)
	}
}

func (s *sources) logStatus(st *control.Source, cfg *config.Config) {
	follower := s.follower.Load()
	if follower == nil { // a reload is about to start one
		return
	}
	state := follower.Status()
	st.Address, st.LastEvent = cfg.CTILog.File(), state.LastLine
	if state.Err != nil {
		st.Error = state.Err.Error()
	}
}
