package book

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"fsban/firewall"
	"fsban/fleet/merge"
	"fsban/ledger"
	"fsban/policy"
)

// newMerge returns the state of a node's statements. A single node keeps tombstones too: a saved set may bring back a ban that
// an operator has withdrawn.
func (b *Book) newMerge() *merge.State {
	m := merge.New(merge.Options{Keep: b.keepTombstone})
	m.SetRate(max(0, b.limits.BanRate))
	return m
}

func (b *Book) keepTombstone(k merge.Key, t *merge.Tombstone) {
	shelf := ledger.Unbanned
	if k.Subject == merge.Allowances {
		shelf = ledger.Disallowed
	}
	var record any
	if t != nil {
		record = t
	}
	if err := b.ledger.Keep(shelf, k.Prefix, record); err != nil {
		b.log.Error("cannot save a withdrawal", "addr", k.Prefix, "error", err)
	}
}

// SetNode sets this node's name in the fleet; "" without one. Call it before RestoreBans.
func (b *Book) SetNode(node string) {
	b.node = node
	b.merge.SetNode(node)
}

// Join announces through outbox from now on, and bans that an earlier process has not announced, a little later. Call it before the
// loop runs.
func (b *Book) Join(outbox Outbox) {
	b.outbox = outbox
	for _, ban := range b.ledger.List() {
		if ban.Stamp == 0 && ban.Rule != RuleOperator && ban.Rule != RuleKernel && !b.watching {
			b.merge.AnnounceLater(ban.Prefix, b.started.Add(announceAfter()))
		}
	}
}

// announceAfter returns after how long a ban triggered by remote failures is announced, if no other node has.
func announceAfter() time.Duration { return time.Second + rand.N(2*time.Second) }

// stampOf returns the stamp of ban. An operator's ban from before the fleet counts as announced when it began, and one found in the
// kernel is older than any statement about its prefix.
func (b *Book) stampOf(ban *ledger.Ban) int64 {
	switch {
	case ban.Stamp != 0:
		return ban.Stamp
	case ban.Rule == RuleKernel:
		return 1
	case ban.Rule != RuleOperator:
		return merge.RuleStamp(0, b.endStamp(ban))
	}
	return b.stampAt(ban.Since)
}

// endStamp returns the end of ban as a stamp; 0: none.
func (b *Book) endStamp(ban *ledger.Ban) int64 {
	if ban.Until.IsZero() {
		return 0
	}
	return b.stampAt(ban.Until)
}

// newStamp returns the stamp of a ban made here at now.
func (b *Book) newStamp(ban *ledger.Ban, now time.Time) int64 {
	if ban.Rule == RuleOperator {
		return b.outbox.Stamp()
	}
	known, _ := b.merge.Tombstone(banKey(ban.Prefix))
	if known.Local {
		known.Stamp = 0
	}
	stamp := merge.RuleStamp(known.Stamp, b.endStamp(ban))
	if old, ok := b.ledger.Get(ban.Prefix); ok && old.Stamp != 0 && !old.Over(now) {
		stamp = max(stamp, old.Stamp+1)
	}
	return stamp
}

// stampAt returns the stamp of a time of our clock.
func (b *Book) stampAt(t time.Time) int64 {
	if b.outbox == nil {
		return t.UnixMicro()
	}
	return b.outbox.StampOf(t)
}

// stamp returns the stamp of an event of now.
func (b *Book) stamp() int64 {
	if b.outbox == nil {
		return b.now().UnixMicro()
	}
	return b.outbox.Stamp()
}

// heldBan returns the ban of p in the form that merge needs; zero when there is none.
func (b *Book) heldBan(p netip.Prefix) merge.Entry {
	ban, ok := b.ledger.Get(p)
	if !ok {
		return merge.Entry{}
	}
	return b.entryOf(&ban)
}

func (b *Book) entryOf(ban *ledger.Ban) merge.Entry {
	return merge.Entry{Stamp: merge.Stamp{Micros: b.stampOf(ban), Node: ban.Node}, Until: ban.Until, Local: ban.Local}
}

// heldAllowance is heldBan for allowances.
func (b *Book) heldAllowance(p netip.Prefix) merge.Entry {
	a, ok := b.allowances[p]
	if !ok {
		return merge.Entry{}
	}
	return b.entryOfAllowance(&a)
}

func (b *Book) entryOfAllowance(a *Allowance) merge.Entry {
	micros := a.Stamp
	if micros == 0 {
		micros = b.stampAt(a.Since)
	}
	return merge.Entry{Stamp: merge.Stamp{Micros: micros, Node: a.Node}, Until: a.Until, Local: a.Local}
}

