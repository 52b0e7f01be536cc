package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fsban/control"
	"fsban/decide"
	"fsban/decide/book"
	"fsban/firewall"
	"fsban/firewall/backend"
)

// keyEnforce is the setting that says whether fsban enforces or only watches.
const keyEnforce = "firewall.enforce"

// watchingText is the state of an fsban that only watches.
const watchingText = "watching: nobody is blocked (firewall.enforce is false); fsban enforce switches enforcement on"

// A watch says whether fsban only watches. fsban enforce ends that at run time, and holds over restarts until the file agrees.
type watch struct {
	on      atomic.Bool
	file    atomic.Bool                 // firewall.enforce, as the file was last read
	order   atomic.Pointer[decide.Mode] // order to enforce while the file says false; nil: none
	blocked atomic.Int64                // bans that the kernel holds although fsban watches, as of the last look
	backend atomic.Pointer[firewall.Backend]
	ended   chan struct{} // closed once fsban enforces
	mu      sync.Mutex    // one order at a time
}

// capacity is the capacity of the backend in use, or that will be in use in a moment.
func (w *watch) capacity() (bans int, shared bool) { return (*w.backend.Load()).Capacity() }

// startMode decides whether this process watches or enforces: by the file, unless an operator has ordered enforcement.
func (d *Daemon) startMode(before decide.Mode) decide.Mode {
	w := &d.watch
	w.ended = make(chan struct{})
	file := d.cfg().Firewall.Enforce
	w.file.Store(file)
	var mode decide.Mode
	switch {
	case file:
	case before.By != "":
		mode.By, mode.At = before.By, before.At
		w.order.Store(&mode)
	default:
		mode.Watching = true
		w.on.Store(true)
		return mode
	}
	close(w.ended)
	d.setEnforce()
	return mode
}

// setEnforce makes the configuration in force say that fsban enforces.
func (d *Daemon) setEnforce() {
	cfg := *d.cfg()
	cfg.Firewall.Enforce = true
	d.config.Store(&cfg)
}

// dropWatched ends the bans of an earlier process that watched, because the file says now that fsban enforces. If the state that says
// so is lost, the bans do, each for itself.
func (d *Daemon) dropWatched(before decide.Mode) {
	if !before.Watching && !d.ledger.AnyWatched() {
		return
	}
	done := d.loop.EnforceRestored(&book.Enforcement{Blocked: d.blockedNow(), Marked: !before.Watching})
	d.log.Info("enforcement begins", "kept", done.Kept, "ended", done.Ended, "evicted", done.Evicted, "by", keyEnforce)
}

// existing lists the bans that the kernel holds, of any backend.
func (d *Daemon) existing() ([]firewall.Entry, error) {
	return backend.Existing(d.cfg().Firewall.Options())
}

func (d *Daemon) blockedNow() map[netip.Prefix]struct{} {
	entries, err := d.existing()
	if err != nil {
		d.log.Warn("cannot list the kernel's bans", "error", err)
	}
	blocked := make(map[netip.Prefix]struct{}, len(entries))
	for i := range entries {
		blocked[entries[i].Prefix] = struct{}{}
	}
	return blocked
}

// enforce ends watching, or withdraws the order that has, because an operator asks for it.
func (d *Daemon) enforce(ctx context.Context, r control.EnforceRequest, by string) (control.Enforcement, error) {
	d.watch.mu.Lock()
	defer d.watch.mu.Unlock()
	if next, err := d.readConfig(); err == nil {
		d.watch.file.Store(next.Firewall.Enforce)
	}
	if r.Revoke {
		return d.revoke(ctx, by)
	}
	if !d.watch.on.Load() {
		return control.Enforcement{}, &control.RefusedError{Text: "fsban enforces already"}
	}
	b, err := openBackend(d.cfg(), false, d.log)
	if err != nil {
		return control.Enforcement{}, &control.RefusedError{Text: "cannot enforce, still watching: " + err.Error()}
	}
	var done book.Enforced
	var order decide.Mode
	if !d.watch.file.Load() {
		order = decide.Mode{By: by, At: time.Now()}
	}
	e := book.Enforcement{Keep: r.Keep, Blocked: d.blockedNow()}
	err = d.enforcer.Switch(ctx, b, func() (err error) {
		before := d.watch.backend.Swap(&b) // bans beyond its capacity are evicted
		if done, err = d.loop.Enforce(ctx, &e, order); err != nil {
			d.watch.backend.Store(before)
		}
		return err
	})
	if err != nil {
		return control.Enforcement{}, fmt.Errorf("cannot enforce, still watching: %w", errors.Join(err, b.Close()))
	}
	d.watch.on.Store(false)
	close(d.watch.ended)
	d.setEnforce()
	d.log.Info("enforcement begins", "kept", done.Kept, "ended", done.Ended, "evicted", done.Evicted, "by", by)
	if order.By != "" {
		d.watch.order.Store(&order)
	}
	d.readiness.check()
	return control.Enforcement{Kept: done.Kept, Ended: done.Ended, Evicted: done.Evicted, FileAgrees: order.By == ""}, nil
}

// revoke withdraws an order to enforce: the next start follows the file.
func (d *Daemon) revoke(ctx context.Context, by string) (control.Enforcement, error) {
	if d.watch.order.Swap(nil) == nil {
		return control.Enforcement{}, &control.RefusedError{
			Text: "no order of fsban enforce differs from the configuration file: nothing to revoke",
		}
	}
	d.log.Info("order to enforce revoked", "by", by)
	return control.Enforcement{FileAgrees: d.watch.file.Load()}, d.loop.SetOrder(ctx, decide.Mode{})
}

// settleOrder forgets the order to enforce once the file agrees.
func (d *Daemon) settleOrder(ctx context.Context) error {
	if !d.watch.file.Load() || d.watch.order.Swap(nil) == nil {
		return nil
	}
	return d.loop.SetOrder(ctx, decide.Mode{})
}

// problems returns where the file and the state differ, and the bans that block although fsban watches.
func (w *watch) problems() (list []string) {
	on, file, order := w.on.Load(), w.file.Load(), w.order.Load()
	switch {
	case on && file:
		list = append(list, "firewall.enforce is true in the configuration file, and fsban still watches: run fsban enforce to begin with an "+
			"empty list, as a restart does, or fsban enforce --keep to enforce the watched bans")
	case order != nil && !file:
		list = append(list, fmt.Sprintf("fsban enforces because %s ran fsban enforce (%s), and the configuration file still says "+
			"firewall.enforce: false. Set it to true and run fsban reload; or, to watch after the next restart, run fsban enforce --revoke",
			order.By, order.At.Local().Format(time.DateTime)))
	case !on && !file:
		list = append(list, "firewall.enforce is false in the configuration file, and fsban still enforces: after the next restart it only "+
			"watches")
	}
	if n := w.blocked.Load(); on && n > 0 {
		list = append(list, fmt.Sprintf("%d bans from before fsban watched are still in the kernel and block: to end them, stop fsban, run "+
			"fsban teardown, and start fsban", n))
	}
	return list
}

// lookEvery is the pause between two looks for bans that block although fsban watches.
const lookEvery = time.Minute

// watchKernel counts the bans that block although fsban watches, until it enforces or ctx ends.
func (d *Daemon) watchKernel(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for d.watch.on.Load() {
		entries, err := d.existing()
		if err != nil {
			d.log.Debug("cannot list the kernel's bans", "error", err)
		}
		d.watch.blocked.Store(int64(len(entries)))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.watch.ended:
		case <-ticker.C:
		}
	}
	return nil
}
