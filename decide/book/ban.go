package book

import (
	"cmp"
	"log/slog"
	"math/bits"
	"net/netip"
	"slices"
	"time"

	"fsban/ledger"
	"fsban/policy"
)

// Ban puts e into force and announces it, or returns a *Refusal. The firewall receives it at once, the disk follows. When the
// firewall is full, bans by rules with the least evidence make room.
func (b *Book) Ban(e Entry) error {
	if r := b.check(&e); r != nil {
		return r
	}
	if old, ok := b.ledger.Get(e.Ban.Prefix); ok && !b.precedes(&e, &old, e.Cause.Read) {
		return refuse(Outranked, "%v is banned already, by rule %s until %v", old.Prefix, old.Rule, end(old.Until))
	}
	if r := b.makeRoom(&e.Ban); r != nil {
		return r
	}
	announce := b.sign(&e.Ban, e.Cause.Read)
	b.put(&e)
	if e.Ban.Forced {
		b.log.Warn("banned although it is on the never-ban list", "addr", e.Ban.Prefix, Text("by", e.Ban.By))
	}
	if announce {
		b.outbox.Announce(statementOf(&e.Ban))
	}
	b.count(&e.Ban, e.Ban.Rule)
	b.log.Info(b.banned(), "addr", e.Ban.Prefix, "rule", e.Ban.Rule, "attempts", e.Ban.Attempts, "bantime", bantime(&e.Ban),
		"source", e.Ban.Source, Text("user", LastUser(e.Ban.Evidence)), Text("by", e.Ban.By), Text("reason", e.Ban.Reason))
	return nil
}

// put is the one place where a ban enters the ledger and the kernel. The order comes first: a comparison of the two that happens in
// between reports the kernel's end as changed by hand with the ledger's old end, and TakeKernel ignores it because the ledger has
// the new one by then.
func (b *Book) put(e *Entry) {
	if e.Origin != InKernel { // the kernel holds it already
		e.Ban.Watched = b.watching
		b.firewall.Ban(e.Ban.Prefix, e.Ban.Until, e.Cause)
	}
	if old, ok := b.ledger.Get(e.Ban.Prefix); ok && old.Rule != e.Ban.Rule {
		b.ledger.Replace(e.Ban, ledger.Ending{At: b.now(), Cause: string(Replaced), By: e.Ban.By, Reason: e.Ban.Reason,
			Node: b.elsewhere(e.Ban.Node)})
		return
	}
	b.ledger.Add(e.Ban)
}

// elsewhere returns node, or "" if it is this one.
func (b *Book) elsewhere(node string) string {
	if node == b.node {
		return ""
	}
	return node
}

// count counts a new ban.
func (b *Book) count(ban *ledger.Ban, rule string) {
	b.totals.made++
	b.recent.add(ban)
	b.recorder.Banned(rule)
}

// Unban ends a ban because an operator orders it: the address starts from zero, with a short grace. The fleet receives the
// withdrawal, unless the order is for this node alone.
func (b *Book) Unban(ban ledger.Ban, o Order) {
	b.bury(&ban, o, b.stamp(), b.node, true)
	b.withdraw(ban, Withdrawal{Cause: Unbanned, By: o.By, Reason: o.Reason})
}

// LiftForOutage ends the ban of a known-good address because its back end was down, with a fresh start, and announces that.
func (b *Book) LiftForOutage(ban ledger.Ban) {
	b.bury(&ban, Order{}, b.stamp(), b.node, false)
	b.withdraw(ban, Withdrawal{Cause: Outage})
}

// withdraw ends a ban that should not have been made: the address starts from zero, with a short grace.
func (b *Book) withdraw(ban ledger.Ban, w Withdrawal) {
	b.forget(ban.Prefix, b.now())
	b.drop(ban, w)
}

// drop is the one place where a ban leaves the kernel and the ledger before its end.
func (b *Book) drop(ban ledger.Ban, w Withdrawal) {
	now := b.now()
	b.firewall.Unban(ban.Prefix, now)
	b.ledger.End(ban.Prefix, ledger.Ending{At: now, Cause: string(w.Cause), By: w.By, Reason: w.Reason, Node: w.Node})
	b.recorder.Unbanned(w.Cause)
	b.log.Info("unbanned", "addr", ban.Prefix, "rule", ban.Rule, "cause", string(w.Cause), Text("by", w.By), Text("reason", w.Reason),
		Text("node", w.Node), b.watches())
}

// Expire drops the bans that are over at now. The kernel has ended them by itself.
func (b *Book) Expire(now time.Time) {
	for _, ban := range b.ledger.Expire(now) {
		b.recorder.Unbanned(Expired)
		b.expired(ban.Prefix, ban.Local, now)
	}
}

// evictAtOnce is how many bans make room at a time when the firewall is full.
const evictAtOnce = 64

// room returns the limit of each family, and that of both together; 0: there is none.
func (b *Book) room() (family, both int) {
	n, shared := b.capacity()
	switch {
	case n == 0:
		return b.limits.MaxBans, 0
	case shared:
		return b.limits.MaxBans, n
	}
	return min(b.limits.MaxBans, n), 0
}

