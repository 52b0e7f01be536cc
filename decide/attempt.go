package decide

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"fsban/ctilog"
	"fsban/decide/book"
	"fsban/detect"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// queueSize is how many attempts may wait for the loop: most of a second of the worst flood that a FreeSWITCH can report.
const queueSize = 8192

// queues carry attempts to the loop.
type queues struct {
	offered chan queued // from sources that must not wait
	lines   chan queued // from mod_cti's log: its reader waits
	dropped atomic.Uint64
	counted [policy.NumKinds]atomic.Uint64 // attempts by kind, without duplicates
}

func newQueues() queues {
	return queues{offered: make(chan queued, queueSize), lines: make(chan queued, 64)}
}

// A queued attempt is on its way to the loop.
type queued struct {
	policy.Attempt
	read time.Time

	next ctilog.Position // behind a line of mod_cti's log
}

// A Line is a line of mod_cti's log.
type Line struct {
	Attempt policy.Attempt // without an address: none that counts
	Read    time.Time
	Next    ctilog.Position // behind the line
}

// Offer queues an attempt read at a time, and reports whether there was room. It never waits.
func (l *Loop) Offer(a policy.Attempt, read time.Time) bool {
	select {
	case l.queues.offered <- queued{Attempt: a, read: read}:
		return true
	default:
		l.queues.dropped.Add(1)
		return false
	}
}

// OfferLine queues a line's attempt. It waits for room until halt is closed: the next start reads the line again.
func (l *Loop) OfferLine(line Line, halt <-chan struct{}) {
	select {
	case l.queues.lines <- queued{line.Attempt, line.Read, line.Next}:
	case <-halt:
	}
}

// Dropped returns how many attempts found no room in the queue.
func (l *Loop) Dropped() uint64 { return l.queues.dropped.Load() }

// Counted returns how many attempts of a kind were seen since the start, without duplicates.
func (l *Loop) Counted(k policy.Kind) uint64 { return l.queues.counted[k].Load() }

// Queued returns how many attempts wait.
func (l *Loop) Queued() int { return len(l.queues.offered) + len(l.queues.lines) }

// health is the state of the sources, as their readers report it.
type health struct {
	alive [policy.NumSources]atomic.Bool
	last  [policy.NumSources]atomic.Int64 // time of the last report, unix microseconds
}

// SetAlive reports that a source is connected, or no longer is.
func (l *Loop) SetAlive(s policy.Source, alive bool) { l.health.alive[s].Store(alive) }

// Alive reports whether a source is connected.
func (l *Loop) Alive(s policy.Source) bool { return l.health.alive[s].Load() }

// Reported notes that a source reported an attempt at now.
func (l *Loop) Reported(s policy.Source, now time.Time) { l.health.last[s].Store(now.UnixMicro()) }

// LastReport returns the time of a source's last report in unix microseconds; 0: none.
func (l *Loop) LastReport(s policy.Source) int64 { return l.health.last[s].Load() }

// updateArbiter passes on which sources are alive.
func (l *Loop) updateArbiter(now time.Time) {
	for source := range policy.NumSources {
		l.arbiter.SetAlive(source, l.health.alive[source].Load(), now)
	}
}

// decideOn decides on the attempt of q, if it is no duplicate.
func (l *Loop) decideOn(q *queued) {
	by := l.clock.shift(q.read)
	if by == 0 {
		l.sequence.Attempt(&q.Attempt, q.read)
		return
	}
	if l.arbiter.Counts(&q.Attempt, q.read) { // it was read before a step of the system's clock, or after one
		a := q.Attempt
		a.At = a.At.Add(by)
		l.sequence.Count(&a, l.clock.of(q.read))
	}
}

// decide handles one attempt of a source.
func (l *Loop) decide(q *queued) {
	l.updateArbiter(q.read)
	if q.Addr.IsValid() {
		l.decideOn(q)
	}
	if q.next != (ctilog.Position{}) {
		l.advanceLog(q)
	}
}

// effects applies the policy's decisions to a Loop.
type effects struct{ l *Loop }

func (e effects) Counted(a *policy.Attempt, read time.Time) {
	if a.Source == policy.Fleet {
		return
	}
	e.l.queues.counted[a.Kind].Add(1)
	e.l.recorder.Counted(a.Profile, a.Kind)
	if a.Kind.Detailed() {
		e.l.recorder.Detailed(a.Kind, a.Detail)
	}
	if a.Kind == policy.Exploit {
		e.l.exploited(a, read)
	}
}

func (e effects) Ignores(a *policy.Attempt, prefix netip.Prefix, read time.Time) bool {
	if !e.l.book.Banned(prefix, read) {
		if !e.l.excused(a, prefix, read) {
			return false
		}
		e.l.recorder.Decided(policy.Excused)
		return true
	}
	e.l.recorder.CountedBanned()
	if a.Kind != policy.AuthSuccess {
		e.l.busiest.add(a, prefix, read)
	}
	return true
}

// excused reports whether a, read at now, precedes a withdrawal of the ban of its prefix.
func (l *Loop) excused(a *policy.Attempt, prefix netip.Prefix, now time.Time) bool {
	return a.Kind != policy.AuthSuccess && l.book.Withdrawn(prefix, a.At, now)
}