// sign signs a ban made here, and reports whether it is to be announced now. A ban triggered by remote failures is announced
// by the node where the last of them happened; the others announce it if that node does not.
func (b *Book) sign(ban *ledger.Ban, now time.Time) (announce bool) {
	if ban.Rule == RuleKernel {
		return false
	}
	if b.watching && b.outbox != nil {
		b.enterWatched(ban, now)
		return false
	}
	if b.outbox != nil && ban.Source == policy.Fleet && ban.Rule != RuleOperator {
		ban.Node = b.node
		if b.merge.AnnounceLater(ban.Prefix, now.Add(announceAfter())) {
			return false
		}
	}
	held := b.heldBan(ban.Prefix)
	if b.outbox != nil {
		ban.Node, ban.Stamp = b.node, b.newStamp(ban, now)
	}
	b.merge.Enter(banKey(ban.Prefix), b.entryOf(ban), held, now)
	return b.outbox != nil && !ban.Local
}

// bury records that ban is withdrawn, by an order with a stamp of a node, and announces that unless the order is for this node
// alone. An operator's withdrawal (long) is remembered as long as tombstones are, because a saved set can bring its entry back with
// a new end.
func (b *Book) bury(ban *ledger.Ban, o Order, stamp int64, node string, long bool) {
	until := ban.Until
	if long {
		until = time.Time{}
	}
	t := b.merge.Withdraw(banKey(ban.Prefix), merge.Tombstone{
		Prefix: ban.Prefix, Stamp: stamp, Node: node, Until: until, By: o.By, Reason: o.Reason, Local: o.Local,
	}, b.entryOf(ban), b.now())
	if b.outbox != nil && !o.Local {
		b.outbox.Announce(t.Statement(merge.Unban))
	}
}

func statementOf(ban *ledger.Ban) merge.Statement {
	return merge.Statement{
		Kind: merge.Ban, Prefix: ban.Prefix, Stamp: ban.Stamp, Node: ban.Node, Since: ban.Since, Until: ban.Until, Rule: ban.Rule,
		Source: ban.Source.String(), By: ban.By, Reason: ban.Reason, Count: ban.Attempts, Offence: ban.Offence,
	}
}

func statementOfAllowance(a *Allowance) merge.Statement {
	return merge.Statement{
		Kind: merge.Allow, Prefix: a.Prefix, Stamp: a.Stamp, Node: a.Node, Since: a.Since, Until: a.Until, By: a.By, Reason: a.Reason,
	}
}

// Tick does the work that is due once a second: waiting bans of peers, unannounced bans, expired tombstones.
func (b *Book) Tick(now time.Time) {
	due := b.merge.Tick(now)
	if b.outbox == nil {
		return
	}
	for i := range due.Bans {
		b.TakeBan(&due.Bans[i], false, now)
	}
	for _, p := range due.Announce {
		ban, ok := b.ledger.Get(p)
		if ok && !ban.Over(now) {
			b.announce(&ban, now)
		}
	}
	if due.Resync {
		b.outbox.Resync()
	}
}

// announce signs and announces a ban made here, unless that has been done or the ban is for this node alone.
func (b *Book) announce(ban *ledger.Ban, now time.Time) {
	if ban.Stamp != 0 || ban.Local {
		return
	}
	ban.Node, ban.Stamp = b.node, b.newStamp(ban, now)
	b.ledger.Sign(ban.Prefix, ban.Node, ban.Stamp)
	b.merge.Enter(banKey(ban.Prefix), b.entryOf(ban), merge.Entry{}, now)
	b.outbox.Announce(statementOf(ban))
}

// Statements returns the withdrawals and allowances that other nodes may have to know. Statement returns the bans.
func (b *Book) Statements() []merge.Statement {
	list := b.merge.Withdrawals(func(k merge.Key) bool {
		if k.Subject == merge.Allowances {
			_, ok := b.allowances[k.Prefix]
			return ok
		}
		_, ok := b.ledger.Get(k.Prefix)
		return ok
	})
	for _, a := range b.allowances {
		if a.Local {
			continue
		}
		a.Stamp = b.entryOfAllowance(&a).Stamp.Micros
		if a.Node == "" {
			a.Node = b.node
		}
		list = append(list, statementOfAllowance(&a))
	}
	return list
}

