package book

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"fsban/fleet/merge"
	"fsban/ledger"
	"fsban/policy"
)

// An Allowance is an entry of the never-ban list that an operator has made at run time.
type Allowance struct {
	Prefix netip.Prefix `json:"prefix"`
	By     string       `json:"by"`
	Reason string       `json:"reason,omitempty"`
	Since  time.Time    `json:"since"`
	Until  time.Time    `json:"until,omitzero"` // zero: until an operator disallows it
	Node   string       `json:"node,omitempty"` // node of the fleet where it was made
	Stamp  int64        `json:"stamp,omitempty"`
	Local  bool         `json:"local,omitempty"` // not for the fleet
}

// Origin says for people why the prefix is never banned.
func (a *Allowance) Origin() string {
	by := a.By
	if a.Node != "" {
		by += " on " + a.Node
	}
	text := "allowed by " + by
	if !a.Until.IsZero() {
		text += " until " + a.Until.Local().Format(time.DateTime)
	}
	if a.Reason != "" {
		text += ": " + a.Reason
	}
	return text
}

func (a *Allowance) over(now time.Time) bool { return !a.Until.IsZero() && !a.Until.After(now) }

// step moves a by a step of the clock.
func (a *Allowance) step(by time.Duration) {
	if by == 0 {
		return
	}
	a.Since = a.Since.Round(0).Add(by)
	if !a.Until.IsZero() {
		a.Until = a.Until.Round(0).Add(by)
	}
}

// Step moves allowances and withdrawals by a step of the clock, so that they last for as long as before. Stamps of a fleet are by
// Redis' clock, and stay. The ledger moves the bans.
func (b *Book) Step(by time.Duration) {
	for p, a := range b.allowances {
		a.step(by)
		b.allowances[p] = a
	}
	b.saveAllowances()
	b.merge.Step(by, b.node == "")
	if b.outbox != nil {
		b.outbox.Step(by)
	}
	b.setNeverBan() // origins name the ends
}

// saveAllowances writes all allowances again.
func (b *Book) saveAllowances() {
	for _, a := range b.allowances {
		b.keepAllowance(&a)
	}
}

// Bounds of the allowances. Those of peers together cover a small part of the internet, whatever a peer or Redis states.
const (
	maxAllowances = 10_000
	maxPeerWide   = 64 // allowances wider than peerIPv4 or peerIPv6 beyond which a peer's is refused
	peerIPv4      = 24
	peerIPv6      = 48
)

func widerThanPeers(p netip.Prefix) bool { return p.Bits() < pick(p.Addr().Is4(), peerIPv4, peerIPv6) }

// SetConfigured replaces the never-ban list of the configuration and of this host; allowances are added to it.
func (b *Book) SetConfigured(entries []policy.NeverEntry) {
	b.configured = entries
	b.ApplyNeverBan()
}

// setNeverBan has the policy use the never-ban list with the allowances.
func (b *Book) setNeverBan() policy.NeverBan {
	entries := make([]policy.NeverEntry, 0, len(b.configured)+len(b.allowances))
	for _, a := range b.allowances {
		entries = append(entries, policy.NeverEntry{Prefix: a.Prefix, Origin: a.Origin()})
	}
	never := policy.NewNeverBan(append(entries, b.configured...))
	b.engine.SetNeverBan(never)
	return never
}

// ApplyNeverBan puts the never-ban list into force and ends the bans that it forbids, however they were made: see forbidden.
func (b *Book) ApplyNeverBan() {
	never := b.setNeverBan()
	var list []netip.Prefix
	b.ledger.Each(func(p netip.Prefix, _ time.Time) bool {
		if _, match := never.Match(p); match {
			list = append(list, p)
		}
		return true
	})
	for _, p := range list {
		ban, ok := b.ledger.Get(p)
		if !ok {
			continue
		}
		entry, w := b.forbidden(&ban)
		switch w.Cause {
		case "":
			continue
		case Allowed:
			b.buryAllowed(&ban, entry.Prefix)
		}
		b.withdraw(ban, w)
	}
}

// buryAllowed records that an allowance has ended ban, or the ban would return from Redis when the allowance is over.
func (b *Book) buryAllowed(ban *ledger.Ban, allowed netip.Prefix) {
	a := b.allowances[allowed]
	stamp := b.entryOfAllowance(&a).Stamp
	if t, ok := b.merge.Tombstone(banKey(ban.Prefix)); ok && t.Stamp >= stamp.Micros || b.stampOf(ban) > stamp.Micros {
		return
	}
	b.bury(ban, Order{By: a.By, Reason: a.Reason, Local: a.Local || ban.Local}, stamp.Micros, stamp.Node, true)
}