// usage returns how many bans count against the limit that a family is closest to, that limit, and whether both families share
// it.
func (b *Book) usage(is4 bool) (held, limit int, shared bool) {
	v4, v6 := b.ledger.Count()
	held = pick(is4, v4, v6)
	family, both := b.room()
	if both > 0 && both-v4-v6 < family-held {
		return v4 + v6, both, true
	}
	return held, family, false
}

// makeRoom evicts the bans by rules with the least evidence when the firewall is full.
func (b *Book) makeRoom(ban *ledger.Ban) *Refusal {
	if _, replaced := b.ledger.Get(ban.Prefix); replaced {
		return nil
	}
	is4 := ban.Prefix.Addr().Is4()
	held, limit, shared := b.usage(is4)
	if held < limit {
		return nil
	}
	if b.evict(is4, max(min(evictAtOnce, limit/16), 1), shared, ban.Since) > 0 {
		return nil
	}
	b.totals.refused++
	b.recorder.BanRefused()
	remedy := "raise firewall.max_bans"
	if shared {
		remedy = "install ipset, and set firewall.backend to iptables"
	}
	return refuse(Full, "%d bans of operators are in force: %s", limit, remedy)
}

// evict ends up to n bans by rules of one family, or of both where they share the limit: those with the least evidence. It returns how
// many.
func (b *Book) evict(is4 bool, n int, shared bool, now time.Time) int {
	if n <= 0 {
		return 0
	}
	byRule := func(ban *ledger.Ban) bool { return ban.Rule != RuleOperator }
	before := weaker(b.firewall.Packets())
	list := b.ledger.First(is4, n, byRule, before)
	if shared {
		list = append(list, b.ledger.First(!is4, n, byRule, before)...)
		slices.SortStableFunc(list, func(x, y ledger.Ban) int {
			switch {
			case before(&x, &y):
				return -1
			case before(&y, &x):
				return 1
			}
			return 0
		})
		list = list[:min(n, len(list))]
	}
	for _, old := range list {
		b.Evict(old, now)
	}
	if len(list) > 0 {
		_, limit, _ := b.usage(is4)
		b.log.Error("ban limit reached (firewall.max_bans, or the capacity of the backend): evicting the bans with the least evidence",
			"limit", limit, "evicted", len(list))
	}
	return len(list)
}

// weaker returns an order of bans by rules, the one with the least evidence first: by rule unproven, then by the packets dropped of it (the
// number of binary digits, 0 if the backend does not count), then by its offences, then by its end. Forged failures cost a packet or two
// for each ban, whose address then sends none; an attacker goes on, and returns after an eviction with another offence.
func weaker(packets map[netip.Prefix]uint64) func(x, y *ledger.Ban) bool {
	return func(x, y *ledger.Ban) bool {
		if d := cmp.Or(
			cmp.Compare(proof(x), proof(y)),
			cmp.Compare(bits.Len64(packets[x.Prefix]), bits.Len64(packets[y.Prefix])),
			cmp.Compare(max(x.Offence, 1), max(y.Offence, 1)),
		); d != 0 {
			return d < 0
		}
		return ledger.EndsBefore(x, y)
	}
}

// proof orders bans by the proof of their attempts.
func proof(ban *ledger.Ban) int {
	if ban.Rule == RuleUnproven {
		return 0
	}
	return 1
}

// Evict ends a ban to make room for another one.
func (b *Book) Evict(ban ledger.Ban, now time.Time) {
	b.drop(ban, Withdrawal{Cause: Evicted})
	b.Note(ledger.Entry{Forgot: ban.Prefix, At: now}, now) // or the next start would make it again
}

// maxRecent is how many of the last bans are kept for display.
const maxRecent = 20

// recentBans is a ring of the bans made last, without evidence, which the ledger keeps.
type recentBans struct {
	ring [maxRecent]ledger.Ban
	made int
}

func (r *recentBans) add(ban *ledger.Ban) {
	kept := *ban
	kept.Evidence = nil
	r.ring[r.made%maxRecent] = kept
	r.made++
}

// Recent returns up to 20 bans made since the start, the newest first, without evidence.
func (b *Book) Recent() []ledger.Ban {
	r := &b.recent
	list := make([]ledger.Ban, 0, maxRecent)
	for i := r.made - 1; i >= max(0, r.made-maxRecent); i-- {
		list = append(list, r.ring[i%maxRecent])
	}
	return list
}

// Text is a log attribute that is left out when empty.
func Text(key, value string) slog.Attr {
	if value == "" {
		return slog.Attr{}
	}
	return slog.String(key, value)
}

func bantime(ban *ledger.Ban) any {
	if ban.Until.IsZero() {
		return "forever"
	}
	return ban.Until.Sub(ban.Since)
}

// LastUser returns the user of the last of attempts, or "".
func LastUser(evidence []policy.Attempt) string {
	if len(evidence) == 0 {
		return ""
	}
	return evidence[len(evidence)-1].User
}
