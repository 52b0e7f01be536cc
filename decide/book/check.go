package book

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"fsban/firewall"
	"fsban/fleet/merge"
	"fsban/ledger"
	"fsban/policy"
)

// An Origin is where an entry comes from.
type Origin uint8

// The origins.
const (
	ByRule     Origin = iota // the policy decided on it here
	ByOperator               // an operator ordered it here
	Imported                 // an operator took it over from fail2ban
	FromPeer                 // another node of the fleet announced it
	InKernel                 // it was found in the kernel
	Restored                 // the ledger held it at the start
	Replayed                 // the journal led to it at the start
	numOrigins
)

func (o Origin) String() string {
	return [numOrigins]string{"rule", "operator", "imported", "peer", "kernel", "restored", "replayed"}[o]
}

// A Reason says which check refused an entry. The set is closed: safe as a metric label.
type Reason string

// The reasons.
const (
	BadPrefix Reason = "bad_prefix" // not valid, host bits set, or holds IPv4-mapped addresses
	TooWide   Reason = "too_wide"
	Doubtful  Reason = "doubtful"  // an operator's, without force: never-ban list, known-good addresses, very many addresses
	Never     Reason = "never_ban" // on the never-ban list, or allowed by an operator
	Withdrawn Reason = "withdrawn" // unbanned later than banned
	Full      Reason = "full"
	Outranked Reason = "outranked" // a ban of the prefix is in force that holds against this one; never of a kernel entry
)

// Reasons lists those for which entries of the kernel are removed.
var Reasons = []Reason{BadPrefix, TooWide, Never, Withdrawn, Full}

// A Refusal is the error of an entry that did not pass the checks.
type Refusal struct {
	Reason Reason
	Text   string
}

func (r *Refusal) Error() string { return r.Text }

func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{reason, fmt.Sprintf(format, args...)}
}

// An Entry is a ban that asks to be in force.
type Entry struct {
	Ban    ledger.Ban
	Origin Origin
	Force  bool           // an operator overrides the never-ban list
	Cause  firewall.Cause // Read is the time of the order
}

// The widest prefixes that anybody may ban: a wider one holds whole regions, and most likely the operator.
const (
	WidestIPv4 = 8
	WidestIPv6 = 16
)

// check returns why e must not be in force, or nil. Capacity is checked by makeRoom, because it may evict other bans.
func (b *Book) check(e *Entry) *Refusal {
	p := e.Ban.Prefix
	if p.Bits() != 0 && !firewall.CanBan(p) {
		return refuse(BadPrefix, "%v is not a prefix that can be banned", p)
	}
	if r := b.checkEverybody(p); r != nil {
		return r
	}
	if widest := b.widest(e); p.Bits() < widest {
		return refuse(TooWide, "%v is too wide: a ban holds a /%d at most", p, widest)
	}
	if e.Origin == ByOperator {
		return b.checkOrder(e)
	}
	if never, match := b.forbids(e); match {
		return refuse(Never, "%v", neverText(p, &never))
	}
	if b.withdrawn(e) {
		return refuse(Withdrawn, "%v was unbanned: fsban ban bans it again", p)
	}
	return nil
}

// checkOrder is the rest of check for an operator's ban: without force it is refused where it most likely hits somebody trusted.
func (b *Book) checkOrder(e *Entry) *Refusal {
	never, match := b.engine.NeverBan().Match(e.Ban.Prefix)
	e.Ban.Forced = match && e.Force
	if e.Force {
		return nil
	}
	var doubts []string
	if match {
		doubts = append(doubts, neverText(e.Ban.Prefix, &never))
	}
	if doubts = append(doubts, b.doubts(e.Ban.Prefix)...); len(doubts) > 0 {
		return refuse(Doubtful, "%s", strings.Join(doubts, "; "))
	}
	return nil
}

func neverText(p netip.Prefix, n *policy.NeverEntry) string {
	return fmt.Sprintf("%v is never banned, because of %v (%s)", p, n.Prefix, n.Origin)
}

// Prefixes of so many bits or fewer hold very many addresses: an order about them needs force.
const (
	wideIPv4 = 16
	wideIPv6 = 32
)

// doubts returns why an operator may not want to ban p.
func (b *Book) doubts(p netip.Prefix) (list []string) {
	if wide(p) {
		list = append(list, fmt.Sprintf("%v is very wide: %s", p, size(p)))
	}
	var one policy.KnownGood
	n := 0
	if p.IsSingleIP() {
		if g, ok := b.engine.KnownGood(p.Addr()); ok && !g.Since.IsZero() && g.Suspected.IsZero() {
			one, n = g, 1
		}
	} else {
		for g := range b.engine.AllKnownGood() {
			if g.Prefix.Overlaps(p) && !g.Since.IsZero() && g.Suspected.IsZero() {
				one, n = g, n+1
			}
		}
	}
	switch last := one.Last.Local().Format(time.DateTime); {
	case n == 1 && one.Prefix == p:
		list = append(list, fmt.Sprintf("%v is known-good, last login %s", p, last))
	case n > 0:
		list = append(list, fmt.Sprintf("%v holds %d known-good, such as %v, last login %s", p, n, one.Prefix, last))
	}
	return list
}

func wide(p netip.Prefix) bool { return p.Bits() <= pick(p.Addr().Is4(), wideIPv4, wideIPv6) }

