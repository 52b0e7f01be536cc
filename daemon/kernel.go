package daemon

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"fsban/config"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// openFirewall makes the way to the kernel. It starts nothing.
func (d *Daemon) openFirewall() error {
	b, err := d.openBackend()
	if err != nil {
		return err
	}
	d.backend = b
	d.enforcer = firewall.NewEnforcer(b, firewall.EnforcerOptions{
		Bans:    func() iter.Seq2[netip.Prefix, time.Time] { return d.ledger.Each },
		Tally:   d.ledger.Tally,
		Adopt:   d.adopt,
		Amend:   d.amend,
		Applied: d.onApplied,
		Operated: func(op firewall.Operation, took time.Duration, err error) {
			d.metrics.operations[op].Observe(took.Seconds())
			if err != nil {
				d.metrics.failed[op].Inc()
			}
		},
		Changed: d.onFirewall,
		Check:   time.Duration(d.cfg().Firewall.Check),
	})
	return nil
}

func (d *Daemon) openBackend() (firewall.Backend, error) {
	o := d.cfg().Firewall.Options()
	switch d.cfg().Firewall.Backend {
	case config.BackendDryRun:
		return firewall.NewDryRun(), nil
	case config.BackendIPTables:
		return firewall.NewIPTables(o)
	case config.BackendNFTables:
		return firewall.NewNFTables(o)
	case config.BackendRules:
		return firewall.NewRules(o)
	}
	b, why, err := firewall.Auto(context.Background(), o)
	if err == nil {
		d.log.Info("firewall.backend auto", "backend", b.Name(), "because", why)
	}
	return b, err
}

// onFirewall runs in the enforcer's goroutine.
func (d *Daemon) onFirewall(s firewall.Status) {
	if !s.Enforcing {
		d.log.Error("firewall is not enforcing: trying again", "backend", s.Backend, "error", s.Err)
		d.wake()
		return
	}
	d.log.Info("firewall is enforcing", "backend", s.Backend, "repairs", s.Repairs)
	for _, n := range s.Notes {
		if !slices.Contains(d.noted, n) {
			d.log.Warn("firewall", "note", n)
		}
	}
	d.noted = s.Notes
	if s.Pending == 0 {
		d.inForce()
	}
	d.wake()
}

// clear takes away what another backend, or variant of iptables, has left from an earlier run, once the bans are in force. It
// may wait for a lock.
func (d *Daemon) clear(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-d.enforced:
	}
	debug.FreeOSMemory() // all bans were read, listed and compared: far more than it takes to know them
	removed, err := firewall.Abandoned(d.backend)
	switch {
	case err != nil:
		d.log.Warn("what another backend or variant of iptables had left cannot be taken away: fsban teardown does it", "removed", removed, "error", err)
	case len(removed) > 0:
		d.log.Info("what another backend or variant of iptables had left is taken away", "removed", removed)
	}
	return nil
}

func (d *Daemon) onApplied(ban bool, took time.Duration, cause firewall.Cause) {
	if !ban {
		return
	}
	d.metrics.latency.Observe(took.Seconds())
	if !cause.At.IsZero() {
		d.metrics.delay.Observe(max(0, took+cause.Read.Sub(cause.At)).Seconds())
	}
}

// adopt takes over what the kernel holds and the ledger does not know. It runs in the enforcer's goroutine and does not
// wait for the loop, which may be waiting for the enforcer's end.
func (d *Daemon) adopt(entries []firewall.Entry) {
	now := time.Now()
	for _, e := range entries {
		d.ledger.Add(ledger.Ban{Prefix: e.Prefix, Since: now, Until: endOf(&e, now), Rule: ruleKernel, Source: policy.Kernel})
		d.metrics.adopted.Inc()
	}
	d.log.Warn("took over bans that were in the kernel and not in the state file", "bans", len(entries), "first", entries[0].Prefix)
}

// amend takes over ends that somebody has changed in the kernel. It runs where adopt does.
func (d *Daemon) amend(entries []firewall.Entry) {
	now := time.Now()
	for _, e := range entries {
		d.ledger.Amend(e.Prefix, endOf(&e, now))
	}
	d.log.Warn("took over ends of bans that were changed in the kernel", "bans", len(entries), "first", entries[0].Prefix)
}

func endOf(e *firewall.Entry, now time.Time) time.Time {
	if e.Left == firewall.Forever {
		return time.Time{}
	}
	return now.Add(e.Left)
}

// roomFor is how many bans make room at once where the set is full.
const roomFor = 64

// makeRoom ends the bans by rules that are nearest to their end, when as many as may be are in force.
func (l *loop) makeRoom(b *ledger.Ban) error {
	if _, there := l.ledger.Get(b.Prefix); there {
		return nil
	}
	v4, v6 := l.ledger.Count()
	is4 := b.Prefix.Addr().Is4()
	held, size, shared, more := v4, l.cfg().Firewall.MaxBans, false, "raise firewall.max_bans"
	if !is4 {
		held = v6
	}
	if r, ok := l.backend.(*firewall.Rules); ok && r.Room() < size {
		held, size, shared, more = v4+v6, r.Room(), true, "install ipset, and set firewall.backend to iptables"
	}
	if held < size {
		return nil
	}
	mayGo := func(b *ledger.Ban) bool { return b.Rule != ruleOperator }
	ends := l.ledger.NearestEnd(is4, max(min(roomFor, size/16), 1), mayGo)
	if len(ends) == 0 && shared {
		ends = l.ledger.NearestEnd(!is4, 1, mayGo)
	}
	if len(ends) == 0 {
		l.refused.Add(1)
		return fmt.Errorf("%d bans of operators are in force: %s", size, more)
	}
	for _, old := range ends {
		l.lift(old, causeRoom, "")
		l.ledger.Note(ledger.Entry{Forgot: old.Prefix, At: b.Since}, b.Since) // or the next start would make it again
	}
	l.log.Error("as many bans as may be are in force (firewall.max_bans, or the limit of firewall.backend rules): those nearest to their end make room", "bans", size, "ended", len(ends))
	return nil
}