// Allowance returns the allowance of exactly prefix.
func (b *Book) Allowance(prefix netip.Prefix) (Allowance, bool) {
	a, ok := b.allowances[prefix]
	return a, ok
}

// Allowances returns all allowances, by start.
func (b *Book) Allowances() []Allowance {
	return slices.SortedFunc(maps.Values(b.allowances), func(x, y Allowance) int {
		return cmp.Or(x.Since.Compare(y.Since), x.Prefix.Compare(y.Prefix))
	})
}

// Allow adds a to the never-ban list, ends the bans that it forbids, and announces it, or returns a *Refusal. force: also a very
// wide prefix.
func (b *Book) Allow(a Allowance, force bool) error {
	if r := b.checkAllowance(&a); r != nil {
		return r
	}
	if wide(a.Prefix) && !force {
		return refuse(Doubtful, "%v is very wide: %s would never be banned", a.Prefix, size(a.Prefix))
	}
	held := b.heldAllowance(a.Prefix)
	if b.outbox != nil {
		a.Node, a.Stamp = b.node, b.outbox.Stamp()
	}
	if err := b.ledger.Keep(ledger.Allowed, a.Prefix, a); err != nil {
		return err
	}
	b.setAllowance(&a)
	b.merge.Enter(allowKey(a.Prefix), b.heldAllowance(a.Prefix), held, b.now())
	if b.outbox != nil && !a.Local {
		b.outbox.Announce(statementOfAllowance(&a))
	}
	b.ApplyNeverBan()
	b.log.Info("allowed", "addr", a.Prefix, "until", end(a.Until), Text("reason", a.Reason), "by", a.By)
	return nil
}

// Disallow removes an allowance from the never-ban list because an operator orders it, and announces that unless it is for
// this node alone. It returns the allowance, and false if there is none.
func (b *Book) Disallow(prefix netip.Prefix, o Order) (Allowance, bool) {
	a, ok := b.allowances[prefix]
	if !ok {
		return a, false
	}
	held := b.heldAllowance(prefix)
	b.removeAllowance(prefix)
	if b.outbox != nil {
		t := b.merge.Withdraw(allowKey(prefix), merge.Tombstone{
			Prefix: prefix, Stamp: b.outbox.Stamp(), Node: b.node, Until: a.Until, By: o.By, Reason: o.Reason, Local: o.Local,
		}, held, b.now())
		if !o.Local {
			b.outbox.Announce(t.Statement(merge.Disallow))
		}
	}
	b.ApplyNeverBan()
	b.log.Info("disallowed", "addr", prefix, "by", o.By, Text("reason", o.Reason))
	return a, true
}

// ExpireAllowances removes the allowances that are over at now.
func (b *Book) ExpireAllowances(now time.Time) {
	changed := false
	for p, a := range b.allowances {
		if a.over(now) {
			changed = true
			b.removeAllowance(p)
			b.log.Info("disallowed", "addr", p, "by", "expiry")
		}
	}
	if changed {
		b.ApplyNeverBan()
	}
}

// keepAllowance is the place where an allowance of a peer or with another stamp enters the book.
func (b *Book) keepAllowance(a *Allowance) {
	if err := b.ledger.Keep(ledger.Allowed, a.Prefix, a); err != nil {
		b.log.Error("cannot save an allowance", "addr", a.Prefix, "error", err)
	}
	b.setAllowance(a)
}

// setAllowance and removeAllowance are the only places where the set of allowances changes.
func (b *Book) setAllowance(a *Allowance) {
	if _, replaced := b.allowances[a.Prefix]; !replaced && widerThanPeers(a.Prefix) {
		b.totals.wide++
	}
	b.allowances[a.Prefix] = *a
}

func (b *Book) removeAllowance(prefix netip.Prefix) {
	if _, there := b.allowances[prefix]; there && widerThanPeers(prefix) {
		b.totals.wide--
	}
	delete(b.allowances, prefix)
	if err := b.ledger.Keep(ledger.Allowed, prefix, nil); err != nil {
		b.log.Error("cannot remove an allowance from disk", "addr", prefix, "error", err)
	}
}

func end(t time.Time) any {
	if t.IsZero() {
		return "forever"
	}
	return t
}
