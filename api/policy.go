package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/decide"
	"fsban/policy"
)

// Bounds of each list in status, and how long a suspicious login is reported.
const (
	maxShown     = 20
	suspectedFor = 24 * time.Hour
)

// policyStatus returns the rules in force and the policy's state.
func policyStatus(r *decide.Report) control.Policy {
	p := control.Policy{Tracked: r.Stats.Tracked, KnownGood: r.Stats.Known, Held: r.Stats.Held, Evicted: r.Stats.Evicted}
	for _, rule := range r.Rules {
		kinds := make([]string, len(rule.Kinds))
		for i, k := range rule.Kinds {
			kinds[i] = k.String()
		}
		p.Rules = append(p.Rules, control.Rule{
			Name: rule.Name, Kinds: kinds, FindTime: config.Duration(rule.FindTime).String(), MaxRetry: rule.MaxRetry,
			BanTime: config.Duration(rule.BanTime).String(),
		})
	}
	if f := r.Forged; f.Count > 0 {
		p.Forged = &control.ForgedFailures{Count: f.Count, Addr: f.Addr, Since: f.Since, Last: f.Last}
	}
	spared := make(map[netip.Prefix]policy.SparedCount)
	for _, n := range r.Spared {
		spared[n.Prefix] = n
		p.Spared += n.Attempts
	}
	for _, n := range r.NeverBan {
		p.NeverBan = append(p.NeverBan, control.NeverBan{Prefix: n.Prefix, Origin: n.Origin, Spared: spared[n.Prefix].Attempts,
			Bans: spared[n.Prefix].Bans})
	}
	for g, s := range r.Guards {
		p.Guards = append(p.Guards, control.Guard{Name: g.String(), Active: s.Active, Since: s.Since, Now: s.Current,
			Limit: s.Limit, Held: s.Held})
	}
	slices.SortFunc(p.Guards, func(a, b control.Guard) int { return len(a.Name) - len(b.Name) })
	for _, s := range newest(r.Stuck) {
		p.StuckPhones = append(p.StuckPhones, wireStuck(s))
	}
	for _, s := range newest(r.Suspicious) {
		if time.Since(s.At) < suspectedFor {
			p.Suspicious = append(p.Suspicious, control.SuspiciousLogin{Addr: s.Addr, User: s.User, Domain: s.Domain, UserAgent: s.UserAgent,
				At: s.At, Evidence: s.Evidence.String(), Likely: s.Likely, Failures: s.Failures, Users: s.Users, Prefixes: s.Prefixes})
		}
	}
	for _, d := range newest(r.Distributed) {
		p.Distributed = append(p.Distributed, control.DistributedAttack{User: d.User, Domain: d.Domain, Addresses: d.Addresses, Since: d.Since,
			Last: d.Last})
	}
	return p
}

// newest returns the last entries of a list, as many as status shows.
func newest[T any](list []T) []T { return list[max(0, len(list)-maxShown):] }

func wireStuck(s policy.StuckPhone) control.StuckPhone {
	return control.StuckPhone{Addr: s.Addr, User: s.User, Domain: s.Domain, UserAgent: s.UserAgent, Count: s.Count, Since: s.Since,
		Last: s.Last}
}

