package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// The bounds of what status shows of each list, and how long a suspicious login needs somebody.
const (
	maxShown     = 20
	suspectedFor = 24 * time.Hour
)

// policyStatus tells what rules, and what the policy holds.
func (l *loop) policyStatus() control.Policy {
	stats := l.engine.Stats()
	p := control.Policy{Tracked: stats.Tracked, KnownGood: stats.Known, Held: stats.Held, Evicted: stats.Evicted}
	for _, r := range l.engine.Rules() {
		kinds := make([]string, len(r.Kinds))
		for i, k := range r.Kinds {
			kinds[i] = k.String()
		}
		p.Rules = append(p.Rules, control.Rule{
			Name: r.Name, Kinds: kinds, FindTime: config.Duration(r.FindTime).String(), MaxRetry: r.MaxRetry, BanTime: config.Duration(r.BanTime).String(),
		})
	}
	spared := make(map[netip.Prefix]policy.SparedCount)
	for _, n := range l.engine.Spared() {
		spared[n.Prefix] = n
		p.Spared += n.Attempts
	}
	for _, n := range l.engine.NeverBan().Entries() {
		p.NeverBan = append(p.NeverBan, control.NeverBan{Prefix: n.Prefix, Origin: n.Origin, Spared: spared[n.Prefix].Attempts, Bans: spared[n.Prefix].Bans})
	}
	for g, s := range l.engine.Guards() {
		p.Guards = append(p.Guards, control.Guard{Name: g.String(), Active: s.Active, Since: s.Since, Now: s.Now, Limit: s.Limit, Held: s.Held})
	}
	slices.SortFunc(p.Guards, func(a, b control.Guard) int { return len(a.Name) - len(b.Name) })
	for _, s := range newest(l.engine.StuckPhones()) {
		p.StuckPhones = append(p.StuckPhones, wireStuck(s))
	}
	for _, s := range newest(l.engine.Suspicious()) {
		if time.Since(s.At) < suspectedFor {
			p.Suspicious = append(p.Suspicious, control.SuspiciousLogin{Addr: s.Addr, User: s.User, Domain: s.Domain, UserAgent: s.UserAgent, Failures: s.Failures, At: s.At})
		}
	}
	for _, d := range newest(l.engine.Distributed()) {
		p.Distributed = append(p.Distributed, control.DistributedAttack{User: d.User, Domain: d.Domain, Addresses: d.Addresses, Since: d.Since, Last: d.Last})
	}
	return p
}

// newest returns the last of a list, as many as are shown.
func newest[T any](list []T) []T { return list[max(0, len(list)-maxShown):] }

func wireStuck(s policy.StuckPhone) control.StuckPhone {
	return control.StuckPhone{Addr: s.Addr, User: s.User, Domain: s.Domain, UserAgent: s.UserAgent, Count: s.Count, Since: s.Since, Last: s.Last}
}

// policyTroubles are what of it needs a human.
func policyTroubles(p *control.Policy) []string {
	var list []string
	active := false
	for _, g := range p.Guards {
		if g.Active {
			active = true
			list = append(list, guardTrouble(&g))
		}
	}
	if p.Held > 0 && !active {
		list = append(list, fmt.Sprintf("%d bans are held still, and made one after the other: fsban held shows them", p.Held))
	}
	for _, n := range p.NeverBan {
		if n.Bans > 0 {
			list = append(list, fmt.Sprintf("%v (%s) attacks and is never banned: %d attempts", n.Prefix, n.Origin, n.Spared))
		}
	}
	for _, s := range p.Suspicious {
		list = append(list, fmt.Sprintf("suspicious login of user %q from %v, %s, after %d failures: was that its owner?", s.User, s.Addr, s.At.Local().Format(time.DateTime), s.Failures))
	}
	for _, d := range p.Distributed {
		list = append(list, fmt.Sprintf("%d addresses attack user %q", d.Addresses, d.User))
	}
	for _, s := range p.StuckPhones {
		list = append(list, fmt.Sprintf("stuck phone: user %q at %v fails again and again (%q): an old password?", s.User, s.Addr, s.UserAgent))
	}
	return list
}

