package book

import (
	"log/slog"
	"net/netip"
	"time"

	"fsban/ledger"
)

// A Book that watches holds the bans that it would have in force. It checks, lists and ends them as others do; nothing enforces
// them, and no other node receives them. Withdrawals, allowances and failures are announced all the same.

// An Enforcement is the change from watching to enforcing.
type Enforcement struct {
	Keep    bool                      // the watched bans are enforced; else they end
	Blocked map[netip.Prefix]struct{} // bans that the kernel holds already: they are no watched bans
	// Marked ends only the bans that are marked as watched, because nothing else says that the last process watched.
	Marked bool
}

// An Enforced is the result of an Enforcement: numbers of bans.
type Enforced struct {
	Kept    int // in force
	Ended   int // watched bans that have ended
	Evicted int // beyond the capacity of the firewall
}

// Enforce ends watching. Kept watched bans are in force from now on, and are announced. Others end: their addresses start from zero,
// with a short grace, and their bans make no later one longer. Bans that the kernel holds already, and those of other nodes, stay. Bans
// beyond the capacity of the firewall are evicted. The caller must drop the firewall's earlier orders afterwards.
func (b *Book) Enforce(e *Enforcement) (done Enforced) {
	now := b.now()
	b.watching = false
	for _, ban := range b.ledger.List() {
		_, inForce := e.Blocked[ban.Prefix]
		shared := b.node != "" && ban.Stamp != 0
		switch {
		case ban.Over(now):
		case e.Keep || inForce || shared || e.Marked && !ban.Watched:
			done.Kept++
			b.ledger.Enforce(ban.Prefix)
		default:
			done.Ended++
			b.forget(ban.Prefix, now)
			b.ledger.End(ban.Prefix, ledger.Ending{At: now, Cause: string(Watched)})
			b.recorder.Unbanned(Watched)
		}
	}
	done.Evicted = b.fit(now)
	done.Kept -= done.Evicted
	if b.outbox == nil {
		return done
	}
	for _, ban := range b.ledger.List() {
		if !ban.Over(now) && ban.Rule != RuleKernel {
			b.announce(&ban, now)
		}
	}
	b.outbox.Resync() // bans of the fleet that watched ones stood in for
	return done
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
