package daemon

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"fsban/config"
	"fsban/decide/book"
	"fsban/firewall"
	"fsban/firewall/backend"
)

// newEnforcer connects the backend with the ledger, the loop and the metrics. It starts nothing.
func (d *Daemon) newEnforcer() *firewall.Enforcer {
	var logged []string // notes; the enforcer's goroutine's own
	return firewall.NewEnforcer(*d.watch.backend.Load(), firewall.EnforcerOptions{
		Bans:     func() iter.Seq2[netip.Prefix, time.Time] { return d.ledger.Each },
		Tally:    d.ledger.Tally,
		Clock:    d.clock.Reading,
		Adopt:    func(entries []firewall.Entry) { d.loop.Found(entries) }, // the loop removes those that it does not adopt
		Rejected: d.onRejected,
		Amend:    func(entries []firewall.Entry) { d.loop.Amended(entries) },
		Applied:  d.metrics.applied,
		Operated: func(op firewall.Operation, took time.Duration, err error) {
			d.metrics.operations[op].Observe(took.Seconds())
			if err != nil {
				d.metrics.failed[op].Inc()
			}
		},
		Changed: func(s firewall.Status) { logged = d.onFirewall(s, logged) },
		Tapped:  func(s firewall.TapStatus) { d.sources.tap.onRules(s) },
		Check:   time.Duration(d.cfg().Firewall.Check),
	})
}

// openBackend opens the configured backend, or for an fsban that watches the one that blocks nobody.
func openBackend(cfg *config.Config, watching bool, log *slog.Logger) (firewall.Backend, error) {
	if watching {
		return firewall.NewRecorder(), nil
	}
	b, reason, err := backend.Open(context.Background(), cfg.Firewall.Backend, cfg.Firewall.Options())
	if reason != "" {
		log.Info("firewall.backend auto", "backend", b.Name(), "because", reason)
	}
	return b, err
}

// onFirewall runs in the enforcer's goroutine. It returns the notes that are logged by now. An enforcer that is enforcing for the
// first time has applied every ban of the ledger.
func (d *Daemon) onFirewall(s firewall.Status, logged []string) []string {
	defer d.readiness.check()
	if !s.Enforcing {
		d.log.Error("firewall is not enforcing: trying again", "backend", s.Backend, "error", s.Err)
		return logged
	}
	if d.watch.on.Load() && s.Backend == firewall.None {
		d.log.Warn("watching: nobody is blocked", "setting", keyEnforce)
	} else {
		d.log.Info("firewall is enforcing", "backend", s.Backend, "repairs", s.Repairs)
	}
	for _, n := range s.Notes {
		if !slices.Contains(logged, n) {
			d.log.Warn("firewall", "note", n)
		}
	}
	d.readiness.inForce()
	return s.Notes
}

// onRejected runs in the enforcer's goroutine. The enforcer removes entries that cannot be bans by itself, and after a loss of
// unbans all entries that the ledger does not hold.
func (d *Daemon) onRejected(entries []firewall.Entry) {
	for i := range entries {
		reason := book.Withdrawn
		if !firewall.CanBan(entries[i].Prefix) {
			reason = book.BadPrefix
		}
		d.metrics.Removed(reason)
	}
	d.log.Warn("removed from the kernel", "entries", len(entries), "first", entries[0].Prefix)
}

// removeAbandoned removes the entries that another backend, or variant of iptables, has left from an earlier run, once the bans
// are in force. An fsban that watches removes nothing. It retries until nothing is left: while they are there, an unban does
// not let the address in.
func (d *Daemon) removeAbandoned(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.watch.ended:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.readiness.enforced:
	}
	debug.FreeOSMemory() // all bans were read, listed and compared, which takes far more memory than they do
	return removeUntilGone(ctx, d.log, &d.leftover, func() ([]string, error) { return backend.Abandoned(d.enforcer.Backend()) })
}

// The pause between two attempts to remove an earlier backend's entries doubles from leftoverMin to leftoverMax.
const leftoverMin, leftoverMax = time.Second, time.Minute

// removeUntilGone calls remove until it finds nothing to remove, and keeps the open problem in problem meanwhile. An attempt may
// wait for a lock.
func removeUntilGone(ctx context.Context, log *slog.Logger, problem *atomic.Pointer[string], remove func() ([]string, error)) error {
	for pause := leftoverMin; ; pause = min(2*pause, leftoverMax) {
		removed, err := remove()
		if len(removed) > 0 {
			log.Info("removed the entries of an earlier backend or variant of iptables", "removed", removed)
		}
		if err != nil {
			text := fmt.Sprintf("an earlier backend or variant of iptables still drops packets, also of addresses that were unbanned: %v "+
				"(trying again)", err)
			if before := problem.Swap(&text); before == nil || *before != text {
				log.Warn("cannot remove the entries of an earlier backend or variant of iptables: trying again", "error", err)
			}
		} else {
			problem.Store(nil)
			if len(removed) == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