func (e effects) Decided(a *policy.Attempt, d *policy.Decision, read time.Time) {
	l := e.l
	if a.Kind != policy.AuthSuccess && (a.Kind != policy.Challenge || d.Verdict != policy.Pass) { // credentials may follow yet
		l.busiest.add(a, d.Prefix, read)
	}
	l.recorder.Decided(d.Verdict)
	if d.Journal {
		l.book.Note(ledger.Entry{Attempt: *a}, a.At)
		l.shareAttempt(a)
	}
	if d.KnownGoodChanged {
		if g, ok := l.engine.KnownGood(a.Addr); ok && a.Source != policy.Fleet {
			l.shareKnown(&g)
		}
	}
	l.debug(a, d)
	cause := firewall.Cause{Read: read, At: a.At}
	if read.Sub(a.At) > detect.MaxSkew { // read back
		cause.At = time.Time{}
	}
	l.act(d, a.Source, cause)
}

func (e effects) Due(d *policy.Decision, now time.Time) {
	l := e.l
	if d.Verdict != policy.Pass {
		l.recorder.Decided(d.Verdict)
	}
	if d.Journal && d.Unanswered != nil {
		l.book.Note(ledger.Entry{Attempt: *d.Unanswered}, d.Unanswered.At)
	}
	l.act(d, policy.Event, firewall.Cause{Read: now})
	l.busiest.addUnanswered(d, now)
}

// act carries out a decision.
func (l *Loop) act(d *policy.Decision, source policy.Source, cause firewall.Cause) {
	switch d.Verdict {
	case policy.SparedBan:
		l.log.Warn("attacked from an address that is never banned", "addr", d.Prefix, "because", d.Never.Origin, "rule", d.Rule.Name, "attempts",
			d.Count, book.Text("user", book.LastUser(d.Evidence)))
	case policy.BanNow:
		l.ban(d, source, cause, "")
	case policy.Held:
		l.log.Warn("a ban is held", "addr", d.Prefix, "guard", d.Guard, "rule", d.Rule.Name, "attempts", d.Count)
	case policy.Lift:
		// From zero: or its attempts would be held again after a restart.
		if b, ok := l.ledger.Get(d.Prefix); ok && b.Rule != book.RuleOperator {
			l.book.LiftForOutage(b)
		} else {
			l.book.Note(ledger.Entry{Forgot: d.Prefix, At: cause.Read}, cause.Read)
		}
	case policy.Pass, policy.Counted, policy.Spared, policy.Excused, policy.Forged:
	}
	for _, r := range d.Reports {
		l.report(r)
	}
}

// ban makes the ban that a rule decided on, unless it is over, because an attempt that was read back may be old, or a ban that lasts
// longer is in force. by is the operator who has released it, if any.
func (l *Loop) ban(d *policy.Decision, source policy.Source, cause firewall.Cause, by string) {
	e := entryOf(d, book.ByRule, source, cause)
	e.Ban.By = by
	if e.Ban.Over(cause.Read) {
		return
	}
	l.reportRefusal(d.Prefix, l.book.Ban(e))
}

// reportRefusal logs why a ban was not made, unless another ban of the prefix outranks it.
func (l *Loop) reportRefusal(p netip.Prefix, err error) {
	var refusal *book.Refusal
	if err != nil && (!errors.As(err, &refusal) || refusal.Reason != book.Outranked) {
		l.log.Error("not banned", "addr", p, "error", err)
	}
}

func entryOf(d *policy.Decision, origin book.Origin, source policy.Source, cause firewall.Cause) book.Entry {
	if n := len(d.Evidence); n > 0 {
		source = d.Evidence[n-1].Source
	}
	offence := d.Offence
	if d.Short { // peers must not take it for the number of a ban with proof
		offence = 0
	}
	return book.Entry{Origin: origin, Cause: cause, Ban: ledger.Ban{
		Prefix: d.Prefix, Since: d.Since, Until: d.Until, Rule: d.Rule.Name, Attempts: d.Count, Source: source, Evidence: d.Evidence,
		Offence: offence,
	}}
}

// debug logs one attempt, at no cost when debug is off.
func (l *Loop) debug(a *policy.Attempt, d *policy.Decision) {
	if !l.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	rule, maxretry := "", 0
	if d.Rule != nil {
		rule, maxretry = d.Rule.Name, d.Rule.MaxRetry
	}
	l.log.Debug("decided", "addr", a.Addr, "kind", a.Kind, "user", a.User, "verdict", d.Verdict, "rule", rule, "count", d.Count, "maxretry",
		maxretry)
}

// report logs and counts an observation of the policy that bans nobody.
func (l *Loop) report(r policy.Report) {
	l.recorder.Reported(r)
	switch r := r.(type) {
	case policy.StuckPhone:
		l.log.Warn("stuck phone: it fails again and again at an address that others log in from", "addr", r.Addr, "user", r.User, "domain",
			r.Domain, "user_agent", r.UserAgent, "failures", r.Count)
	case policy.SuspiciousLogin:
		message := "suspicious login"
		if r.Likely {
			message = "password guessed"
		}
		l.log.Warn(message, "addr", r.Addr, "user", r.User, "domain", r.Domain, "user_agent", r.UserAgent, "evidence", r.Evidence,
			"failures", r.Failures, "users", r.Users, "prefixes", r.Prefixes)
	case policy.DistributedAttack:
		l.log.Warn("distributed attack: many addresses fail on one user", "user", r.User, "domain", r.Domain, "addresses", r.Addresses, "since",
			r.Since)
	case policy.ForgedFailures:
		l.log.Warn("forged failures: nothing proves that these known-good or never-ban addresses sent them", "failures", r.Count, "last", r.Addr,
			"since", r.Since)
	case policy.GuardChange:
		l.publish()
		if r.Active {
			l.log.Error("guard: bans are held from now on", "guard", r.Guard, "now", r.Current, "limit", r.Limit)
			return
		}
		l.log.Info("guard: it is over", "guard", r.Guard, "held", r.Held, "dropped", r.Dropped)
	}
}