func guardTrouble(g *control.Guard) string {
	if g.Name == policy.OutageGuard.String() {
		return fmt.Sprintf("%d known-good addresses fail together: is the directory back end down? Their bans are held (%d)", g.Now, g.Held)
	}
	return fmt.Sprintf("more than %d bans a minute: the rest is held (%d). fsban held shows them", g.Limit, g.Held)
}

// Why returns everything that is known of an address.
func (a api) Why(ctx context.Context, addr netip.Addr) (control.Standing, error) {
	if !addr.IsValid() {
		return control.Standing{}, &control.RefusedError{Text: "no address to ask about"}
	}
	addr = addr.WithZone("").Unmap()
	var w policy.Standing
	banned := false
	err := a.do(ctx, func(l *loop) {
		w = l.engine.Why(addr)
		banned = l.isBanned(w.Prefix, time.Now())
	})
	if err != nil {
		return control.Standing{}, err
	}
	s := control.Standing{Addr: addr, Prefix: w.Prefix, Excused: w.Excused, Attempts: wireAttempts(w.Evidence)}
	if !banned {
		s.Next = wireNext(&w)
	}
	for _, r := range w.Rules {
		s.Counts = append(s.Counts, control.RuleCount{Rule: r.Rule.Name, Count: r.Count, MaxRetry: r.Rule.MaxRetry, FindTime: config.Duration(r.Rule.FindTime).String()})
	}
	if w.Never != nil {
		s.Never = &control.NeverBan{Prefix: w.Never.Prefix, Origin: w.Never.Origin}
	}
	if w.KnownGood != nil {
		s.KnownGood, s.LastLogin, s.Suspected = w.KnownGood.Since, w.KnownGood.Last, w.KnownGood.Suspected
	}
	if w.Offence != nil {
		s.Offences, s.LastBan = w.Offence.Count, w.Offence.Since
	}
	if w.Held != nil {
		held := wireHeld(*w.Held)
		s.Held = &held
	}
	for _, p := range w.Stuck {
		s.Stuck = append(s.Stuck, wireStuck(p))
	}
	s.Ban, err = a.banOf(addr)
	return s, err
}

// wireNext tells of another user only where that is not the same.
func wireNext(w *policy.Standing) (list []control.Next) {
	another := foretold("another", &w.Another)
	if w.Next != nil {
		same := foretold("same", w.Next)
		list = append(list, same)
		if another.User = same.User; another == same {
			return list
		}
		another.User = "another"
	}
	return append(list, another)
}

func foretold(user string, d *policy.Decision) control.Next {
	n := control.Next{User: user, Verdict: d.Verdict.String(), Count: d.Count, Offence: d.Offence, Guard: d.Guard.String()}
	if d.Rule != nil {
		n.Rule, n.MaxRetry = d.Rule.Name, d.Rule.MaxRetry
	}
	switch d.Verdict {
	case policy.BanNow, policy.SparedBan, policy.Held:
		if n.BanTime = policy.Forever; !d.Until.IsZero() {
			n.BanTime = d.Until.Sub(d.Since)
		}
	case policy.Pass, policy.Counted, policy.Spared, policy.Excused, policy.Lift:
	}
	return n
}

// banOf returns the ban that holds addr, or nil.
func (a api) banOf(addr netip.Addr) (*control.Ban, error) {
	bans, err := a.Bans(context.Background(), &control.Pick{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Limit: 1, Evidence: 1})
	if err != nil || len(bans) == 0 {
		return nil, err
	}
	return &bans[0], nil
}

