package daemon

import (
	"fsban/policy"
)

// report says what the policy has noticed and bans nobody for.
func (l *loop) report(r policy.Report) {
	switch r := r.(type) {
	case policy.StuckPhone:
		l.metrics.stuck.Inc()
		l.log.Warn("stuck phone: it fails again and again at an address that others log in from", "addr", r.Addr, "user", r.User, "domain", r.Domain, "user_agent", r.UserAgent, "failures", r.Count)
	case policy.SuspiciousLogin:
		l.metrics.suspicious.Inc()
		l.log.Warn("suspicious login: right after wrong, from an address that was not known", "addr", r.Addr, "user", r.User, "domain", r.Domain, "user_agent", r.UserAgent, "failures", r.Failures)
	case policy.DistributedAttack:
		l.metrics.distributed.Inc()
		l.log.Warn("distributed attack: many addresses fail on one user", "user", r.User, "domain", r.Domain, "addresses", r.Addresses, "since", r.Since)
	case policy.GuardChange:
		l.showPolicy()
		if r.Active {
			l.log.Error("guard: bans are held from now on", "guard", r.Guard, "now", r.Now, "limit", r.Limit)
			return
		}
		l.log.Info("guard: it is over", "guard", r.Guard, "held", r.Held, "dropped", r.Dropped)
	}
}

// A shownPolicy is what metrics show of the policy.
type shownPolicy struct {
	policy.Stats
	guards [policy.NumGuards]bool // that hold bans
}

// showPolicy puts what the policy holds where metrics can see it.
func (l *loop) showPolicy() {
	s := shownPolicy{Stats: l.engine.Stats()}
	for g, state := range l.engine.Guards() {
		s.guards[g] = state.Active
	}
	l.stats.Store(&s)
}
