// Package daemon puts the rooms together: it owns all lifetimes, the queue between reading and deciding, and the decision
// loop.
//
// One attempt's way is esl.Client → detect.Detector (both in the reader's goroutine) → a bounded queue → policy.Engine
// and ledger.Ledger (in the decision loop) → firewall.Enforcer → kernel.
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
	"sync"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"fsban/config"
	"fsban/control"
	"fsban/ctilog"
	"fsban/detect"
	"fsban/esl"
	"fsban/firewall"
	"fsban/fleet"
	"fsban/ledger"
	"fsban/neverban"
	"fsban/policy"
)

// Options are what a Daemon needs beside its configuration.
type Options struct {
	Log               *slog.Logger
	Version, Revision string

	// Load reads the configuration file again; nil: there is none. Hangup has that done. SetLog changes what is logged.
	Load   func() (config.Config, error)
	Hangup <-chan os.Signal
	SetLog func(config.Log)
	// LogLost tells how many lines of Log nobody took; nil: none are lost.
	LogLost func() uint64

	tune func(*esl.Options) // for tests: less patience
	pace fleet.Pace         // the same for the fleet
}

// A Daemon is one running fsban.
type Daemon struct {
	inUse   atomic.Pointer[config.Config]
	log     *slog.Logger
	opts    Options
	started time.Time

	ledger   *ledger.Ledger
	backend  firewall.Backend
	enforcer *firewall.Enforcer
	client   *esl.Client
	server   *control.Server
	hears    *atomic.Pointer[detect.Detector] // the event socket's, as of its last change; whoever reloads owns it
	ctilog   atomic.Pointer[ctilog.Follower]  // mod_cti's log; nil: none
	otherLog chan *otherLog
	lines    *detect.Detector // the log's
	alive    [policy.NumSources]atomic.Bool
	told     [policy.NumSources]atomic.Int64  // when, unix microseconds
	alone    [policy.NumSources]atomic.Uint64 // reports that did not count and that nobody confirmed
	speaking [policy.NumKinds]atomic.Int32    // the source whose word counts, and 1; 0: nobody's
	fleet    *fleet.Fleet                     // nil: none
	waiting  atomic.Int64                     // bans of other nodes that wait
	registry *prometheus.Registry
	metrics  *metrics

	loop     *loop
	attempts chan sighting // from the event socket, which is never kept waiting
	read     chan sighting // from mod_cti's log, which waits
	halt     chan struct{} // closed when nothing is to be read any more
	requests chan func(*loop)
	reloads  chan *reloading
	enforced chan struct{} // closed once all bans are in force for the first time
	inForce  func()        // closes it
	changed  chan struct{} // something that unready looks at has changed

	lastError     string // of the event socket, as last logged; the reader's own
	never         *neverban.Watcher
	noted         []string // notes of the firewall, as last logged; the enforcer's own
	neverTold     []string // its problems, as last logged; its own
	gapTold       bool     // that the log could not be read on where it was; its follower's own
	pulse         pulse    // of FreeSWITCH, by its events
	stats         atomic.Pointer[shownPolicy]
	counts        [policy.NumKinds]atomic.Uint64 // attempts by kind
	dropped       atomic.Uint64
	made, refused atomic.Uint64
	turnedAway    atomic.Uint64 // connections to metrics and health

	announced      atomic.Bool // systemd, that fsban is ready
	reloadTroubles atomic.Pointer[[]string]
	groupTroubles  atomic.Pointer[[]string]
	reloadFailed   atomic.Bool
	lastReload     atomic.Int64 // unix microseconds: when the configuration in force was read
}

