// Package book keeps bans and allowances. It is the one place where the ledger, the firewall and the fleet's outbox change
// together: ban, withdraw, allow, disallow, adopt, restore, take from a peer, expire.
//
// Every entry has an Origin, and every origin passes the same checks (see check.go) before the entry is in force: a valid
// prefix that is not too wide, the never-ban list with the operators' allowances, withdrawals, and the capacity of the
// firewall. A ban that `fsban ban` refuses is never adopted, restored or taken from a peer either.
package book

import (
	"log/slog"
	"net/netip"
	"time"

	"fsban/firewall"
	"fsban/fleet/merge"
	"fsban/ledger"
	"fsban/policy"
)

// Rules of bans that no configured rule made. The configuration reserves these names.
const (
	RuleOffice   = "office" // the policy's own, for known-good addresses
	RuleOperator = "operator"
	RuleKernel   = "kernel"
	RuleImported = "fail2ban" // taken over from fail2ban
	RuleUnproven = "unproven" // bans by failures that a tap could have proven and did not
	RuleFleet    = "fleet"    // counts bans taken from peers: their rules may have any name
)

// A Cause says why a ban ended. The set is closed: safe as a metric label.
type Cause string

// The causes.
const (
	Expired  Cause = "expired"
	Unbanned Cause = "unbanned"  // by an operator, here or on another node
	Allowed  Cause = "allowed"   // by an operator's allowance, here or on another node
	NeverBan Cause = "never_ban" // the never-ban list of the configuration or of this host has come to hold it
	Evicted  Cause = "evicted"   // the ban limit was reached, and this ban had the least evidence
	Outage   Cause = "outage"    // the address was known-good, and its back end was down
	Invalid  Cause = "invalid"   // it did not pass the checks at a start
	Watched  Cause = "watched"   // fsban has watched until now, and enforcement starts without this decision
	Replaced Cause = "replaced"  // by a ban of another rule; only in the history
)

// Causes lists those that end the ban of a prefix.
var Causes = []Cause{Expired, Unbanned, Allowed, NeverBan, Outage, Evicted, Invalid, Watched}

// A Withdrawal is the cause of an early end of a ban, and the operator who ordered it.
type Withdrawal struct {
	Cause  Cause
	By     string // operator
	Reason string // given by the operator
	Node   string // node of the fleet where it was ordered, if another one
}

// An Order is an operator's input for the withdrawal of a ban or an allowance.
type Order struct {
	By     string
	Reason string
	Local  bool // for this node alone
}

// A Firewall receives orders. Neither method waits. firewall.Enforcer is one.
type Firewall interface {
	Ban(prefix netip.Prefix, until time.Time, cause firewall.Cause)
	Unban(prefix netip.Prefix, ordered time.Time)
	// Packets returns the packets dropped of each ban, where the backend counts them for the asking; nil: unknown.
	Packets() map[netip.Prefix]uint64
}

// An Outbox announces statements to the other nodes. No method waits. fleet.Fleet is one.
type Outbox interface {
	Announce(merge.Statement)
	Stamp() int64              // of a statement made now
	StampOf(t time.Time) int64 // of a statement made at a time of our clock
	Refuse(merge.Refusal)      // counts a statement that was not taken
	Resync()                   // requests everything that Redis holds
	Step(by time.Duration)     // our clock was stepped
}

// A Recorder counts. Its methods are called from the loop's goroutine and must not wait.
type Recorder interface {
	Banned(rule string)
	Unbanned(Cause)
	BanRefused()
	Adopted()
	Removed(Reason) // an entry found in the kernel that did not pass the checks
}

// Limits are the settings of a Book that a reload may change.
type Limits struct {
	MaxBans int // of each family
	BanRate int // bans a minute by rules of peers, multiplied by merge.RatePerNode and merge.RateTotal; 0: no limit
}

// Options are the parts that a Book works with.
type Options struct {
	Log      *slog.Logger
	Ledger   *ledger.Ledger
	Engine   *policy.Engine
	Firewall Firewall
	// Capacity returns the number of bans that the firewall can hold, independent of Limits.MaxBans, and reports whether both
	// families share that number; 0: Limits.MaxBans is the only limit.
	Capacity func() (n int, shared bool)
	Recorder Recorder
	Limits   Limits
	Started  time.Time
	Watching bool             // bans are decided and kept, and nothing enforces or announces them, until Enforce
	Now      func() time.Time // the time by which ends are compared; nil: time.Now
}

