package decide

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"fsban/decide/book"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// A BanOrder is a ban that an operator orders.
type BanOrder struct {
	Prefix netip.Prefix
	// BanTime is the length from now on, or policy.Forever; 0: until the end of the ban in force, or for Default.
	BanTime, Default time.Duration
	By, Reason       string
	Local            bool      // not announced to the fleet
	Force            bool      // also a prefix that somebody trusts, or that is very wide
	Imported         bool      // from fail2ban, which keeps the start
	Since            time.Time // of an imported ban
}

// Ban makes an operator's ban and returns it. Omitted reason, end and evidence are those of the ban in force, and a local one stays
// local. A *book.Refusal gives the reason if it was not made.
func (l *Loop) Ban(ctx context.Context, o BanOrder) (b ledger.Ban, err error) {
	var refused error
	err = l.Do(ctx, func() { // the clock does not step here
		e := l.entryOfOrder(&o)
		if refused = l.book.Ban(e); refused != nil {
			b = e.Ban
			return
		}
		b, _ = l.ledger.Get(o.Prefix)
	})
	return b, cmp.Or(err, refused)
}

func (l *Loop) entryOfOrder(o *BanOrder) book.Entry {
	now := l.clock.Now()
	b := ledger.Ban{
		Prefix: o.Prefix, Since: now, Rule: book.RuleOperator, Source: policy.Operator, By: o.By, Reason: o.Reason, Local: o.Local,
	}
	e := book.Entry{Origin: book.ByOperator, Force: o.Force, Cause: firewall.Cause{Read: now}}
	old, err := l.ledger.Load(o.Prefix) // without evidence if that cannot be read
	banned := !errors.Is(err, ledger.ErrNotBanned) && !old.Over(now)
	if o.BanTime != policy.Forever {
		b.Until = now.Add(cmp.Or(o.BanTime, o.Default))
	}
	switch {
	case o.Imported:
		e.Origin, b.Rule = book.Imported, book.RuleImported
		if !o.Since.IsZero() && o.Since.Before(now) {
			b.Since = o.Since
		}
	case banned:
		b.Reason = cmp.Or(b.Reason, old.Reason)
		b.Attempts, b.Offence, b.Evidence = old.Attempts, old.Offence, old.Evidence
		if o.BanTime == 0 && (old.Rule == book.RuleOperator || old.Until.IsZero() || old.Until.After(b.Until)) {
			b.Until = old.Until
		}
		b.Local = b.Local || old.Rule == book.RuleOperator && old.Local
		if old.Rule == book.RuleOperator && !o.Force { // with force: later than the allowance that it overrides
			b.Since = old.Since
		}
	}
	e.Ban = b
	return e
}

// Unban ends the ban of exactly p and, for a single address, that of the prefix that it counts as, because an operator orders it.
// overlap are the wider bans that still hold p; without a ban to end up to three that overlap with p.
func (l *Loop) Unban(ctx context.Context, p netip.Prefix, o book.Order) (b ledger.Ban, found bool, overlap []netip.Prefix, err error) {
	err = l.change(ctx, func() {
		if b, found = l.book.Covering(p); !found {
			overlap = l.book.Overlapping(p, 3)
			return
		}
		for ban, more := b, true; more; ban, more = l.book.Covering(p) {
			l.book.Unban(ban, o)
		}
		overlap = l.book.Wider(p)
	})
	return b, found, overlap, err
}

// UnbanMany ends the bans of exactly the prefixes of list because an operator orders it. It returns their number, and the prefixes that
// a wider ban holds still.
func (l *Loop) UnbanMany(ctx context.Context, list []netip.Prefix, o book.Order) (ended int, held []netip.Prefix, err error) {
	err = l.change(ctx, func() {
		for _, p := range list {
			if ban, ok := l.ledger.Get(p); ok {
				l.book.Unban(ban, o)
				ended++
			}
		}
		for _, p := range list {
			if len(l.book.Wider(p)) > 0 {
				held = append(held, p)
			}
		}
	})
	return ended, held, err
}

// change runs f, which changes state that a restart must keep. The state is on disk when change returns, if the disk accepts it;
// else it is written later, and status reports that. A new ban needs none of this, because the kernel holds it.
func (l *Loop) change(ctx context.Context, f func()) error {
	err := l.Do(ctx, func() {
		f()
		l.seal(l.clock.Now())
	})
	if err == nil {
		_ = l.ledger.Flush()
	}
	return err
}

// An AllowOrder is an allowance that an operator orders.
type AllowOrder struct {
	Prefix     netip.Prefix
	Time       time.Duration // from now on, or policy.Forever; 0: until the end of the allowance in force, or forever
	By, Reason string
	Local      bool // not announced to the fleet
	Force      bool // also a very wide prefix
}