// Run runs fsban with cfg until ctx ends. It returns nil after an orderly end: every ban stays in force and on disk.
func Run(ctx context.Context, cfg config.Config, opts Options) error {
	d, err := open(cfg, opts)
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// open acquires what can fail at once: state file and firewall. It starts nothing.
func open(cfg config.Config, opts Options) (*Daemon, error) {
	if opts.LogLost == nil {
		opts.LogLost = func() uint64 { return 0 }
	}
	d := &Daemon{
		log: opts.Log, opts: opts, started: time.Now(),
		lines:    detect.New(detect.Options{}),
		otherLog: make(chan *otherLog),
		registry: prometheus.NewRegistry(),
		attempts: make(chan sighting, queueSize),
		read:     make(chan sighting, 64),
		halt:     make(chan struct{}),
		requests: make(chan func(*loop)),
		reloads:  make(chan *reloading),
		enforced: make(chan struct{}),
		changed:  make(chan struct{}, 1),
	}
	d.inForce = sync.OnceFunc(func() { close(d.enforced) })
	// Where mod_cti's log is, is found out once: what is made for it here must be there for as long as anybody asks.
	cfg.CTILog.Path = cmp.Or(cfg.CTILog.File(), config.CTILogOff)
	d.inUse.Store(&cfg)
	d.lastReload.Store(d.started.UnixMicro())
	var err error
	if d.ledger, err = ledger.Open(filepath.Join(cfg.State.Directory, "fsban.db"), d.started); err != nil {
		return nil, err
	}
	if aside := d.ledger.SetAside(); aside != "" {
		d.log.Error("state file was damaged: set aside, and begun anew from the kernel", "file", aside)
	}
	if err := d.openFirewall(); err != nil {
		return nil, errors.Join(err, d.ledger.Close())
	}
	d.client = esl.NewClient(cfg.FreeSWITCH.Address, d.socket(detect.New(cfg.Detect())))
	d.never = neverban.New(d.neverBanOptions())
	d.server = control.NewServer(cfg.Control.Socket, opts.Version, api{d}, d.log)
	d.loop = d.newLoop()
	d.metrics = newMetrics(d.registry, d, opts.Version, opts.Revision)
	from, place := d.loop.restore()
	if err := d.openFleet(place); err != nil {
		return nil, errors.Join(err, d.ledger.Close(), d.backend.Close())
	}
	d.loop.showPolicy()
	d.openLog(from)
	return d, nil
}

// run starts everything and ends it in the order of the data: sources first, then decisions, then kernel and disk, so
// that what was read is still decided, and what was decided is still enforced and written.
func (d *Daemon) run(ctx context.Context) error {
	controlListener, err := d.server.Listen()
	if err != nil {
		return errors.Join(err, d.ledger.Close(), d.backend.Close())
	}
	d.setGroups()
	httpListener, err := d.listenHTTP()
	if err != nil {
		return errors.Join(err, controlListener.Close(), d.ledger.Close(), d.backend.Close())
	}

	d.log.Info("fsban is starting", "version", d.opts.Version, "freeswitch", d.cfg().FreeSWITCH.Address,
		"backend", d.cfg().Firewall.Backend, "rules", len(d.loop.engine.Rules()))
	keepers, stopKeepers := newStage(ctx) // kernel and disk
	keepers.run("firewall", d.enforcer.Run)
	keepers.run("ledger", d.ledger.Run)
	speakers, stopSpeakers := newStage(ctx) // what is decided is still told
	if d.fleet != nil {
		speakers.run("fleet", d.fleet.Run)
	}
	deciders, stopDeciders := newStage(ctx)
	deciders.run("decisions", d.loop.run)

	sources, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { close(d.halt) })()
	sources.Go(func() error { return d.client.Run(ctx) })
	sources.Go(func() error { return d.follow(ctx) })
	sources.Go(func() error { return d.server.Serve(ctx, controlListener) })
	sources.Go(func() error { return d.serveReloads(ctx) })
	sources.Go(func() error { return d.watchdog(ctx) })
	sources.Go(func() error { return d.never.Run(ctx) })
	sources.Go(func() error { return d.announce(ctx) })
	sources.Go(func() error { return d.clear(ctx) })
	if httpListener != nil {
		sources.Go(func() error { return d.serveHTTP(ctx, httpListener) })
	}
	err = ignoreCanceled(sources.Wait())
	_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
	err = errors.Join(err, stopDeciders(), stopSpeakers(), stopKeepers(), d.backend.Close())
	d.log.Info("fsban has stopped: its bans stay in force")
	return err
}

// A stage is a group of goroutines that outlives the context it was made from: it ends when it is told to.
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

func (d *Daemon) wake() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// unready returns why fsban does not protect right now: nothing when it does.
func (d *Daemon) unready() []string {
	var why []string
	if s := d.enforcer.Status(); !s.Enforcing {
		why = append(why, fmt.Sprintf("bans are not enforced: %v", s.Err))
	}
	if s := d.client.State(); !s.Up && !d.followsLog() {
		if s.Err != nil {
			why = append(why, "no source of attempts is alive: "+s.Err.Error())
		} else {
			why = append(why, "no source of attempts is alive yet")
		}
	}
	return why
}

// announce tells systemd when fsban is ready, and what is wrong while it is not.
func (d *Daemon) announce(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.changed:
		}
		why := d.unready()
		switch {
		case len(why) > 0:
			_, _ = sd.SdNotify(false, "STATUS="+why[0])
		case !d.announced.Load():
			d.log.Info("ready", "after", time.Since(d.started).Round(time.Millisecond))
			d.announced.Store(true) // whoever hears of it may ask for a reload at once
			_, _ = sd.SdNotify(false, sd.SdNotifyReady+"\nSTATUS=protecting")
		default:
			_, _ = sd.SdNotify(false, "STATUS=protecting")
		}
	}
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
