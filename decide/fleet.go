package decide

import (
	"context"
	"net/netip"
	"time"

	"fsban/decide/book"
	"fsban/fleet/merge"
	"fsban/policy"
)

// fleetState is this node's part in a fleet.
type fleetState struct {
	node   string      // this node's name; empty: no fleet
	id     string      // the part of it that a restart keeps
	place  merge.Place // how far the fleet's log has been counted
	lost   bool        // that was not known at the start
	outbox book.Outbox
}

// A FleetPosition is sealed with the journal: this node's identity, and how far the fleet's log has been counted.
type FleetPosition struct {
	ID string `json:"id,omitempty"`
	merge.Place

	Lost bool `json:"lost,omitempty"` // most likely there was a place, and it is not known
}

func (m *fleetState) position() FleetPosition {
	return FleetPosition{ID: m.id, Place: m.place, Lost: m.lost && m.place == merge.Place{}}
}

// Join announces decisions through outbox from now on. Call it before Run.
func (l *Loop) Join(outbox book.Outbox) {
	l.fleet.outbox = outbox
	l.book.Join(outbox)
}

// Node returns this node's name in the fleet, or "".
func (l *Loop) Node() string { return l.fleet.node }

// sharesFailures reports whether the nodes count each other's failures.
func (l *Loop) sharesFailures() bool { return l.fleet.outbox != nil && l.settings.ShareFailures }

// TakeBatch applies the announcements of other nodes.
func (l *Loop) TakeBatch(ctx context.Context, b merge.Batch) error {
	return l.Do(ctx, func() { l.takeBatch(&b, l.clock.Now()) })
}

func (l *Loop) takeBatch(b *merge.Batch, now time.Time) {
	taken, allowances := 0, false
	for i := range b.Statements {
		s := &b.Statements[i]
		switch s.Kind {
		case merge.Ban:
			if l.book.TakeBan(s, b.Sync, now) {
				taken++
			}
		case merge.Unban:
			l.book.TakeUnban(s, b.Sync, now)
		case merge.Allow:
			allowances = l.book.TakeAllow(s, b.Sync, now) || allowances
		case merge.Disallow:
			allowances = l.book.TakeDisallow(s, b.Sync, now) || allowances
		case merge.Known:
			l.takeKnown(s, now)
		case merge.Attempt:
			l.takeAttempt(s, now)
		case merge.NumKinds:
		}
	}
	if allowances {
		l.book.ApplyNeverBan()
	}
	if taken > 0 && b.Sync {
		l.log.Info("bans taken over from the fleet", "bans", taken)
	}
	if b.Place != (merge.Place{}) && b.Place != l.fleet.place {
		l.fleet.place, l.resume.changed = b.Place, true
	}
}

// takeKnown marks an address known-good that logged in at another node.
func (l *Loop) takeKnown(s *merge.Statement, now time.Time) {
	if !l.sharesFailures() || s.Node == l.fleet.node {
		return
	}
	if _, home := l.engine.PrefixLengths(s.Prefix.Addr()); s.Prefix.Bits() != home {
		l.fleet.outbox.Refuse(merge.TooWide)
		return
	}
	addr := s.Prefix.Addr()
	if l.book.Banned(l.engine.Prefix(addr), now) {
		return
	}
	if o, ok := l.engine.Offence(l.engine.Prefix(addr)); ok && !s.Last.After(o.Since) {
		return // a ban has ended it
	}
	if g, ok := l.engine.KnownGood(addr); ok && (!g.Suspected.IsZero() || !g.Last.Before(s.Last)) {
		return
	}
	l.engine.SetKnownGood(policy.KnownGood{Prefix: s.Prefix, Since: s.Since, Last: s.Last})
}

// takeAttempt counts attempts made at another node, each at its own time.
func (l *Loop) takeAttempt(s *merge.Statement, now time.Time) {
	if !l.sharesFailures() || s.Node == l.fleet.node {
		return
	}
	l.recorder.CountedRemote(s.Attempt.Kind, 1+len(s.Earlier))
	for _, at := range s.Earlier {
		a := s.Attempt
		a.At = at
		l.sequence.Count(&a, now)
	}
	l.sequence.Count(&s.Attempt, now)
}

// shareAttempt announces an attempt that counts, if the nodes share failures.
func (l *Loop) shareAttempt(a *policy.Attempt) {
	if !l.sharesFailures() || a.Source == policy.Fleet || a.Proof == policy.NoProof ||
		a.Kind != policy.AuthFailure && a.Kind != policy.Violation {
		return
	}
	l.fleet.outbox.Announce(merge.Statement{
		Kind: merge.Attempt, Prefix: netip.PrefixFrom(a.Addr, a.Addr.BitLen()), Stamp: l.fleet.outbox.Stamp(), Node: l.fleet.node, Attempt: *a,
	})
}

// shareKnown announces a known-good address, if the nodes share failures.
func (l *Loop) shareKnown(g *policy.KnownGood) {
	if l.sharesFailures() && !g.Since.IsZero() && g.Suspected.IsZero() {
		l.fleet.outbox.Announce(l.statementOfKnown(g))
	}
}

func (l *Loop) statementOfKnown(g *policy.KnownGood) merge.Statement {
	return merge.Statement{Kind: merge.Known, Prefix: g.Prefix, Stamp: l.fleet.outbox.StampOf(g.Last), Node: l.fleet.node, Since: g.Since,
		Last: g.Last}
}

// Current yields every statement that other nodes may have to know. Bans are read outside of the loop, because there may be many.
func (l *Loop) Current(ctx context.Context, yield func(merge.Statement)) error {
	var list []merge.Statement
	var mode Mode
	err := l.Do(ctx, func() {
		list, mode = l.book.Statements(), l.mode
		if l.sharesFailures() {
			for g := range l.engine.AllKnownGood() {
				if !g.Since.IsZero() && g.Suspected.IsZero() {
					list = append(list, l.statementOfKnown(&g))
				}
			}
		}
	})
	if err != nil {
		return err
	}
	now := l.clock.Now()
	for _, b := range l.ledger.List() {
		if s, ok := l.book.Statement(&b, now); ok && mode.shares(&b) {
			yield(s)
		}
	}
	for _, s := range list {
		yield(s)
	}
	return nil
}
