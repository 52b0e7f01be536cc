package daemon

import (
	"time"

	"fsban/decide/book"
	"fsban/firewall"
	"fsban/policy"
)

// The decision loop counts by the methods below; see decide.Recorder.

// Counted counts an attempt that is no duplicate.
func (m *metrics) Counted(profile string, k policy.Kind) { m.profiles.count(profile, k) }

// Detailed counts the detail of an attempt.
func (m *metrics) Detailed(k policy.Kind, detail string) {
	if c := m.tap.details[k][detail]; c != nil {
		c.Inc()
	}
}

// CountedRemote counts attempts of other nodes.
func (m *metrics) CountedRemote(k policy.Kind, n int) { m.attempts[policy.Fleet][k].Add(float64(n)) }

// CountedBanned counts an attempt of a prefix that is banned.
func (m *metrics) CountedBanned() { m.whileBan.Inc() }

// Decided counts a decision.
func (m *metrics) Decided(v policy.Verdict) { m.verdicts[v].Inc() }

// Reported counts an observation of the policy.
func (m *metrics) Reported(r policy.Report) {
	switch r := r.(type) {
	case policy.StuckPhone:
		m.observations.stuck.Inc()
	case policy.SuspiciousLogin:
		grade := "possible"
		if r.Likely {
			grade = "likely"
		}
		m.observations.suspicious[grade].Inc()
	case policy.DistributedAttack:
		m.observations.distributed.Inc()
	}
}

// Banned counts a ban.
func (m *metrics) Banned(rule string) { m.bans.WithLabelValues(rule).Inc() }

// Unbanned counts the end of a ban.
func (m *metrics) Unbanned(c book.Cause) { m.unbans[c].Inc() }

// BanRefused counts a ban that found no room.
func (m *metrics) BanRefused() { m.refused.Inc() }

// Adopted counts an adopted entry of the kernel.
func (m *metrics) Adopted() { m.adopted.Inc() }

// Removed counts an entry that was removed from the kernel.
func (m *metrics) Removed(r book.Reason) { m.removed[r].Inc() }

// applied observes how long a ban took. It runs in the enforcer's goroutine.
func (m *metrics) applied(ban bool, took time.Duration, cause firewall.Cause) {
	if !ban {
		return
	}
	m.latency.Observe(took.Seconds())
	if !cause.At.IsZero() {
		m.delay.Observe(max(0, took+cause.Read.Sub(cause.At)).Seconds())
	}
}

// ofRules makes the counters of rules, so that zero is visible.
func (m *metrics) ofRules(rules []policy.Rule) {
	for i := range rules {
		m.bans.WithLabelValues(rules[i].Name)
	}
}
