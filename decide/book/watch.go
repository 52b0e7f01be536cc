package book

import (
	"log/slog"
	"net/netip"
	"time"

	"fsban/ledger"
)

// A Book that watches holds the bans that it would have in force. It checks, lists and ends them as others do; nothing enforces
// them, and no other node receives them. Withdrawals, allowances and failures are announced all the same.

// Enforce ends watching. With keep the watched bans are in force from now on, and are announced. Without it they end: their
// addresses start from zero, with a short grace, and their bans make no later one longer. Bans that the kernel holds already
// (blocked), and those of other nodes, are no watched bans: they stay. Enforce returns the numbers of bans that stay and that have
// ended, and evicts bans beyond the capacity of the firewall. The caller must have an empty queue of orders afterwards.
func (b *Book) Enforce(keep bool, blocked map[netip.Prefix]struct{}) (kept, ended int) {
	now := b.now()
	b.watching = false
	for _, ban := range b.ledger.List() {
		_, inForce := blocked[ban.Prefix]
		shared := b.node != "" && ban.Stamp != 0
		switch {
		case ban.Over(now):
		case keep || inForce || shared:
			kept++
			if b.outbox != nil && ban.Rule != RuleKernel {
				b.announce(&ban, now)
			}
		default:
			ended++
			b.forget(ban.Prefix, now)
			b.ledger.End(ban.Prefix, ledger.Ending{At: b.now(), Cause: string(Watched)})
			b.recorder.Unbanned(Watched)
		}
	}
	if b.outbox != nil {
		b.outbox.Resync() // bans of the fleet that watched ones stood in for
	}
	b.fit(now)
	return kept, ended
}

// enterWatched records a watched ban of a node of a fleet.
func (b *Book) enterWatched(ban *ledger.Ban, now time.Time) {
	ban.Node = b.node
	e := b.entryOf(ban)
	e.Local = true // the replaced statement is withdrawn on this node only
	b.merge.Enter(banKey(ban.Prefix), e, b.heldBan(ban.Prefix), now)
}

// banned returns the log message of a new ban.
func (b *Book) banned() string {
	if b.watching {
		return "would be banned"
	}
	return "banned"
}

// watches is a log attribute of a Book that watches.
func (b *Book) watches() slog.Attr {
	if b.watching {
		return slog.Bool("watching", true)
	}
	return slog.Attr{}
}