// A Book belongs to the decision loop's goroutine, except for Found, Amended and Statement, which any goroutine may call.
type Book struct {
	log      *slog.Logger
	ledger   *ledger.Ledger
	engine   *policy.Engine
	firewall Firewall
	capacity func() (int, bool)
	recorder Recorder
	limits   Limits
	started  time.Time
	now      func() time.Time

	allowances map[netip.Prefix]Allowance
	configured []policy.NeverEntry // the never-ban list without allowances

	merge  *merge.State
	node   string // this node's name in the fleet; empty without one
	outbox Outbox // nil: no fleet

	inbox    inbox
	recent   recentBans
	watching bool // see Options
	unsealed bool // the journal holds entries that were not sealed
	totals   totals
}

// totals are numbers since the start, and of the allowances.
type totals struct {
	made, refused uint64 // bans
	wide          int    // allowances wider than peerIPv4 or peerIPv6
}

// New returns a Book without allowances and withdrawals. RestoreAllowances, RestoreTombstones and RestoreBans load an earlier
// process's.
func New(o Options) *Book {
	if o.Now == nil {
		o.Now = time.Now
	}
	b := &Book{
		now: o.Now,
		log: o.Log, ledger: o.Ledger, engine: o.Engine, firewall: o.Firewall, capacity: o.Capacity, recorder: o.Recorder,
		limits: o.Limits, started: o.Started, watching: o.Watching, allowances: make(map[netip.Prefix]Allowance), inbox: newInbox(),
	}
	b.merge = b.newMerge()
	return b
}

// SetLimits changes the limits. Bans in force stay.
func (b *Book) SetLimits(l Limits) {
	b.limits = l
	b.merge.SetRate(max(0, l.BanRate))
}

// Counts returns how many bans were made since the start, and how many were refused because the firewall is full.
func (b *Book) Counts() (made, refused uint64) { return b.totals.made, b.totals.refused }

// Node returns this node's name in the fleet, or "".
func (b *Book) Node() string { return b.node }

// Waiting returns how many bans of peers wait for their rate.
func (b *Book) Waiting() int { return b.merge.Waiting() }

// Banned reports whether exactly prefix is banned at now.
func (b *Book) Banned(prefix netip.Prefix, now time.Time) bool {
	ban, ok := b.ledger.Get(prefix)
	return ok && !ban.Over(now)
}

// Withdrawn reports whether an attempt of prefix at a time, read at now, precedes a withdrawal of its ban, by an operator, an outage
// or another node: it must not lead to that ban again.
func (b *Book) Withdrawn(prefix netip.Prefix, at, now time.Time) bool {
	widest := pick(prefix.Addr().Is4(), WidestIPv4, WidestIPv6)
	return b.merge.Withdrawn(prefix, b.stampAt(at), b.stampAt(now), widest)
}

// Covering returns the ban of exactly p or, for a single address, of the prefix that it counts as.
func (b *Book) Covering(p netip.Prefix) (ledger.Ban, bool) {
	if ban, ok := b.ledger.Get(p); ok {
		return ban, true
	}
	if p.IsSingleIP() {
		return b.ledger.Get(b.engine.Prefix(p.Addr()))
	}
	return ledger.Ban{}, false
}

// Wider returns the banned prefixes that hold p and are wider, the widest first.
func (b *Book) Wider(p netip.Prefix) (list []netip.Prefix) {
	for bits := range p.Bits() {
		q, err := p.Addr().Prefix(bits)
		if _, banned := b.ledger.Get(q); banned && err == nil {
			list = append(list, q)
		}
	}
	return list
}

// Overlapping returns up to limit banned prefixes that share an address with p.
func (b *Book) Overlapping(p netip.Prefix, limit int) []netip.Prefix {
	var list []netip.Prefix
	b.ledger.Each(func(q netip.Prefix, _ time.Time) bool {
		if q.Overlaps(p) {
			list = append(list, q)
		}
		return len(list) < limit
	})
	return list
}

// Banning returns up to limit bans that hold an address of p.
func (b *Book) Banning(p netip.Prefix, limit int) (list []ledger.Ban) {
	for _, q := range b.Overlapping(p, limit) {
		if ban, ok := b.ledger.Get(q); ok {
			list = append(list, ban)
		}
	}
	return list
}

// Note adds e to the journal.
func (b *Book) Note(e ledger.Entry, at time.Time) {
	b.ledger.Note(e, at)
	b.unsealed = true
}

// Unsealed reports whether the journal holds entries that no Sealed call has followed.
func (b *Book) Unsealed() bool { return b.unsealed }

// Sealed records that the journal was sealed.
func (b *Book) Sealed() { b.unsealed = false }

// forget resets the counts of every address in prefix and starts its grace.
func (b *Book) forget(prefix netip.Prefix, now time.Time) {
	b.engine.Forget(prefix, now)
	b.Note(ledger.Entry{Forgot: prefix, At: now}, now)
}
