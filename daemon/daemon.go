// Package daemon wires the packages together: it owns all lifetimes, reload, the connection to systemd, HTTP and metrics.
//
// One attempt's way is esl.Client → detect.Detector (both in the reader's goroutine) → decide.Loop (bounded queue, policy,
// book) → firewall.Enforcer → kernel. On that way a failed login gets its proof from the tap, whose readers pass SIP messages to
// detect.SIP; its own attempts go to the same queue.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"fsban/api"
	"fsban/config"
	"fsban/control"
	"fsban/decide"
	"fsban/decide/book"
	"fsban/esl"
	"fsban/firewall"
	"fsban/fleet"
	"fsban/ledger"
	"fsban/policy"
)

// Options complete the configuration of a Daemon.
type Options struct {
	Log               *slog.Logger
	Version, Revision string

	// Load reads the configuration file again; nil: there is none. Each signal on Hangup causes that. SetLog changes level
	// and format of the log.
	Load   func() (config.Config, error)
	Hangup <-chan os.Signal
	SetLog func(config.Log)
	// LogLost returns the number of lines of Log that were dropped; nil: none are.
	LogLost func() uint64

	tune func(*esl.Options) // for tests: less patience
	pace fleet.Pace         // the same for the fleet
}

// A Daemon is one running fsban.
type Daemon struct {
	config  atomic.Pointer[config.Config]
	log     *slog.Logger
	opts    Options
	started time.Time
	clock   *decide.Clock

	ledger   *ledger.Ledger
	watch    watch
	enforcer *firewall.Enforcer
	loop     *decide.Loop
	sources  *sources
	neverBan *neverBan
	fleet    *fleet.Fleet // nil: none
	server   *control.Server

	registry   *prometheus.Registry
	metrics    *metrics
	readiness  readiness
	reloader   reloader
	turnedAway atomic.Uint64          // connections to metrics and health
	leftover   atomic.Pointer[string] // open problem: an earlier backend's entries
}