// Allow puts a prefix onto the never-ban list by an operator's order, ends its bans, and returns the allowance. Omitted reason
// and end are those of the allowance in force, and a local one stays local. still are bans that hold addresses of the prefix
// although it is allowed. A *book.Refusal gives the reason if nothing was allowed.
func (l *Loop) Allow(ctx context.Context, o AllowOrder) (a book.Allowance, still []ledger.Ban, err error) {
	var refused error
	err = l.change(ctx, func() {
		now := l.clock.Now()
		a = book.Allowance{Prefix: o.Prefix, By: o.By, Reason: o.Reason, Since: now, Local: o.Local}
		if o.Time > 0 {
			a.Until = now.Add(o.Time)
		}
		if old, ok := l.book.Allowance(o.Prefix); ok {
			a.Reason, a.Local = cmp.Or(a.Reason, old.Reason), a.Local || old.Local
			if o.Time == 0 {
				a.Until = old.Until
			}
		}
		if refused = l.book.Allow(a, o.Force); refused == nil {
			still = l.book.Banning(o.Prefix, maxStill)
		}
	})
	return a, still, cmp.Or(err, refused)
}

// maxStill bounds the bans that an answer to an allowance lists.
const maxStill = 10

// Allowances returns the allowances, by start.
func (l *Loop) Allowances(ctx context.Context) (list []book.Allowance, err error) {
	err = l.Do(ctx, func() { list = l.book.Allowances() })
	return list, err
}

// Disallow removes an allowance because an operator orders it. When there is none it returns the entry of the never-ban list that
// matches p, if any.
func (l *Loop) Disallow(ctx context.Context, p netip.Prefix, o book.Order) (a book.Allowance, found bool, other *policy.NeverEntry,
	err error) {
	err = l.change(ctx, func() {
		if a, found = l.book.Disallow(p, o); found {
			return
		}
		if entry, ok := l.engine.NeverBan().Match(p); ok {
			other = &entry
		}
	})
	return a, found, other, err
}

// Why returns the policy's state of an address, and whether its prefix is banned.
func (l *Loop) Why(ctx context.Context, addr netip.Addr) (s policy.AddressState, banned bool, err error) {
	err = l.Do(ctx, func() {
		s = l.engine.Why(addr)
		banned = l.book.Banned(s.Prefix, l.clock.Now())
	})
	return s, banned, err
}

// Held returns the bans that guards hold.
func (l *Loop) Held(ctx context.Context) (list []policy.HeldBan, err error) {
	err = l.Do(ctx, func() { list = l.engine.Held() })
	return list, err
}

// Release makes the held ban of p, or all held bans if p is not valid, because an operator orders it. The bans bear that name.
func (l *Loop) Release(ctx context.Context, p netip.Prefix, by string) (n int, err error) {
	found := true
	err = l.change(ctx, func() {
		now := l.clock.Now()
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
			l.recorder.Decided(list[i].Verdict)
			l.ban(&list[i], policy.Operator, firewall.Cause{Read: now}, by)
		}
		n = len(list)
		l.log.Info("held bans released", "bans", n, "by", by)
	})
	return n, notHeld(p, found, err)
}

// Discard drops the held ban of p, or all held bans if p is not valid, because an operator orders it.
func (l *Loop) Discard(ctx context.Context, p netip.Prefix, by string) (n int, err error) {
	found := true
	err = l.change(ctx, func() {
		now := l.clock.Now()
		forget := func(prefix netip.Prefix) { // or the next start would hold it again
			l.book.Note(ledger.Entry{Forgot: prefix, At: now}, now)
		}
		if p.IsValid() {
			if found = l.engine.Discard(p); found {
				n = 1
				forget(p)
			}
		} else {
			for _, h := range l.engine.Held() {
				forget(h.Prefix)
			}
			n = l.engine.DiscardAll()
		}
		l.log.Info("held bans discarded", "bans", n, "by", by)
	})
	return n, notHeld(p, found, err)
}

// NotHeldError is the error of an order about a ban that no guard holds.
type NotHeldError struct{ Prefix netip.Prefix }

func (e *NotHeldError) Error() string { return fmt.Sprintf("no ban of %v is held", e.Prefix) }

func notHeld(p netip.Prefix, found bool, err error) error {
	if err == nil && !found {
		return &NotHeldError{p}
	}
	return err
}

// A Report is the policy's state for people: lists are complete, the newest last.
type Report struct {
	Stats       policy.Stats
	Rules       []policy.Rule
	NeverBan    []policy.NeverEntry
	Spared      []policy.SparedCount
	Guards      map[policy.Guard]policy.GuardState
	Stuck       []policy.StuckPhone
	Suspicious  []policy.SuspiciousLogin
	Distributed []policy.DistributedAttack
	Forged      policy.ForgedFailures // Count 0: none worth a report
}

// Report returns the policy's state, and a snapshot of the same moment.
func (l *Loop) Report(ctx context.Context) (r Report, o *Observed, err error) {
	err = l.Do(ctx, func() {
		l.updateArbiter(l.clock.Now())
		o = l.publish()
		r = Report{
			Stats: o.Policy, Rules: l.engine.Rules(), NeverBan: l.engine.NeverBan().Entries(), Spared: l.engine.SparedCounts(),
			Guards: l.engine.Guards(),
			Stuck:  l.engine.StuckPhones(), Suspicious: l.engine.SuspiciousLogins(), Distributed: l.engine.DistributedAttacks(),
		}
		if f, ok := l.engine.ForgedFailures(); ok {
			r.Forged = f
		}
	})
	return r, o, err
}