// Allow puts a prefix onto the never-ban list because an operator says so.
func (a api) Allow(ctx context.Context, r control.AllowRequest, by string) (control.NeverBan, error) {
	prefix, err := config.ParsePrefix(r.Prefix.String())
	switch {
	case err != nil:
		return control.NeverBan{}, &control.RefusedError{Text: err.Error()}
	case prefix.Bits() == 0:
		return control.NeverBan{}, &control.RefusedError{Text: prefix.String() + " is everybody"}
	case r.Time < 0:
		return control.NeverBan{}, &control.RefusedError{Text: "the time limit has passed"}
	}
	allowance := Allowance{Prefix: prefix, By: by, Reason: cut(r.Reason), Since: time.Now(), Local: r.Local}
	if r.Time > 0 {
		allowance.Until = allowance.Since.Add(r.Time)
	}
	var refused error
	err = a.change(ctx, func(l *loop) {
		if err := l.allow(allowance); err != nil {
			refused = &control.RefusedError{Text: err.Error()}
		}
	})
	if err == nil {
		err = refused
	}
	return control.NeverBan{Prefix: prefix, Origin: allowance.origin()}, err
}

// Disallow takes a prefix off the never-ban list again.
func (a api) Disallow(ctx context.Context, p netip.Prefix, local bool, by string) (control.NeverBan, error) {
	prefix, err := config.ParsePrefix(p.String())
	if err != nil {
		return control.NeverBan{}, &control.RefusedError{Text: err.Error()}
	}
	var (
		allowance Allowance
		found     bool
		other     policy.NeverEntry
		never     bool
	)
	err = a.change(ctx, func(l *loop) {
		if allowance, found = l.disallow(prefix, by); !found {
			other, never = l.engine.NeverBan().Match(prefix)
			return
		}
		l.tellDisallow(&allowance, by, local)
	})
	switch {
	case err != nil:
	case !found && never:
		err = &control.RefusedError{Text: fmt.Sprintf("%v was not allowed by fsban allow: it is on the never-ban list because of %v (%s)", prefix, other.Prefix, other.Origin)}
	case !found:
		err = &control.RefusedError{Text: fmt.Sprintf("%v is not allowed: nothing to take back", prefix)}
	}
	return control.NeverBan{Prefix: prefix, Origin: allowance.origin()}, err
}

func wireHeld(h policy.HeldBan) control.HeldBan {
	return control.HeldBan{
		Prefix: h.Prefix, Guard: h.Guard.String(), Rule: h.Rule.Name, Attempts: h.Count, Since: h.Since, Until: h.Until, Evidence: wireAttempts(h.Evidence),
	}
}

// Held returns the bans that guards hold.
func (a api) Held(ctx context.Context) ([]control.HeldBan, error) {
	list := []control.HeldBan{}
	err := a.do(ctx, func(l *loop) {
		for _, h := range l.engine.Held() {
			list = append(list, wireHeld(h))
		}
	})
	return list, err
}

// Release makes held bans because an operator says so: of p, or all.
func (a api) Release(ctx context.Context, p netip.Prefix, by string) (n int, err error) {
	found := true
	err = a.change(ctx, func(l *loop) {
		now := time.Now()
		var list []policy.Decision
		if p.IsValid() {
			var d policy.Decision
			if d, found = l.engine.Release(p, now); found {
				list = append(list, d)
			}
		} else {
			list = l.engine.ReleaseAll(now)
		}
		for i := range list {
			l.act(&list[i], policy.Operator, firewall.Cause{Read: now})
		}
		n = len(list)
		l.log.Info("held bans released", "bans", n, "by", by)
	})
	return n, held(p, found, err)
}

// Discard drops held bans because an operator says so: of p, or all.
func (a api) Discard(ctx context.Context, p netip.Prefix, by string) (n int, err error) {
	found := true
	err = a.change(ctx, func(l *loop) {
		now := time.Now()
		discarded := func(prefix netip.Prefix) { // or the next start would hold it again
			l.ledger.Note(ledger.Entry{Forgot: prefix, At: now}, now)
			l.changed = true
		}
		if p.IsValid() {
			if found = l.engine.Discard(p); found {
				n = 1
				discarded(p)
			}
		} else {
			for _, h := range l.engine.Held() {
				discarded(h.Prefix)
			}
			n = l.engine.DiscardAll()
		}
		l.log.Info("held bans discarded", "bans", n, "by", by)
	})
	return n, held(p, found, err)
}

func held(p netip.Prefix, found bool, err error) error {
	if err == nil && !found {
		return &control.RefusedError{Text: fmt.Sprintf("no ban of %v is held", p)}
	}
	return err
}