// Run runs fsban with cfg until ctx ends. It returns nil after an orderly end: every ban stays in force and on disk.
func Run(ctx context.Context, cfg config.Config, opts Options) error {
	d, err := open(cfg, opts)
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// open acquires state file and firewall, which can fail at once, and restores the state. It starts no goroutine.
func open(cfg config.Config, opts Options) (*Daemon, error) {
	if opts.LogLost == nil {
		opts.LogLost = func() uint64 { return 0 }
	}
	d := &Daemon{
		log: opts.Log, opts: opts, started: time.Now(), clock: newClock(), registry: prometheus.NewRegistry(),
		readiness: newReadiness(), reloader: reloader{requests: make(chan *reloadRequest)},
	}
	// The place of mod_cti's log is looked up once: an entry in the configuration's place must not change while fsban runs.
	cfg.CTILog.Path = cmp.Or(cfg.CTILog.File(), config.CTILogOff)
	d.config.Store(&cfg)
	d.reloader.last.Store(d.started.UnixMicro())
	var err error
	var before decide.Mode
	d.ledger, err = ledger.OpenStepped(filepath.Join(cfg.State.Directory, "fsban.db"), d.started, func(state []byte) time.Duration {
		before = decide.SealedMode(state)
		return d.clock.Missed(state)
	})
	if err != nil {
		return nil, err
	}
	mode := d.startMode(before)
	if aside := d.ledger.SetAside(); aside != "" {
		d.log.Error("state file was damaged: intact records restored, file set aside", "skipped", d.ledger.Skipped(), "file", aside)
	}
	b, err := openBackend(&cfg, mode.Watching, d.log)
	if err != nil {
		return nil, errors.Join(err, d.ledger.Close())
	}
	d.watch.backend.Store(&b)
	d.wire(mode)
	if err := d.restore(); err != nil {
		return nil, errors.Join(err, d.ledger.Close(), b.Close())
	}
	if !mode.Watching {
		d.dropWatched(before)
	}
	return d, nil
}

// wire makes the parts. They reach each other by the functions and values given here, and by nothing else.
func (d *Daemon) wire(mode decide.Mode) {
	cfg := d.cfg()
	d.metrics = newMetrics(d.registry, d)
	d.enforcer = d.newEnforcer()
	d.loop = decide.New(decide.Options{
		Log: d.log, Ledger: d.ledger, Firewall: d.enforcer, Capacity: d.watch.capacity, Recorder: d.metrics,
		Settings: settings(cfg), Started: d.started, Mode: mode, Clock: d.clock,
	})
	d.sources = newSources(sourceOptions{
		config: d.cfg, log: d.log, loop: d.loop, metrics: d.metrics, tune: d.opts.tune,
		changed: d.readiness.check, connected: d.onConnected, gatewayChanged: func() { d.neverBan.watcher.Refresh() },
		setTap: d.enforcer.SetTap, enforces: d.watch.ended,
		api: func(ctx context.Context, name, arguments string) ([]byte, error) {
			return d.sources.client.API(ctx, name, arguments)
		},
	})
	d.neverBan = newNeverBan(cfg, d.sources, d.loop, d.log)
	d.server = control.NewServer(cfg.Control.Socket, d.opts.Version, api.New(api.Options{
		Version: d.opts.Version, Started: d.started, Config: d.cfg, Loop: d.loop, Ledger: d.ledger, Enforcer: d.enforcer,
		Fleet: func() *fleet.Fleet { return d.fleet }, Sources: d.sources.status, Unready: d.unprotected, Problems: d.problems,
		Reload: d.reloader.request, Watching: d.watch.on.Load, Enforce: d.enforce, Existing: d.existing,
	}), d.log)
}

// restore loads the state of an earlier process, and joins the fleet under the name that it had.
func (d *Daemon) restore() error {
	name, err := fleetName(d.cfg())
	if err != nil {
		return err
	}
	restored := d.loop.Restore(d.neverBan.local(), name)
	if name != "" {
		if err := d.joinFleet(&restored); err != nil {
			return err
		}
	}
	d.sources.openLog(&restored)
	return nil
}

// settings are the decision loop's part of a configuration.
func settings(cfg *config.Config) decide.Settings {
	p := &cfg.Policy
	return decide.Settings{
		Rules: p.Rules(), Policy: p.Options(), Sources: configuredSources(cfg), Memory: p.LongestFindTime(),
		Limits:        book.Limits{MaxBans: cfg.Firewall.MaxBans, BanRate: p.BanRate},
		History:       decide.History{Keep: time.Duration(cfg.State.History), Max: cfg.State.HistoryMax},
		ShareFailures: cfg.Fleet.Share == config.ShareFailures,
	}
}

// cfg is the configuration in force. It must not be changed.
func (d *Daemon) cfg() *config.Config { return d.config.Load() }

// run starts everything and ends it in the order of the data: sources first, then decisions, then kernel and disk, so that
// every attempt that was read is decided, and every decision is enforced and written.
func (d *Daemon) run(ctx context.Context) error {
	controlListener, err := d.server.Listen()
	if err != nil {
		return errors.Join(err, d.ledger.Close(), d.enforcer.Backend().Close())
	}
	d.setGroups()
	httpListener, err := d.listenHTTP()
	if err != nil {
		return errors.Join(err, controlListener.Close(), d.ledger.Close(), d.enforcer.Backend().Close())
	}

	d.log.Info("fsban is starting", "version", d.opts.Version, "freeswitch", d.cfg().FreeSWITCH.Address,
		"enforce", !d.watch.on.Load(), "backend", d.cfg().Firewall.Backend, "rules", len(d.cfg().Policy.Rules()))
	keepers, stopKeepers := newStage(ctx) // kernel and disk
	keepers.run("firewall", d.enforcer.Run)
	keepers.run("ledger", d.ledger.Run)
	announcers, stopAnnouncers := newStage(ctx)
	if d.fleet != nil {
		announcers.run("fleet", d.fleet.Run)
	}
	deciders, stopDeciders := newStage(ctx)
	deciders.run("decisions", d.loop.Run)

	readers, ctx := errgroup.WithContext(ctx)
	defer d.sources.stopAt(ctx)()
	socket, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	readers.Go(func() error { return d.sources.client.Run(socket) })
	readers.Go(func() error {
		defer hangUp() // last: the tap may have to switch FreeSWITCH's capture off
		return d.sources.tap.run(ctx)
	})
	readers.Go(func() error { return d.sources.followLog(ctx) })
	readers.Go(func() error { return d.server.Serve(ctx, controlListener) })
	readers.Go(func() error { return d.serveReloads(ctx) })
	readers.Go(func() error { return d.watchdog(ctx) })
	readers.Go(func() error { return d.neverBan.watcher.Run(ctx) })
	readers.Go(func() error { return d.sources.domains.run(ctx, d.sources.client.API) })
	readers.Go(func() error { return d.announceReadiness(ctx) })
	readers.Go(func() error { return d.removeAbandoned(ctx) })
	readers.Go(func() error { return d.watchKernel(ctx) })
	if httpListener != nil {
		readers.Go(func() error { return d.serveHTTP(ctx, httpListener) })
	}
	err = ignoreCanceled(readers.Wait())
	_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
	err = errors.Join(err, stopDeciders(), stopAnnouncers(), stopKeepers(), d.enforcer.Backend().Close())
	d.log.Info("fsban has stopped: its bans stay in force")
	return err
}

// A stage is a group of goroutines that outlives the context it was made from, until it is stopped.
type stage struct {
	ctx   context.Context
	group *errgroup.Group
}

func newStage(parent context.Context) (stage, func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	s := stage{ctx, new(errgroup.Group)}
	return s, func() error {
		cancel()
		return ignoreCanceled(s.group.Wait())
	}
}

func (s stage) run(name string, f func(context.Context) error) {
	s.group.Go(func() error {
		if err := ignoreCanceled(f(s.ctx)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// problems are the open problems of the parts that this package owns.
func (d *Daemon) problems() []string {
	var list []string
	if problem := d.sources.pulse.clock.problem(); problem != "" && d.sources.client.State().Up {
		list = append(list, problem)
	}
	if problem := d.sources.logProblem(); problem != "" {
		list = append(list, problem)
	}
	list = append(list, d.sources.tap.problems()...)
	list = append(list, d.watch.problems()...)
	list = append(list, d.reloader.problems()...)
	if problem := d.leftover.Load(); problem != nil {
		list = append(list, *problem)
	}
	_, unknown := d.neverBan.watcher.Status()
	list = append(list, unknown...)
	if lost := d.opts.LogLost(); lost > 0 {
		list = append(list, fmt.Sprintf("%d lines of the log were lost: whatever reads it (journalctl -u fsban) did not take them", lost))
	}
	return list
}

func (d *Daemon) listenHTTP() (net.Listener, error) {
	if d.cfg().HTTP.Listen == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", d.cfg().HTTP.Listen)
	if err != nil {
		return nil, fmt.Errorf("metrics (http.listen): %w", err)
	}
	return l, nil
}

// text is a log attribute that is left out when empty.
func text(key, value string) slog.Attr {
	if value == "" {
		return slog.Attr{}
	}
	return slog.String(key, value)
}

// configuredSources are the sources that a configuration has.
func configuredSources(cfg *config.Config) []policy.Source {
	list := []policy.Source{policy.Event}
	if len(cfg.CTIEvent.Subclasses) > 0 {
		list = append(list, policy.CTIEvent)
	}
	if cfg.FreeSWITCH.Log {
		list = append(list, policy.ESLLog)
	}
	if cfg.CTILog.File() != "" {
		list = append(list, policy.CTILog)
	}
	if cfg.SIP.Tap != config.TapOff {
		list = append(list, policy.SIP)
	}
	return list
}
