package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"fsban/ctilog"
	"fsban/detect"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// A loop is the decision loop: the one goroutine that owns the policy and changes the ledger. It spends microseconds on
// an attempt and never does I/O that can wait.
type loop struct {
	*Daemon
	engine  *policy.Engine
	arbiter *detect.Arbiter
	place   logPlace  // how far the log counts
	known   time.Time // what it told of before counted already when we began
	changed bool      // since the journal was sealed
}

func (d *Daemon) newLoop() *loop {
	p := &d.cfg.Policy
	opts := policy.Options{MaxTracked: p.MaxTracked, IPv4Prefix: p.IPv4Prefix, IPv6Prefix: p.IPv6Prefix}
	l := &loop{Daemon: d, engine: policy.NewEngine(p.Rule(), policy.NeverBan{}, opts), arbiter: detect.NewArbiter(d.sources()...)}
	l.setNeverBan(d.neverBan())
	return l
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
	l.seal(now)
	l.showSources()
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
		l.place, l.changed = logPlace{s.next, s.At}, true
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
	l.counts[s.Kind].Add(1)
	if b, banned := l.ledger.Get(l.engine.Prefix(s.Addr)); banned && !b.Over(s.read) {
		l.metrics.whileBan.Inc()
		return
	}
	decision := l.engine.Observe(s.Attempt)
	switch decision.Verdict {
	case policy.Spared:
		l.spared.Add(1)
		l.debug("spared: never banned", s, &decision)
	case policy.Counted:
		l.note(&s.Attempt)
		l.debug("counted", s, &decision)
	case policy.BanNow:
		l.note(&s.Attempt)
		l.banFor(&decision, s.Source, s.read)
	}
	stats := l.engine.Stats()
	l.tracked.Store(int64(stats.Tracked))
	l.evicted.Store(int64(stats.Evicted))
}

// banFor makes the ban that a rule decided on, unless it is over already: what is read back may be old.
func (l *loop) banFor(d *policy.Decision, source policy.Source, read time.Time) {
	b := ledger.Ban{
		Prefix: d.Prefix, Since: d.Since, Until: d.Until, Rule: d.Rule.Name, Attempts: d.Count, Source: source, Evidence: d.Evidence,
	}
	if b.Over(read) {
		return
	}
	if err := l.ban(b, read); err != nil {
		l.log.Error("not banned", "addr", d.Prefix, "error", err)
	}
}

// debug logs one attempt, at no cost where debug is off.
func (l *loop) debug(what string, s *sighting, d *policy.Decision) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug(what, "addr", s.Addr, "kind", s.Kind, "user", s.User, "count", d.Count, "maxretry", d.Rule.MaxRetry)
	}
}

// ban puts b into ledger and kernel. The enforcer gets it at once; the ledger's disk follows.
func (l *loop) ban(b ledger.Ban, cause time.Time) error {
	v4, v6 := l.ledger.Count()
	if size := l.cfg.Firewall.MaxBans; b.Prefix.Addr().Is4() && v4 >= size || b.Prefix.Addr().Is6() && v6 >= size {
		l.refused.Add(1)
		return fmt.Errorf("%d bans are in force: raise firewall.max_bans", size)
	}
	l.ledger.Add(b)
	l.enforcer.Ban(b.Prefix, b.Until, cause)
	l.made.Add(1)
	l.metrics.bans[b.Rule].Inc()
	l.log.Info("banned", "addr", b.Prefix, "rule", b.Rule, "attempts", b.Attempts, "bantime", bantime(&b), "source", b.Source, text("user", lastUser(b.Evidence)), text("by", b.By))
	return nil
}

// unban ends a ban: the address starts from zero.
func (l *loop) unban(b ledger.Ban, cause, by string) {
	l.enforcer.Unban(b.Prefix, time.Now())
	l.ledger.Remove(b.Prefix)
	l.forget(b.Prefix)
	l.metrics.unbans[cause].Inc()
	l.log.Info("unbanned", "addr", b.Prefix, "rule", b.Rule, "cause", cause, text("by", by))
}

// setNeverBan puts a never-ban list into force. It ends the bans that a rule made of addresses that are on it now: one that
// has become our own, or that somebody has put into ignoreip. What an operator banned, or the kernel held, stays.
func (l *loop) setNeverBan(never policy.NeverBan) {
	l.engine.SetNeverBan(never)
	var lift []netip.Prefix
	l.ledger.Each(func(p netip.Prefix, _ time.Time) bool {
		if _, match := never.Match(p); match {
			lift = append(lift, p)
		}
		return true
	})
	for _, p := range lift {
		if b, ok := l.ledger.Get(p); ok && b.Rule != ruleOperator && b.Rule != ruleKernel {
			l.unban(b, causeNeverBan, "")
		}
	}
}

// adopt takes over what the kernel holds and the ledger does not know. It runs in the enforcer's goroutine and does not
// wait for the loop, which may be waiting for the enforcer's end.
func (d *Daemon) adopt(entries []firewall.Entry) {
	now := time.Now()
	for _, e := range entries {
		b := ledger.Ban{Prefix: e.Prefix, Since: now, Rule: ruleKernel, Source: policy.Kernel}
		if e.Left != firewall.Forever {
			b.Until = now.Add(e.Left)
		}
		d.ledger.Add(b)
		d.metrics.adopted.Inc()
	}
	d.log.Warn("took over bans that were in the kernel and not in the state file", "bans", len(entries), "first", entries[0].Prefix)
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