// Statement returns ban as an announcement to other nodes; false: they need none. Any goroutine may call it.
func (b *Book) Statement(ban *ledger.Ban, now time.Time) (merge.Statement, bool) {
	if ban.Local || ban.Rule == RuleKernel || ban.Over(now) {
		return merge.Statement{}, false
	}
	s := statementOf(ban)
	s.Stamp = b.stampOf(ban)
	if s.Node == "" {
		s.Node = b.node
	}
	return s, true
}

// TakeBan applies a ban announced by another node and reports whether it was applied. sync: it is part of the state that Redis
// holds, and no news.
func (b *Book) TakeBan(s *merge.Statement, sync bool, now time.Time) bool {
	e := Entry{Ban: banOf(s, now), Origin: FromPeer, Cause: firewall.Cause{Read: now}}
	b.outdate(&e.Ban)
	held := b.heldBan(s.Prefix)
	old, replaced := b.ledger.Get(s.Prefix)
	verdict := b.merge.Judge(s, held.Stamp, sync)
	if verdict == merge.Echo {
		b.ledger.Sign(s.Prefix, s.Node, s.Stamp)
	}
	if replaced && !old.Local && verdict != merge.Echo && s.Rule != RuleOperator && old.Rule == RuleOperator && lastsLonger(&e.Ban, &old) {
		b.merge.Missed() // by another node's clock the operator's ban may be over
	}
	if verdict != merge.Newer || replaced && !b.precedes(&e, &old, now) {
		return false
	}
	if e.Ban.Over(now) {
		b.merge.Enter(banKey(s.Prefix), b.entryOf(&e.Ban), held, now)
		if replaced {
			b.drop(old, Withdrawal{Cause: Unbanned, By: s.By, Reason: s.Reason, Node: s.Node})
		}
		return false
	}
	if r, refused := b.checkPeer(&e, s, replaced, sync, now); refused {
		b.outbox.Refuse(r)
		if r == merge.NeverBan || r == merge.Full {
			b.merge.Missed()
		}
		return false
	}
	if replaced && old.Node == e.Ban.Node && old.Since.Sub(e.Ban.Since).Abs() < time.Second { // our own, or known already
		if kept, err := b.ledger.Load(s.Prefix); err == nil {
			e.Ban.Evidence = kept.Evidence
		}
	}
	b.merge.Enter(banKey(s.Prefix), b.entryOf(&e.Ban), held, now)
	b.put(&e)
	b.takeOffence(&e.Ban)
	b.engine.EndKnownGood(e.Ban.Prefix)
	if !sync {
		if !replaced {
			b.count(&e.Ban, RuleFleet)
		}
		b.log.Info(b.banned(), "addr", e.Ban.Prefix, "rule", e.Ban.Rule, "attempts", e.Ban.Attempts, "bantime", bantime(&e.Ban),
			"source", e.Ban.Source, "node", e.Ban.Node, Text("by", e.Ban.By))
	}
	return true
}

func banOf(s *merge.Statement, now time.Time) ledger.Ban {
	ban := ledger.Ban{
		Prefix: s.Prefix, Since: s.Since, Until: s.Until, Rule: s.Rule, Attempts: s.Count, Offence: s.Offence, By: s.By, Reason: s.Reason,
		Node: s.Node, Stamp: s.Stamp, Source: policy.Fleet,
	}
	_ = ban.Source.UnmarshalText([]byte(s.Source)) // an unknown source stays the fleet's
	if ban.Since.IsZero() {
		ban.Since = now
	}
	return ban
}

// checkPeer is check for a ban of another node, with rate and capacity. A peer evicts no ban of ours.
func (b *Book) checkPeer(e *Entry, s *merge.Statement, replaced, sync bool, now time.Time) (reason merge.Refusal, refused bool) {
	if r := b.check(e); r != nil {
		switch r.Reason {
		case Never:
			return merge.NeverBan, true
		case BadPrefix, TooWide, Doubtful, Withdrawn, Full, Outranked:
		}
		return merge.TooWide, true
	}
	if replaced {
		return 0, false
	}
	if !sync && e.Ban.Rule != RuleOperator && !b.merge.Admit(s, now) {
		return merge.Rate, true
	}
	if held, limit, _ := b.usage(e.Ban.Prefix.Addr().Is4()); held >= limit {
		return merge.Full, true
	}
	return 0, false
}