// policyProblems returns the policy's open problems.
func policyProblems(p *control.Policy) []string {
	var list []string
	active := false
	for _, g := range p.Guards {
		if g.Active {
			active = true
			list = append(list, guardProblem(&g))
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
	if f := p.Forged; f != nil {
		list = append(list, fmt.Sprintf("%d forged failures of known-good or never-ban addresses since %s, the last of %v: nobody is banned "+
			"for them", f.Count, f.Since.Local().Format(time.TimeOnly), f.Addr))
	}
	for _, s := range p.Suspicious {
		list = append(list, suspiciousProblem(&s))
	}
	for _, d := range p.Distributed {
		list = append(list, fmt.Sprintf("%d addresses attack user %q", d.Addresses, d.User))
	}
	for _, s := range p.StuckPhones {
		list = append(list, fmt.Sprintf("stuck phone: user %q at %v fails again and again (%q): an old password?", s.User, s.Addr, s.UserAgent))
	}
	return list
}

func suspiciousProblem(s *control.SuspiciousLogin) string {
	login := fmt.Sprintf("login of user %q from %v, %s,", s.User, s.Addr, s.At.Local().Format(time.DateTime))
	change := fmt.Sprintf("change the password and check the calls of this user; fsban ban %v", s.Addr)
	switch {
	case s.Evidence == policy.Spray.String():
		return fmt.Sprintf("password guessed: %s which failed on %d other users before: %s", login, s.Users, change)
	case s.Evidence == policy.Distributed.String():
		return fmt.Sprintf("password guessed: %s one of %d addresses that guess it: %s", login, s.Prefixes, change)
	case s.Evidence == policy.FewPrefixes.String():
		return fmt.Sprintf("suspicious %s while %d other addresses guess the password: ask the user, or change it", login, s.Prefixes)
	case s.Likely:
		return fmt.Sprintf("password guessed: %s after %d failures there: %s", login, s.Failures, change)
	}
	return fmt.Sprintf("suspicious %s after %d failures there: mistyped, or guessed? Ask the user, or change the password", login, s.Failures)
}

func guardProblem(g *control.Guard) string {
	if g.Name == policy.OutageGuard.String() {
		return fmt.Sprintf("%d known-good addresses fail together: is the directory back end down? Their bans are held (%d)", g.Now, g.Held)
	}
	if g.Name == policy.KnownGoodGuard.String() {
		return fmt.Sprintf("more than %d bans of known-good addresses: the rest is held (%d). Forged failures? fsban held shows them",
			g.Limit, g.Held)
	}
	return fmt.Sprintf("more than %d bans a minute: the rest is held (%d). fsban held shows them", g.Limit, g.Held)
}

// Why returns the state of an address.
func (a *API) Why(ctx context.Context, addr netip.Addr) (control.AddressState, error) {
	if !addr.IsValid() {
		return control.AddressState{}, refused("no address to ask about")
	}
	addr = addr.WithZone("").Unmap()
	w, banned, err := a.parts.Loop.Why(ctx, addr)
	if err != nil {
		return control.AddressState{}, err
	}
	s := control.AddressState{Addr: addr, Prefix: w.Prefix, Excused: w.Excused, Watching: a.parts.Watching(),
		Attempts: wireAttempts(w.Evidence)}
	for _, r := range w.Rules {
		s.Counts = append(s.Counts, control.RuleCount{Rule: r.Rule.Name, Count: r.Count, MaxRetry: r.Rule.MaxRetry,
			FindTime: config.Duration(r.Rule.FindTime).String()})
	}
	if w.Never != nil {
		s.Never = &control.NeverBan{Prefix: w.Never.Prefix, Origin: w.Never.Origin}
	}
	if w.KnownGood != nil {
		s.KnownGood, s.LastLogin, s.Suspected = w.KnownGood.Since, w.KnownGood.Last, w.KnownGood.Suspected
	}
	if w.Offence != nil {
		s.Offences, s.LastBan = w.Offence.Count+w.Offence.Unproven, w.Offence.Last()
	}
	if w.Held != nil {
		held := wireHeld(*w.Held)
		s.Held = &held
	}
	for _, p := range w.Stuck {
		s.Stuck = append(s.Stuck, wireStuck(p))
	}
	s.Blocked = a.stillBlocked(netip.PrefixFrom(addr, addr.BitLen()))
	if s.Ban, s.Wider, err = a.bansOf(addr); err != nil {
		return s, err
	}
	if !banned && s.Ban == nil {
		s.Next = wireNext(&w)
	}
	s.History, err = a.History(ctx, &control.HistoryPick{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Limit: maxHistory, Evidence: true})
	return s, err
}

// wireNext returns the result of the next failure, of another user only if it differs from that of the same one.
func wireNext(w *policy.AddressState) (list []control.Next) {
	another := predicted("another", &w.NextNewUser)
	if w.Next != nil {
		same := predicted("same", w.Next)
		list = append(list, same)
		if another.User = same.User; another == same {
			return list
		}
		another.User = "another"
	}
	return append(list, another)
}

func predicted(user string, d *policy.Decision) control.Next {
	n := control.Next{User: user, Verdict: d.Verdict.String(), Count: d.Count, Offence: d.Offence, Guard: d.Guard.String()}
	if d.Rule != nil {
		n.Rule, n.MaxRetry = d.Rule.Name, d.Rule.MaxRetry
	}
	switch d.Verdict {
	case policy.BanNow, policy.SparedBan, policy.Held:
		if n.BanTime = policy.Forever; !d.Until.IsZero() {
			n.BanTime = d.Until.Sub(d.Since)
		}
	case policy.Pass, policy.Counted, policy.Spared, policy.Excused, policy.Lift, policy.Forged:
	}
	return n
}

// bansOf returns the narrowest ban that holds addr, or nil, and the others, the widest first.
func (a *API) bansOf(addr netip.Addr) (narrowest *control.Ban, wider []control.Ban, err error) {
	if !a.holds(addr) { // the kernel's counters of every ban cost much
		return nil, nil, nil
	}
	bans, err := a.Bans(context.Background(), &control.Pick{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Evidence: addr.BitLen() + 1})
	if err != nil || len(bans) == 0 {
		return nil, nil, err
	}
	slices.SortFunc(bans, func(a, b control.Ban) int { return a.Prefix.Bits() - b.Prefix.Bits() })
	last := len(bans) - 1
	return &bans[last], bans[:last], nil
}

// holds reports whether the ledger has a ban of a prefix that holds addr.
func (a *API) holds(addr netip.Addr) bool {
	found := false
	a.parts.Ledger.Each(func(p netip.Prefix, _ time.Time) bool {
		found = p.Contains(addr)
		return !found
	})
	return found
}

func wireHeld(h policy.HeldBan) control.HeldBan {
	return control.HeldBan{
		Prefix: h.Prefix, Guard: h.Guard.String(), Rule: h.Rule.Name, Attempts: h.Count, Firings: h.Firings, Since: h.Since, Until: h.Until,
		Evidence: wireAttempts(h.Evidence),
	}
}

// Held returns the bans that guards hold.
func (a *API) Held(ctx context.Context) ([]control.HeldBan, error) {
	held, err := a.parts.Loop.Held(ctx)
	list := []control.HeldBan{}
	for _, h := range held {
		list = append(list, wireHeld(h))
	}
	return list, err
}

// Release makes the held ban of p, or all if p is not valid, because an operator orders it.
func (a *API) Release(ctx context.Context, p netip.Prefix, by string) (int, error) {
	n, err := a.parts.Loop.Release(ctx, p, by)
	return n, notHeld(err)
}

// Discard drops the held ban of p, or all if p is not valid, because an operator orders it.
func (a *API) Discard(ctx context.Context, p netip.Prefix, by string) (int, error) {
	n, err := a.parts.Loop.Discard(ctx, p, by)
	return n, notHeld(err)
}

func notHeld(err error) error {
	if e := (*decide.NotHeldError)(nil); errors.As(err, &e) {
		return &control.RefusedError{Text: e.Error()}
	}
	return err
}
