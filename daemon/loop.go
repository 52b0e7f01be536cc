package daemon

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	"fsban/ctilog"
	"fsban/detect"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/neverban"
	"fsban/policy"
)

// A loop is the decision loop: the one goroutine that owns the policy and changes the ledger. It spends microseconds on
// an attempt and never does I/O that can wait.
type loop struct {
	*Daemon
	engine  *policy.Engine
	seed    uint64 // of its jitter: nobody outside can tell how much longer than the last a ban will be
	arbiter *detect.Arbiter
	allowed map[netip.Prefix]Allowance
	listed  []neverban.Entry // who is never banned beside those
	place   logPlace         // how far mod_cti's log counts
	known   time.Time        // what it told of before counted already when we began
	lost    bool             // where it stood when we began is not known
	changed bool             // since the journal was sealed
	sealed  []byte           // where we stood then
	busiest busiest
	newBans lastBans
	member  member // of a fleet
}

func (d *Daemon) newLoop() *loop {
	p := &d.cfg().Policy
	opts := p.Options()
	opts.Seed = rand.Uint64()
	return &loop{
		Daemon: d, seed: opts.Seed, engine: policy.NewEngine(p.Rules(), policy.NeverBan{}, opts),
		arbiter: detect.NewArbiter(d.sources()...), allowed: make(map[netip.Prefix]Allowance), busiest: newBusiest(),
	}
}

// run decides until ctx ends, then what is still in the queues.
func (l *loop) run(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case s := <-l.attempts:
			l.decide(&s)
		case s := <-l.read:
			l.decide(&s)
		case f := <-l.requests:
			f(l)
		case now := <-ticker.C:
			l.tick(now)
		case <-ctx.Done():
			for len(l.attempts)+len(l.read) > 0 {
				select {
				case s := <-l.attempts:
					l.decide(&s)
				case s := <-l.read:
					l.decide(&s)
				}
			}
			l.seal(time.Now())
			return ctx.Err()
		}
	}
}

// tick does what is due without an attempt, every second.
func (l *loop) tick(now time.Time) {
	for range l.ledger.Expire(now) {
		l.metrics.unbans[causeExpired].Inc()
	}
	l.hear(now)
	l.countDue(now)
	for _, d := range l.engine.Advance(now) {
		l.act(&d, policy.Event, firewall.Cause{Read: now})
		l.busiest.seeUnanswered(&d, now)
	}
	l.endAllowances(now)
	l.tickFleet(now)
	l.seal(now)
	l.showSources()
	l.showPolicy()
}

// showSources puts what the arbiter knows where metrics can see it.
func (l *loop) showSources() {
	for k := range policy.NumKinds {
		speaker := int32(0)
		if s, _, ok := l.arbiter.Speaker(k); ok {
			speaker = int32(s) + 1
		}
		l.speaking[k].Store(speaker)
	}
	for s := range policy.NumSources {
		l.alone[s].Store(l.arbiter.Alone(s))
	}
}