// takeOffence records a rule's ban of another node as a past ban, so that the next one lasts longer here too.
func (b *Book) takeOffence(ban *ledger.Ban) {
	if ban.Offence == 0 || ban.Rule == RuleOperator {
		return
	}
	if o, ok := b.engine.Offence(ban.Prefix); !ok || o.Count <= ban.Offence {
		b.engine.SetOffence(policy.Offence{Prefix: ban.Prefix, Count: ban.Offence, Since: ban.Since, Until: ban.Until})
	}
}

// outdate removes the withdrawal of ban's prefix for this node alone, if a rule has made ban after it: the other nodes' rules do not
// know of the withdrawal, and their stamps do not say so.
func (b *Book) outdate(ban *ledger.Ban) {
	key := banKey(ban.Prefix)
	if t, ok := b.merge.Tombstone(key); ok && t.Local && ban.Rule != RuleOperator && b.stampAt(ban.Since) > t.Stamp {
		b.merge.Forget(key)
	}
}

// expired announces a withdrawal again when the ban that had replaced it is over: Redis holds one statement for each prefix, and a
// node may know only that ban. The end of a ban that was for this node alone lets the fleet's take effect.
func (b *Book) expired(p netip.Prefix, local bool, now time.Time) {
	if b.outbox == nil {
		return
	}
	if local {
		b.merge.Missed()
	}
	if t, ok := b.merge.Tombstone(banKey(p)); ok && !t.Local && t.Until.After(now) {
		b.outbox.Announce(t.Statement(merge.Unban))
	}
}

// TakeUnban ends a ban that another node has withdrawn, and resets the counts towards it.
func (b *Book) TakeUnban(s *merge.Statement, sync bool, now time.Time) {
	held := b.heldBan(s.Prefix)
	if b.merge.Judge(s, held.Stamp, sync) != merge.Newer {
		return
	}
	b.merge.Withdraw(banKey(s.Prefix), merge.TombstoneOf(s), held, now)
	ban, ok := b.ledger.Get(s.Prefix)
	if ok && ban.Local {
		return // only an order given here ends it
	}
	if ok {
		b.forget(ban.Prefix, now)
		b.drop(ban, Withdrawal{Cause: Unbanned, By: s.By, Reason: s.Reason, Node: s.Node})
		return
	}
	if b.engine.HasCounts(s.Prefix) { // or one failure more would make the ban here that was withdrawn there
		b.forget(s.Prefix, now)
	}
}

// TakeAllow applies an allowance announced by another node and reports whether the never-ban list has changed: call
// ApplyNeverBan after the batch.
func (b *Book) TakeAllow(s *merge.Statement, sync bool, now time.Time) (changed bool) {
	held := b.heldAllowance(s.Prefix)
	old, replaced := b.allowances[s.Prefix]
	switch b.merge.Judge(s, held.Stamp, sync) {
	case merge.Stale:
		return false
	case merge.Echo:
		old.Stamp = s.Stamp
		b.keepAllowance(&old)
		return false
	case merge.Newer:
	}
	a := Allowance{Prefix: s.Prefix, By: s.By, Reason: s.Reason, Since: s.Since, Until: s.Until, Node: s.Node, Stamp: s.Stamp}
	if a.over(now) {
		b.merge.Enter(allowKey(a.Prefix), b.entryOfAllowance(&a), held, now)
		if replaced {
			b.removeAllowance(a.Prefix)
		}
		return replaced
	}
	if r := b.checkPeerAllowance(&a); r != nil {
		reason := merge.TooWide
		if r.Reason == Full {
			reason = merge.Full
		}
		b.outbox.Refuse(reason)
		return false
	}
	b.merge.Enter(allowKey(a.Prefix), b.entryOfAllowance(&a), held, now)
	b.keepAllowance(&a)
	b.log.Info("allowed", "addr", a.Prefix, "until", end(a.Until), Text("reason", a.Reason), "by", a.By, "node", a.Node)
	return true
}

// TakeDisallow removes an allowance that another node has withdrawn, and reports whether the never-ban list has changed.
func (b *Book) TakeDisallow(s *merge.Statement, sync bool, now time.Time) (changed bool) {
	held := b.heldAllowance(s.Prefix)
	if b.merge.Judge(s, held.Stamp, sync) != merge.Newer {
		return false
	}
	b.merge.Withdraw(allowKey(s.Prefix), merge.TombstoneOf(s), held, now)
	if _, ok := b.allowances[s.Prefix]; !ok {
		return false
	}
	b.removeAllowance(s.Prefix)
	b.log.Info("disallowed", "addr", s.Prefix, "by", s.By, Text("reason", s.Reason), "node", s.Node)
	return true
}
