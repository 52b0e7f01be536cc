package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"fsban/config"
	"fsban/control"
	"fsban/detect"
)

// A reloading is a wish that the configuration is read again, and what came of it.
type reloading struct {
	by     string
	result control.Reload
	err    error
	done   chan struct{}
}

// bySignal stands where somebody is named who reloads.
const bySignal = "SIGHUP"

// cfg is the configuration in force. It is not to be changed.
func (d *Daemon) cfg() *config.Config { return d.inUse.Load() }

// Reload has the configuration read again because an operator says so.
func (a api) Reload(ctx context.Context, by string) (control.Reload, error) {
	r := &reloading{by: by, done: make(chan struct{})}
	select {
	case a.reloads <- r:
	case <-ctx.Done():
		return control.Reload{}, ctx.Err()
	}
	select {
	case <-r.done: // it is finished whoever waits for it
		return r.result, r.err
	case <-ctx.Done():
		return control.Reload{}, ctx.Err()
	}
}

// serveReloads reads the configuration again when somebody says so, one after the other, until ctx ends.
func (d *Daemon) serveReloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.opts.Hangup:
			if _, err := d.reload(ctx, bySignal); err != nil {
				d.log.Error("configuration not reloaded: the old one stays in force", "by", bySignal, "error", err)
			}
		case r := <-d.reloads:
			r.result, r.err = d.reload(ctx, r.by)
			close(r.done)
		}
	}
}

// reload reads the configuration and goes on with it. Where it is wrong nothing changes.
func (d *Daemon) reload(ctx context.Context, by string) (control.Reload, error) {
	d.tellReloading()
	defer d.tellReloaded()
	next, err := d.readAgain()
	if err != nil {
		d.reloaded(err, nil)
		return control.Reload{}, &control.ConfigError{Text: err.Error()}
	}
	now, changed, pending := d.cfg().Reload(next)
	if err := d.goOnWith(ctx, &now); err != nil {
		d.reloaded(err, pending)
		return control.Reload{}, err
	}
	d.reloaded(nil, pending)
	d.log.Info("configuration reloaded", "by", by, text("changed", strings.Join(changed, " ")), text("needs_restart", strings.Join(pending, " ")))
	return control.Reload{Changed: append([]string{}, changed...), NeedsRestart: append([]string{}, pending...)}, nil
}

func (d *Daemon) readAgain() (config.Config, error) {
	if d.opts.Load == nil {
		return config.Config{}, errors.New("this fsban was started without a configuration file")
	}
	next, err := d.opts.Load()
	next.CTILog.Path = cmp.Or(next.CTILog.File(), config.CTILogOff)
	return next, err
}

// reloaded notes what came of it, for status and metrics.
func (d *Daemon) reloaded(err error, pending []string) {
	var troubles []string
	result := reloadOK
	if err != nil {
		result = reloadFailed
		first, more, several := strings.Cut(err.Error(), "\n")
		if several {
			first += fmt.Sprintf(" (and %d more: fsban check)", strings.Count(more, "\n")+1)
		}
		troubles = append(troubles, "the configuration was not reloaded, the old one is in force: "+first)
	}
	if len(pending) > 0 {
		troubles = append(troubles, "what the configuration file says needs a restart: "+strings.Join(pending, ", "))
	}
	d.reloadTroubles.Store(&troubles)
	d.metrics.reloads[result].Inc()
	d.reloadFailed.Store(err != nil)
	if err == nil {
		d.lastReload.Store(time.Now().UnixMicro())
	}
}

// goOnWith puts a configuration into force, part by part. Of what is counted, banned and held nothing is lost.
func (d *Daemon) goOnWith(ctx context.Context, now *config.Config) error {
	was := d.cfg()
	if d.opts.SetLog != nil && was.Log != now.Log {
		d.opts.SetLog(now.Log)
	}
	if was.Firewall.MaxBans != now.Firewall.MaxBans || was.Firewall.Check != now.Firewall.Check {
		// The kernel has room before anything is put there.
		if err := d.enforcer.Set(ctx, time.Duration(now.Firewall.Check), now.Firewall.MaxBans); err != nil {
			return err
		}
	}
	d.inUse.Store(now)
	d.setGroups()
	if err := d.do(ctx, func(l *loop) { l.goOnWith(&now.Policy) }); err != nil {
		return err
	}
	if err := d.never.Set(ctx, d.neverBanOptions()); err != nil {
		return err
	}
	d.watchPeer()
	d.hearAgain(was, now)
	if was.CTILog.Path != now.CTILog.Path {
		return d.followOther(ctx)
	}
	return nil
}

// goOnWith has other rules and options decide from now on. What is counted for a rule that counts the same stays.
func (l *loop) goOnWith(p *config.Policy) {
	opts := p.Options()
	opts.Seed = l.seed
	rules := p.Rules()
	for i := range rules {
		l.metrics.bans.WithLabelValues(rules[i].Name) // zero is visible
	}
	l.engine.SetRules(rules, opts)
	l.arbiter.SetSources(time.Now(), l.sources()...)
}

// setGroups lets those into the control socket whom the configuration names.
func (d *Daemon) setGroups() {
	problems := d.server.SetGroups(d.cfg().Control.Readers, d.cfg().Control.Admins)
	for _, p := range problems {
		if old := d.groupTroubles.Load(); old == nil || !slices.Contains(*old, p) {
			d.log.Warn("control socket", "problem", p)
		}
	}
	d.groupTroubles.Store(&problems)
}

// watchPeer has the event socket's other end never banned, or not, as the configuration says.
func (d *Daemon) watchPeer() {
	state := d.client.State()
	if peer, ok := state.Peer.(*net.TCPAddr); ok && d.cfg().Policy.IgnoreSelf {
		d.never.SetPeer(peer.AddrPort().Addr().Unmap())
	} else if !d.cfg().Policy.IgnoreSelf {
		d.never.SetPeer(noAddr)
	}
}

// hearAgain has the event socket asked for other events where that is needed. The connection stays where it can.
func (d *Daemon) hearAgain(was, now *config.Config) {
	before, detector := detect.New(was.Detect()), detect.New(now.Detect())
	if was.FreeSWITCH.Address != now.FreeSWITCH.Address || !reflect.DeepEqual(Subscription(was, before), Subscription(now, detector)) {
		d.client.Change(now.FreeSWITCH.Address, d.socket(detector))
		return
	}
	if !reflect.DeepEqual(was.Detect(), now.Detect()) {
		d.hears.Store(detector) // with the same headers
	}
}

// tellReloading tells systemd, as Type=notify-reload wants it.
func (d *Daemon) tellReloading() {
	if d.announced.Load() {
		_, _ = sd.SdNotify(false, sd.SdNotifyReloading+"\n"+sd.SdNotifyMonotonicUsec())
	}
}

func (d *Daemon) tellReloaded() {
	if d.announced.Load() {
		_, _ = sd.SdNotify(false, sd.SdNotifyReady)
		d.wake()
	}
}

// watchdog tells systemd that decisions are made, twice as often as it wants to hear that, until ctx ends.
func (d *Daemon) watchdog(ctx context.Context) error {
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return nil
	}
	ticker := time.NewTicker(every / 2)
	defer ticker.Stop()
	for {
		alive, cancel := context.WithTimeout(ctx, every/2)
		if d.do(alive, func(*loop) {}) == nil {
			_, _ = sd.SdNotify(false, sd.SdNotifyWatchdog)
		}
		cancel()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
