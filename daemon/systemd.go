package daemon

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// readiness is the part of the state that systemd is notified of.
type readiness struct {
	changed   chan struct{} // unready may have another result
	enforced  chan struct{} // closed once all restored bans are in force
	inForce   func()        // closes enforced
	announced *atomic.Bool  // systemd was notified that fsban is ready
}

func newReadiness() readiness {
	r := readiness{changed: make(chan struct{}, 1), enforced: make(chan struct{}), announced: new(atomic.Bool)}
	r.inForce = sync.OnceFunc(func() { close(r.enforced) })
	return r
}

// check has readiness looked at again. It does not wait.
func (r readiness) check() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// unready returns the reasons why fsban does not protect: none if it does.
func (d *Daemon) unready() []string {
	faults := d.unprotected()
	if d.watch.on.Load() {
		return append([]string{watchingText}, faults...)
	}
	return faults
}

// unprotected returns the faults that keep fsban from protecting, which takes enforcement and a source. It is no fault to watch.
func (d *Daemon) unprotected() []string {
	var why []string
	if s := d.enforcer.Status(); !s.Enforcing {
		why = append(why, fmt.Sprintf("bans are not enforced: %v", s.Err))
	}
	if s := d.sources.client.State(); !s.Up && !d.sources.followsLog() && !d.sources.tap.reads() {
		if s.Err != nil {
			why = append(why, "no source of attempts is alive: "+s.Err.Error())
		} else {
			why = append(why, "no source of attempts is alive yet")
		}
	}
	return why
}

// announceReadiness notifies systemd that fsban is ready once all restored bans are in force, and of problems. A source is not
// waited for: the boot, and a FreeSWITCH that starts late in it, would wait for fsban.
func (d *Daemon) announceReadiness(ctx context.Context) error {
	enforced := d.readiness.enforced
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-enforced:
			enforced = nil
			if !d.watch.on.Load() {
				d.log.Info("bans are in force", "after", time.Since(d.started).Round(time.Millisecond))
			}
			d.readiness.announced.Store(true) // a reload may follow at once
			_, _ = sd.SdNotify(false, sd.SdNotifyReady+"\n"+d.statusLine())
		case <-d.readiness.changed:
			_, _ = sd.SdNotify(false, d.statusLine())
		}
	}
}

func (d *Daemon) statusLine() string {
	faults := d.unprotected()
	switch {
	case len(faults) > 0:
		return "STATUS=" + faults[0]
	case d.watch.on.Load():
		return "STATUS=watching: nobody is blocked"
	}
	return "STATUS=protecting"
}

// notifyReloading notifies systemd that a reload begins, as Type=notify-reload requires.
func (d *Daemon) notifyReloading() {
	if d.readiness.announced.Load() {
		_, _ = sd.SdNotify(false, sd.SdNotifyReloading+"\n"+sd.SdNotifyMonotonicUsec())
	}
}

func (d *Daemon) notifyReloaded() {
	if d.readiness.announced.Load() {
		_, _ = sd.SdNotify(false, sd.SdNotifyReady)
		d.readiness.check()
	}
}

// watchdog notifies systemd that the decision loop answers, twice as often as systemd requires, until ctx ends.
func (d *Daemon) watchdog(ctx context.Context) error {
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return nil
	}
	ticker := time.NewTicker(every / 2)
	defer ticker.Stop()
	for {
		alive, cancel := context.WithTimeout(ctx, every/2)
		if d.loop.Do(alive, func() {}) == nil {
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
