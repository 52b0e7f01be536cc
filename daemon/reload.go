package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/detect"
)

// A reloader takes requests to read the configuration file again, one after the other, and keeps their result for status and
// metrics.
type reloader struct {
	requests chan *reloadRequest
	last     atomic.Int64 // unix microseconds: when the configuration in force was read
	failed   atomic.Bool  // the last reload
	file     atomic.Pointer[[]string]
	groups   atomic.Pointer[[]string] // problems of the control socket's groups
}

// A reloadRequest waits for its result.
type reloadRequest struct {
	by     string
	result control.Reload
	err    error
	done   chan struct{}
}

// bySignal stands in place of an operator for a reload by signal.
const bySignal = "SIGHUP"

// request has the configuration read again because an operator orders it.
func (r *reloader) request(ctx context.Context, by string) (control.Reload, error) {
	q := &reloadRequest{by: by, done: make(chan struct{})}
	select {
	case r.requests <- q:
	case <-ctx.Done():
		return control.Reload{}, ctx.Err()
	}
	select {
	case <-q.done: // a reload that has begun is finished
		return q.result, q.err
	case <-ctx.Done():
		return control.Reload{}, ctx.Err()
	}
}

// problems returns the open problems of the last reload.
func (r *reloader) problems() []string {
	var list []string
	for _, some := range []*[]string{r.file.Load(), r.groups.Load()} {
		if some != nil {
			list = append(list, *some...)
		}
	}
	return list
}

// serveReloads reads the configuration again on request, one after the other, until ctx ends.
func (d *Daemon) serveReloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.opts.Hangup:
			if _, err := d.reload(ctx, bySignal); err != nil {
				d.log.Error("configuration not reloaded: the old one stays in force", "by", bySignal, "error", err)
			}
		case r := <-d.reloader.requests:
			r.result, r.err = d.reload(ctx, r.by)
			close(r.done)
		}
	}
}

// reload reads the configuration and puts it into force. If it is wrong nothing changes.
func (d *Daemon) reload(ctx context.Context, by string) (control.Reload, error) {
	d.notifyReloading()
	defer d.notifyReloaded()
	next, err := d.readConfig()
	if err != nil {
		d.reloaded(err, nil)
		return control.Reload{}, &control.ConfigError{Text: err.Error()}
	}
	now, changed, pending := d.cfg().Reload(next)
	d.watch.file.Store(next.Firewall.Enforce)
	if err := d.apply(ctx, &now); err != nil {
		d.reloaded(err, pending)
		return control.Reload{}, err
	}
	d.reloaded(nil, pending)
	if err := d.settleOrder(ctx); err != nil {
		return control.Reload{}, err
	}
	d.log.Info("configuration reloaded", "by", by, text("changed", strings.Join(changed, " ")),
		text("needs_restart", strings.Join(pending, " ")))
	return control.Reload{Changed: append([]string{}, changed...), NeedsRestart: append([]string{}, pending...)}, nil
}

func (d *Daemon) readConfig() (config.Config, error) {
	if d.opts.Load == nil {
		return config.Config{}, errors.New("this fsban was started without a configuration file")
	}
	next, err := d.opts.Load()
	if err != nil {
		return next, err
	}
	_, err = CheckFiles(&next)
	next.CTILog.Path = cmp.Or(next.CTILog.File(), config.CTILogOff)
	return next, err
}

// reloaded keeps the result for status and metrics.
func (d *Daemon) reloaded(err error, pending []string) {
	var problems []string
	result := reloadOK
	if err != nil {
		result = reloadFailed
		first, more, several := strings.Cut(err.Error(), "\n")
		if several {
			first += fmt.Sprintf(" (and %d more: fsban check)", strings.Count(more, "\n")+1)
		}
		problems = append(problems, "the configuration was not reloaded, the old one is in force: "+first)
	}
	pending = slices.DeleteFunc(slices.Clone(pending), func(key string) bool { return key == keyEnforce }) // see watch.problems
	if len(pending) > 0 {
		problems = append(problems, "settings in the configuration file that need a restart: "+strings.Join(pending, ", "))
	}
	d.reloader.file.Store(&problems)
	d.metrics.reloads[result].Inc()
	d.reloader.failed.Store(err != nil)
	if err == nil {
		d.reloader.last.Store(time.Now().UnixMicro())
	}
}

// apply puts a configuration into force, part by part. Counts, bans and held bans are kept.
func (d *Daemon) apply(ctx context.Context, now *config.Config) error {
	was := d.cfg()
	if d.opts.SetLog != nil && was.Log != now.Log {
		d.opts.SetLog(now.Log)
	}
	if was.Firewall.MaxBans != now.Firewall.MaxBans || was.Firewall.Check != now.Firewall.Check {
		// The kernel has room before a ban is put there.
		if err := d.enforcer.Set(ctx, time.Duration(now.Firewall.Check), now.Firewall.MaxBans); err != nil {
			return err
		}
	}
	d.config.Store(now)
	d.setGroups()
	s := settings(now)
	d.metrics.ofRules(s.Rules)
	if err := d.loop.Apply(ctx, s); err != nil {
		return err
	}
	if err := d.neverBan.watcher.Reconfigure(ctx, d.neverBan.options(now)); err != nil {
		return err
	}
	d.watchPeer()
	d.sources.resubscribe(was, now)
	d.sources.tap.configure(now)
	if was.CTILog.Path != now.CTILog.Path {
		return d.sources.switchLog(ctx, now)
	}
	return nil
}

// setGroups lets the configured groups into the control socket.
func (d *Daemon) setGroups() {
	problems := d.server.SetGroups(d.cfg().Control.Readers, d.cfg().Control.Admins)
	for _, p := range problems {
		if old := d.reloader.groups.Load(); old == nil || !slices.Contains(*old, p) {
			d.log.Warn("control socket", "problem", p)
		}
	}
	d.reloader.groups.Store(&problems)
}

// noAddr is no address.
var noAddr netip.Addr

// onConnected runs in the event socket's goroutine.
func (d *Daemon) onConnected() {
	d.watchPeer()
	d.neverBan.watcher.Refresh()
	d.sources.domains.refresh()
	d.sources.tap.ask()
}

// watchPeer adds the event socket's other end to the never-ban list, or removes it, as configured.
func (d *Daemon) watchPeer() {
	state := d.sources.client.State()
	if peer, ok := state.Peer.(*net.TCPAddr); ok && d.cfg().Policy.IgnoreSelf {
		d.neverBan.watcher.SetPeer(peer.AddrPort().Addr().Unmap())
	} else if !d.cfg().Policy.IgnoreSelf {
		d.neverBan.watcher.SetPeer(noAddr)
	}
}

// resubscribe requests other events from the event socket if needed. The connection stays if it can.
func (s *sources) resubscribe(was, now *config.Config) {
	before, detector := detect.New(was.Detect()), s.newDetector(now)
	if was.FreeSWITCH.Address != now.FreeSWITCH.Address || !reflect.DeepEqual(Subscription(was, before), Subscription(now, detector)) {
		s.client.Reconfigure(now.FreeSWITCH.Address, s.socket(now, detector))
		return
	}
	if !reflect.DeepEqual(was.Detect(), now.Detect()) {
		s.detector.Store(detector) // with the same headers
	}
}