// size returns the number of addresses of a wide prefix, for people.
func size(p netip.Prefix) string {
	if p.Addr().Is4() {
		return fmt.Sprintf("%d addresses", 1<<(32-p.Bits()))
	}
	return fmt.Sprintf("%d networks of the size /48", uint64(1)<<(48-p.Bits()))
}

// checkAllowance returns why a must not be in force, or nil.
func (b *Book) checkAllowance(a *Allowance) *Refusal {
	if r := b.checkEverybody(a.Prefix); r != nil {
		return r
	}
	if _, replaced := b.allowances[a.Prefix]; !replaced && len(b.allowances) >= maxAllowances {
		return refuse(Full, "%d prefixes are allowed already: put them into policy.ignore_file", maxAllowances)
	}
	return nil
}

// checkPeerAllowance is checkAllowance for a statement of another node. The limits are those that an operator exceeds with --force alone:
// such an allowance is given on each node.
func (b *Book) checkPeerAllowance(a *Allowance) *Refusal {
	if r := b.checkAllowance(a); r != nil {
		return r
	}
	_, replaced := b.allowances[a.Prefix]
	switch {
	case wide(a.Prefix) && !private(a.Prefix):
		return refuse(TooWide, "%v is too wide for an allowance of another node: give it on each node", a.Prefix)
	case !replaced && widerThanPeers(a.Prefix) && b.totals.wide >= maxPeerWide:
		return refuse(TooWide, "%d allowances are wider than a /%d or an IPv6 /%d", b.totals.wide, peerIPv4, peerIPv6)
	}
	return nil
}

// private reports whether no address in p is of the internet.
func private(p netip.Prefix) bool {
	for _, q := range [...]netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"),
	} {
		if p.Bits() >= q.Bits() && q.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

func (b *Book) checkEverybody(p netip.Prefix) *Refusal {
	switch {
	case !b.engine.CoversAll(p):
		return nil
	case p.Bits() == 0:
		return refuse(TooWide, "%v is everybody", p)
	}
	return refuse(TooWide, "%v is everybody behind a NAT64 translator", p)
}

// widest returns the least number of bits of e's prefix. A rule bans a whole attacker, nothing wider.
func (b *Book) widest(e *Entry) int {
	if e.Origin == FromPeer && e.Ban.Rule != RuleOperator {
		return b.engine.WidestBan(e.Ban.Prefix.Addr())
	}
	return pick(e.Ban.Prefix.Addr().Is4(), WidestIPv4, WidestIPv6)
}

// forbids returns the entry of the never-ban list that forbids e.
func (b *Book) forbids(e *Entry) (policy.NeverEntry, bool) {
	if e.Origin == Restored || e.Origin == FromPeer {
		never, w := b.forbidden(&e.Ban)
		return never, w.Cause != ""
	}
	return b.engine.NeverBan().Match(e.Ban.Prefix)
}

// forbidden returns the entry of the never-ban list that ends ban, and the end; without a cause ban stays.
//
// All bans by rules end. An operator's ban of this host stays if it was forced, or if it is wider than the entry. An allowance ends
// all operators' bans that precede it, and that are no wider than it or than one attacker; those with --local only if it was given
// here.
func (b *Book) forbidden(ban *ledger.Ban) (never policy.NeverEntry, w Withdrawal) {
	never, match := b.engine.NeverBan().Match(ban.Prefix)
	if !match {
		return never, w
	}
	operator, own := ban.Rule == RuleOperator, b.elsewhere(ban.Node) == ""
	wider := never.Prefix.Addr().Is4() == ban.Prefix.Addr().Is4() && ban.Prefix.Bits() < never.Prefix.Bits()
	a, allowed := b.allowances[never.Prefix]
	if !allowed {
		if operator && (ban.Forced || wider && own) {
			return never, w
		}
		return never, Withdrawal{Cause: NeverBan}
	}
	counted, _ := b.engine.PrefixLengths(ban.Prefix.Addr())
	switch {
	case !operator:
	case wider && ban.Prefix.Bits() < counted && (own || !a.Local), ban.Local && b.elsewhere(a.Node) != "",
		ban.Forced && b.stampOf(ban) > b.entryOfAllowance(&a).Stamp.Micros:
		return never, w
	}
	return never, Withdrawal{Cause: Allowed, By: a.By, Reason: a.Reason, Node: b.elsewhere(a.Node)}
}

// withdrawn reports whether the prefix was unbanned later than banned. A decision or an order of now is newer than any
// withdrawal, and merge.Judge has compared the announcements of peers. The ledger drops a ban with its withdrawal; it holds the ban
// still if that record was damaged, or not written before a crash.
func (b *Book) withdrawn(e *Entry) bool {
	t, ok := b.merge.Tombstone(banKey(e.Ban.Prefix))
	if !ok {
		return false
	}
	switch e.Origin {
	case InKernel, Replayed:
		return t.Stamp > b.stampOf(&e.Ban)
	case Restored:
		// A ban without a stamp of the fleet's is as old as our clock says, which the fleet's tombstones do not follow.
		return (e.Ban.Stamp != 0 || b.node == "") && t.Stamp > b.stampOf(&e.Ban)+time.Second.Microseconds()
	case ByRule, ByOperator, Imported, FromPeer, numOrigins:
	}
	return false
}

func banKey(p netip.Prefix) merge.Key { return merge.Key{Subject: merge.Bans, Prefix: p} }

func allowKey(p netip.Prefix) merge.Key { return merge.Key{Subject: merge.Allowances, Prefix: p} }

func pick(is4 bool, v4, v6 int) int {
	if is4 {
		return v4
	}
	return v6
}