// do has f run in the decision loop and waits for its end.
func (d *Daemon) do(ctx context.Context, f func(*loop)) error {
	done := make(chan struct{})
	select {
	case d.requests <- func(l *loop) { f(l); close(done) }:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// decide is what becomes of one attempt.
func (l *loop) decide(s *sighting) {
	l.hear(s.read)
	if s.again && (s.At.Before(l.known) || l.arbiter.Told(&s.Attempt)) {
		return
	}
	if l.arbiter.Counts(&s.Attempt, s.read) {
		l.count(s)
	}
	if s.next != (ctilog.Position{}) {
		newFile := s.next.File.Ino != l.place.File.Ino
		l.place.Position, l.changed = s.next, true
		// Where that position is lost, what was told of before this counted already: a clock that is put back takes none of it away.
		if !s.At.Before(l.place.At) {
			l.place.At, l.place.Clock = s.At, s.Stamp()
		}
		if newFile { // the one of the last seal may go away
			l.seal(s.read)
		}
	}
}

// hear tells the arbiter which sources can be heard.
func (l *loop) hear(now time.Time) {
	for source := range policy.NumSources {
		l.arbiter.Alive(source, l.alive[source].Load(), now)
	}
}

// countDue counts what the source that speaks should have told of, and has not before it was gone.
func (l *loop) countDue(now time.Time) {
	for _, a := range l.arbiter.Due(now) {
		l.count(&sighting{Attempt: a, read: now})
	}
}

// count has the policy count an attempt of which no other source tells, and does what it says.
func (l *loop) count(s *sighting) {
	if s.Source != policy.Fleet {
		l.counts[s.Kind].Add(1)
		l.metrics.profiles.count(s.Profile, s.Kind)
	}
	prefix := l.engine.Prefix(s.Addr)
	if l.isBanned(prefix, s.read) {
		l.metrics.whileBan.Inc()
		l.busiest.see(&s.Attempt, prefix, s.read)
		return
	}
	d := l.engine.Observe(s.Attempt)
	if s.Kind != policy.AuthSuccess && (s.Kind != policy.Challenge || d.Verdict != policy.Pass) { // credentials may follow yet
		l.busiest.see(&s.Attempt, d.Prefix, s.read)
	}
	l.metrics.verdicts[d.Verdict].Inc()
	if d.Rule != nil && d.Verdict != policy.Spared && d.Verdict != policy.SparedBan && d.Verdict != policy.Excused {
		l.note(&s.Attempt)
		l.tellAttempt(&s.Attempt)
	}
	if d.KnownChanged {
		l.keepKnown(s.Addr)
		if g, ok := l.engine.KnownGood(s.Addr); ok && s.Source != policy.Fleet {
			l.tellKnown(&g)
		}
	}
	l.debug(s, &d)
	cause := firewall.Cause{Read: s.read, At: s.At}
	if s.read.Sub(s.At) > detect.MaxSkew { // read back
		cause.At = time.Time{}
	}
	l.act(&d, s.Source, cause)
}

// isBanned tells whether exactly prefix is: then nothing counts.
func (l *loop) isBanned(prefix netip.Prefix, now time.Time) bool {
	b, there := l.ledger.Get(prefix)
	return there && !b.Over(now)
}

// act does what a decision says.
func (l *loop) act(d *policy.Decision, source policy.Source, cause firewall.Cause) {
	switch d.Verdict {
	case policy.SparedBan:
		l.log.Warn("attacked from an address that is never banned", "addr", d.Prefix, "because", d.Never.Origin, "rule", d.Rule.Name, "attempts", d.Count, text("user", lastUser(d.Evidence)))
	case policy.BanNow:
		l.banFor(d, source, cause)
	case policy.Held:
		l.log.Warn("a ban is held", "addr", d.Prefix, "guard", d.Guard, "rule", d.Rule.Name, "attempts", d.Count)
	case policy.Lift:
		l.keepOffence(d.Prefix)
		if b, ok := l.ledger.Get(d.Prefix); ok && b.Rule != ruleOperator {
			l.lift(b, causeOutage, "")
		}
	case policy.Pass, policy.Counted, policy.Spared, policy.Excused:
	}
	for _, r := range d.Reports {
		l.report(r)
	}
}

// banFor makes the ban that a rule decided on, unless it is over already, because what is read back may be old, or one that
// lasts longer is in force.
func (l *loop) banFor(d *policy.Decision, source policy.Source, cause firewall.Cause) {
	if d.Offence > 0 {
		defer l.keepOffence(d.Prefix) // the kernel comes first
	}
	if n := len(d.Evidence); n > 0 {
		source = d.Evidence[n-1].Source
	}
	b := ledger.Ban{
		Prefix: d.Prefix, Since: d.Since, Until: d.Until, Rule: d.Rule.Name, Attempts: d.Count, Source: source, Evidence: d.Evidence, Offence: d.Offence,
	}
	if old, there := l.ledger.Get(b.Prefix); b.Over(cause.Read) || there && !old.Over(cause.Read) && !lastsLonger(&b, &old) {
		return
	}
	if err := l.ban(b, cause); err != nil {
		l.log.Error("not banned", "addr", d.Prefix, "error", err)
	}
}

// lastsLonger tells whether a ends after b.
func lastsLonger(a, b *ledger.Ban) bool {
	return !b.Until.IsZero() && (a.Until.IsZero() || a.Until.After(b.Until))
}

// debug logs one attempt, at no cost where debug is off.
func (l *loop) debug(s *sighting, d *policy.Decision) {
	if !l.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	rule, maxretry := "", 0
	if d.Rule != nil {
		rule, maxretry = d.Rule.Name, d.Rule.MaxRetry
	}
	l.log.Debug("decided", "addr", s.Addr, "kind", s.Kind, "user", s.User, "verdict", d.Verdict, "rule", rule, "count", d.Count, "maxretry", maxretry)
}

// ban puts b into ledger and kernel. The enforcer gets it at once; the ledger's disk follows.
func (l *loop) ban(b ledger.Ban, cause firewall.Cause) error {
	if err := l.makeRoom(&b); err != nil {
		return err
	}
	tell := l.sign(&b, cause.Read)
	l.ledger.Add(b)
	l.enforcer.Ban(b.Prefix, b.Until, cause)
	if tell {
		l.tellBan(&b)
	}
	l.made.Add(1)
	l.newBans.add(&b)
	l.metrics.bans.WithLabelValues(b.Rule).Inc()
	l.log.Info("banned", "addr", b.Prefix, "rule", b.Rule, "attempts", b.Attempts, "bantime", bantime(&b), "source", b.Source, text("user", lastUser(b.Evidence)), text("by", b.By))
	return nil
}

// unban ends a ban: the address starts from zero, with a short grace.
func (l *loop) unban(b ledger.Ban, cause, by string) {
	l.forget(b.Prefix)
	l.lift(b, cause, by)
}

// lift takes a ban out of kernel and ledger. The fleet is told where that is for others, too.
func (l *loop) lift(b ledger.Ban, cause, by string) {
	if cause == causeOperator || cause == causeOutage {
		l.tellUnban(&b, by, false)
	}
	l.drop(b, cause, by)
}

// drop is lift, here and nowhere else.
func (l *loop) drop(b ledger.Ban, cause, by string) {
	l.enforcer.Unban(b.Prefix, time.Now())
	l.ledger.Remove(b.Prefix)
	l.metrics.unbans[cause].Inc()
	l.log.Info("unbanned", "addr", b.Prefix, "rule", b.Rule, "cause", cause, text("by", by), text("node", b.Node))
}

// text is an attribute that a log line lacks where there is nothing to say.
func text(key, value string) slog.Attr {
	if value == "" {
		return slog.Attr{}
	}
	return slog.String(key, value)
}

func bantime(b *ledger.Ban) any {
	if b.Until.IsZero() {
		return "forever"
	}
	return b.Until.Sub(b.Since)
}

func lastUser(evidence []policy.Attempt) string {
	if len(evidence) == 0 {
		return ""
	}
	return evidence[len(evidence)-1].User
}

// covering returns the ban of exactly p or, where p is one address, the one that its attempts led to.
func (l *loop) covering(p netip.Prefix) (ledger.Ban, bool) {
	if b, ok := l.ledger.Get(p); ok {
		return b, true
	}
	if p.IsSingleIP() {
		return l.ledger.Get(l.engine.Prefix(p.Addr()))
	}
	return ledger.Ban{}, false
}
