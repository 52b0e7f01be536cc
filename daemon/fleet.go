package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/firewall"
	"fsban/fleet"
	"fsban/ledger"
	"fsban/policy"
)

// The bounds of what a fleet makes us keep.
const (
	maxGone    = 100_000             // unbans, and as many disallowances
	goneFor    = 30 * 24 * time.Hour // how long they are remembered of what had no end
	maxWaiting = 10_000              // bans of others beyond their rate
	rateOfOne  = 2                   // how many times policy.ban_rate a minute are taken of one node: its own, and those its guard has held
	rateOfAll  = 20                  // and of all nodes together
	fleetSkew  = 2 * time.Second     // between Redis' clock and ours is worth a word
)

// A member is the decision loop's part of a fleet.
type member struct {
	node string      // what others know us by
	id   string      // the part of it that is kept over a restart
	from fleet.Place // how far the log counts
	lost bool        // that was not known when we began

	gone    map[what]gone              // what was taken back
	untold  map[netip.Prefix]time.Time // bans that others' failures completed, which others are likely to tell of: when we do
	waiting map[netip.Prefix]fleet.Statement
	order   []netip.Prefix // of waiting; a prefix that was taken back and waits again stands there twice
	minute  int64          // that counts are of
	counts  map[string]int // bans taken in this minute, by node
	total   int
	missed  bool // something was not taken that may be later: a never-ban entry spared it, or there was no room
	resync  time.Time
}

// what is a ban or an allowance.
type what struct {
	shelf  ledger.Shelf
	prefix netip.Prefix
}

// A gone is what was taken back, as long as another node may not know that.
type gone struct {
	Prefix netip.Prefix `json:"prefix"`
	Stamp  int64        `json:"stamp"`
	Node   string       `json:"node"`
	Until  time.Time    `json:"until"`
	By     string       `json:"by,omitempty"`
	Local  bool         `json:"local,omitempty"`
}

// A fleetPlace is what is sealed with the journal: who we are, and how far the fleet's log counts.
type fleetPlace struct {
	ID string `json:"id,omitempty"`
	fleet.Place

	Lost bool `json:"lost,omitempty"` // there was a place, most likely, and it is not known
}

func (l *loop) fleetPlace() fleetPlace {
	m := &l.member
	return fleetPlace{ID: m.id, Place: m.from, Lost: m.lost && m.from == fleet.Place{}}
}

// openFleet makes our part of the fleet, if there is one to be in. It starts nothing.
func (d *Daemon) openFleet(from fleetPlace) error {
	c := &d.cfg().Fleet
	if !c.On() {
		return nil
	}
	addrs, db, _, err := c.Addresses()
	if err != nil {
		return fmt.Errorf("fleet.redis: %w", err)
	}
	secure, err := c.TLSConfig()
	if err != nil {
		return err
	}
	l := d.loop
	name := c.Node
	if name == "" {
		host, _ := os.Hostname()
		name = nodeName(host)
	}
	if from.ID == "" {
		from.ID = fmt.Sprintf("%06x", rand.N(1<<24))
	}
	l.member = member{
		node: name + "-" + from.ID, id: from.ID, from: from.Place, lost: from.Lost, gone: l.member.gone, untold: make(map[netip.Prefix]time.Time),
		waiting: make(map[netip.Prefix]fleet.Statement), counts: make(map[string]int),
	}
	// Under which name we speak is on disk before we do: to another one, our own failures are another node's.
	l.seal(d.started)
	if err := d.ledger.Flush(); err != nil {
		d.log.Error("what others know this node by is not on disk", "node", l.member.node, "error", err)
	}
	d.fleet = fleet.New(fleet.Options{
		Addrs: addrs, DB: db, Username: c.Username, Password: string(c.Password), TLS: secure, Sentinel: c.Sentinel, Cluster: c.Cluster,
		Name: c.Name, Node: l.member.node, From: from.Place, FromEnd: from.Lost,
		Take: d.takeFleet, Current: d.current, Self: d.self, Changed: d.onFleet, Pace: d.opts.pace,
	})
	d.metrics.ofFleet(table{d.registry}, d)
	return nil
}

// nodeName returns a host's name as it can stand in Redis.
func nodeName(host string) string {
	host, _, _ = strings.Cut(host, ".")
	host = strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return r
		}
		return -1
	}, host)
	host = strings.TrimLeft(host[:min(len(host), 60)], "-_")
	if host == "" {
		return "node"
	}
	return host
}

// sharesFailures tells whether nodes count each other's failures.
func (d *Daemon) sharesFailures() bool {
	return d.fleet != nil && d.cfg().Fleet.Share == config.ShareFailures
}

// takeFleet runs in the fleet's reader: the loop does what others say, a batch at a time.
func (d *Daemon) takeFleet(ctx context.Context, b fleet.Batch) error {
	return d.do(ctx, func(l *loop) { l.takeBatch(&b, time.Now()) })
}

func (l *loop) takeBatch(b *fleet.Batch, now time.Time) {
	taken, never := 0, false
	for i := range b.Statements {
		s := &b.Statements[i]
		switch s.What {
		case fleet.Ban:
			if l.takeBan(s, b.Sync, now) {
				taken++
			}
		case fleet.Unban:
			l.takeUnban(s)
		case fleet.Allow:
			never = l.takeAllow(s, now) || never
		case fleet.Disallow:
			never = l.takeDisallow(s) || never
		case fleet.Known:
			l.takeKnown(s, now)
		case fleet.Attempt:
			l.takeAttempt(s, now)
		}
	}
	if never {
		l.setNeverBan()
	}
	if taken > 0 && b.Sync {
		l.log.Info("bans taken over from the fleet", "bans", taken)
	}
	if b.Place != (fleet.Place{}) && b.Place != l.member.from {
		l.member.from, l.changed = b.Place, true
	}
}

// stampOf returns when it was last said whether prefix is banned, or allowed, as far as is known here.
func (l *loop) stampOf(shelf ledger.Shelf, prefix netip.Prefix) (stamp int64, node string) {
	g := l.member.gone[what{shelf, prefix}]
	stamp, node = g.Stamp, g.Node
	var there int64
	var by string
	if shelf == ledger.Unbanned {
		if b, ok := l.ledger.Get(prefix); ok {
			there, by = l.stampOfBan(&b), b.Node
		}
	} else if a, ok := l.allowed[prefix]; ok {
		there, by = l.stampOfAllowance(&a), a.Node
	}
	if there > stamp {
		return there, by
	}
	return stamp, node
}

// stampOfBan returns when a ban was said. One from before there was a fleet counts as said when it began; one found in the
// kernel is older than whatever is said of it.
func (l *loop) stampOfBan(b *ledger.Ban) int64 {
	switch {
	case b.Stamp != 0:
		return b.Stamp
	case b.Rule == ruleKernel:
		return 1
	}
	return l.fleet.StampOf(b.Since)
}

func (l *loop) stampOfAllowance(a *Allowance) int64 {
	if a.Stamp != 0 {
		return a.Stamp
	}
	return l.fleet.StampOf(a.Since)
}

// news tells whether s is newer than what is known here of its prefix. What we said ourselves, with a clock that was ahead,
// Redis has given an earlier stamp: that one holds.
func (l *loop) news(shelf ledger.Shelf, s *fleet.Statement) bool {
	stamp, node := l.stampOf(shelf, s.Prefix)
	if s.Stamp != stamp {
		return s.Stamp > stamp
	}
	return s.Node != node // at the same microsecond: Redis has chosen
}

// echo takes the stamp that Redis has given to a statement, if it is our own.
func (l *loop) echo(s *fleet.Statement) {
	if s.Node != l.member.node {
		return
	}
	at := what{ledger.Unbanned, s.Prefix}
	if s.What == fleet.Disallow {
		at.shelf = ledger.Disallowed
	}
	switch s.What {
	case fleet.Ban:
		if b, ok := l.ledger.Get(s.Prefix); ok && b.Node == s.Node && b.Stamp > s.Stamp {
			l.ledger.Sign(s.Prefix, s.Node, s.Stamp)
		}
	case fleet.Allow:
		if a, ok := l.allowed[s.Prefix]; ok && a.Node == s.Node && a.Stamp > s.Stamp {
			a.Stamp = s.Stamp
			l.keepAllowance(&a)
		}
	case fleet.Unban, fleet.Disallow:
		if g, ok := l.member.gone[at]; ok && g.Node == s.Node && g.Stamp > s.Stamp {
			g.Stamp = s.Stamp
			l.remember(at, g)
		}
	}
}

// takeBan bans what another node has banned, and tells whether it did. Each node's own never-ban list holds.
func (l *loop) takeBan(s *fleet.Statement, sync bool, now time.Time) bool {
	if !l.news(ledger.Unbanned, s) {
		if !sync {
			l.echo(s)
		}
		return false
	}
	b := ledger.Ban{
		Prefix: s.Prefix, Since: s.Since, Until: s.Until, Rule: s.Rule, Attempts: s.Count, Offence: s.Offence, By: s.By, Reason: s.Reason,
		Node: s.Node, Stamp: s.Stamp, Source: policy.Fleet,
	}
	_ = b.Source.UnmarshalText([]byte(s.Source)) // one that we do not know stays the fleet's
	if b.Since.IsZero() {
		b.Since = now
	}
	old, there := l.ledger.Get(b.Prefix)
	if b.Over(now) {
		if there {
			l.drop(old, causeFleet, s.By)
		}
		return false
	}
	narrowest := l.cfg().Policy.IPv6Prefix
	if b.Prefix.Addr().Is4() {
		narrowest = l.cfg().Policy.IPv4Prefix
	}
	if b.Rule != ruleOperator && b.Prefix.Bits() < narrowest {
		l.fleet.Refuse(fleet.TooWide)
		return false
	}
	if _, never := l.engine.NeverBan().Match(b.Prefix); never {
		l.fleet.Refuse(fleet.NeverBan)
		l.member.missed = true
		return false
	}
	if !there && !sync && b.Rule != ruleOperator && s.Node != l.member.node && !l.mayTake(s, now) {
		return false
	}
	v4, v6 := l.ledger.Count()
	if is4 := b.Prefix.Addr().Is4(); !there && (is4 && v4 >= l.cfg().Firewall.MaxBans || !is4 && v6 >= l.cfg().Firewall.MaxBans) {
		l.fleet.Refuse(fleet.Full)
		l.member.missed = true
		return false
	}
	l.unremember(what{ledger.Unbanned, b.Prefix})
	delete(l.member.untold, b.Prefix)
	if there && old.Node == b.Node && old.Since.Sub(b.Since).Abs() < time.Second { // our own, or known already
		if kept, err := l.ledger.Load(b.Prefix); err == nil {
			b.Evidence = kept.Evidence
		}
	}
	l.ledger.Add(b)
	l.enforcer.Ban(b.Prefix, b.Until, firewall.Cause{Read: now})
	if b.Offence > 0 && b.Rule != ruleOperator {
		if o, ok := l.engine.Offence(b.Prefix); !ok || o.Count <= b.Offence {
			l.engine.SetOffence(policy.Offence{Prefix: b.Prefix, Count: b.Offence, Since: b.Since, Until: b.Until})
			l.keepOffence(b.Prefix)
		}
	}
	if !sync {
		l.log.Info("banned", "addr", b.Prefix, "rule", b.Rule, "attempts", b.Attempts, "bantime", bantime(&b), "source", b.Source, "node", b.Node, text("by", b.By))
	}
	return true
}

// mayTake tells whether a ban by a rule of another node may be made now. What is too much in this minute waits for the next.
func (l *loop) mayTake(s *fleet.Statement, now time.Time) bool {
	m := &l.member
	if minute := now.Unix() / 60; minute != m.minute {
		m.minute, m.total = minute, 0
		clear(m.counts)
	}
	rate := l.cfg().Policy.BanRate
	if rate == 0 || m.counts[s.Node] < rateOfOne*rate && m.total < rateOfAll*rate {
		m.counts[s.Node]++
		m.total++
		return true
	}
	if _, there := m.waiting[s.Prefix]; !there {
		l.fleet.Refuse(fleet.Rate)
		if len(m.order) >= maxWaiting {
			m.missed = true
			return false
		}
		m.order = append(m.order, s.Prefix)
	}
	m.waiting[s.Prefix] = *s
	return false
}

// takeWaiting makes the bans of others that have waited, as far as their rate allows it now.
func (l *loop) takeWaiting(now time.Time) {
	m := &l.member
	if now.Unix()/60 == m.minute || len(m.order) == 0 {
		return
	}
	order := m.order
	m.order = nil
	for _, p := range order {
		if s, ok := m.waiting[p]; ok {
			delete(m.waiting, p)
			l.takeBan(&s, false, now)
		}
	}
}

// takeUnban ends a ban because another node did.
func (l *loop) takeUnban(s *fleet.Statement) {
	delete(l.member.waiting, s.Prefix)
	if !l.news(ledger.Unbanned, s) {
		l.echo(s)
		return
	}
	l.remember(what{ledger.Unbanned, s.Prefix}, gone{Stamp: s.Stamp, Node: s.Node, Until: s.Until, By: s.By})
	delete(l.member.untold, s.Prefix)
	if b, there := l.ledger.Get(s.Prefix); there {
		l.forget(b.Prefix)
		b.Node = s.Node
		l.drop(b, causeFleet, s.By)
	}
}

func (l *loop) takeAllow(s *fleet.Statement, now time.Time) (changed bool) {
	if !l.news(ledger.Disallowed, s) {
		l.echo(s)
		return false
	}
	a := Allowance{Prefix: s.Prefix, By: s.By, Reason: s.Reason, Since: s.Since, Until: s.Until, Node: s.Node, Stamp: s.Stamp}
	if !a.Until.IsZero() && !a.Until.After(now) {
		return false
	}
	if _, there := l.allowed[a.Prefix]; !there && len(l.allowed) >= maxAllowed {
		l.fleet.Refuse(fleet.Full)
		return false
	}
	l.unremember(what{ledger.Disallowed, a.Prefix})
	l.keepAllowance(&a)
	l.spareAdopted(a.Prefix)
	l.log.Info("allowed", "addr", a.Prefix, "until", end(a.Until), text("reason", a.Reason), "by", a.By, "node", a.Node)
	return true
}

func (l *loop) keepAllowance(a *Allowance) {
	if err := l.ledger.Keep(ledger.Allowed, a.Prefix, a); err != nil {
		l.log.Error("an allowance is not on disk", "addr", a.Prefix, "error", err)
	}
	l.allowed[a.Prefix] = *a
}

func (l *loop) takeDisallow(s *fleet.Statement) (changed bool) {
	if !l.news(ledger.Disallowed, s) {
		l.echo(s)
		return false
	}
	l.remember(what{ledger.Disallowed, s.Prefix}, gone{Stamp: s.Stamp, Node: s.Node, Until: s.Until, By: s.By})
	if _, there := l.allowed[s.Prefix]; !there {
		return false
	}
	l.dropAllowance(s.Prefix)
	l.log.Info("allowed no more", "addr", s.Prefix, "by", s.By, "node", s.Node)
	return true
}

// takeKnown makes an address known-good from which somebody has logged in at another node.
func (l *loop) takeKnown(s *fleet.Statement, now time.Time) {
	if !l.sharesFailures() || s.Node == l.member.node {
		return
	}
	if want := l.cfg().Policy.IPv6Prefix; s.Prefix.Addr().Is4() && !s.Prefix.IsSingleIP() || s.Prefix.Addr().Is6() && s.Prefix.Bits() != want {
		l.fleet.Refuse(fleet.TooWide)
		return
	}
	addr := s.Prefix.Addr()
	if b, banned := l.ledger.Get(l.engine.Prefix(addr)); banned && !b.Over(now) {
		return
	}
	if g, ok := l.engine.KnownGood(addr); ok && (!g.Suspected.IsZero() || !g.Last.Before(s.Last)) {
		return
	}
	l.engine.SetKnown(policy.KnownGood{Prefix: s.Prefix, Since: s.Since, Last: s.Last})
	l.keepKnown(addr)
}

// takeAttempt counts what was tried at another node.
func (l *loop) takeAttempt(s *fleet.Statement, now time.Time) {
	if !l.sharesFailures() || s.Node == l.member.node {
		return
	}
	l.metrics.attempts[policy.Fleet][s.Attempt.Kind].Add(float64(s.Times))
	for range s.Times {
		l.count(&sighting{Attempt: s.Attempt, read: now})
	}
}

// sign puts our name under a ban that we make, and tells whether others are to be told of it now.
func (l *loop) sign(b *ledger.Ban, now time.Time) (tell bool) {
	switch {
	case l.fleet == nil || b.Rule == ruleKernel:
		return false
	case b.Source == policy.Fleet && b.Rule != ruleOperator:
		// Every node sees these failures, and the one where the last of them happened tells of the ban.
		b.Node = l.member.node
		l.member.untold[b.Prefix] = now.Add(time.Second + rand.N(2*time.Second))
		return false
	}
	b.Node, b.Stamp = l.member.node, l.fleet.Stamp()
	l.unremember(what{ledger.Unbanned, b.Prefix})
	delete(l.member.waiting, b.Prefix)
	return !b.Local
}

// tellBan says that a prefix is banned.
func (l *loop) tellBan(b *ledger.Ban) { l.fleet.Say(statementOf(b)) }

func statementOf(b *ledger.Ban) fleet.Statement {
	return fleet.Statement{
		What: fleet.Ban, Prefix: b.Prefix, Stamp: b.Stamp, Node: b.Node, Since: b.Since, Until: b.Until, Rule: b.Rule, Source: b.Source.String(),
		By: b.By, Reason: b.Reason, Count: b.Attempts, Offence: b.Offence,
	}
}

// tellUntold says of the bans that others' failures completed those that nobody else has told of.
func (l *loop) tellUntold(now time.Time) {
	for p, at := range l.member.untold {
		if at.After(now) {
			continue
		}
		delete(l.member.untold, p)
		if b, ok := l.ledger.Get(p); ok && b.Stamp == 0 && !b.Local && !b.Over(now) {
			b.Stamp = l.fleet.Stamp()
			l.ledger.Sign(p, l.member.node, b.Stamp)
			l.tellBan(&b)
		}
	}
}

// tellUnban says that a prefix is not banned any more, and remembers it; with local it is only remembered.
func (l *loop) tellUnban(b *ledger.Ban, by string, local bool) {
	if l.fleet == nil {
		return
	}
	g := gone{Stamp: l.fleet.Stamp(), Node: l.member.node, Until: b.Until, By: by, Local: local}
	l.remember(what{ledger.Unbanned, b.Prefix}, g)
	delete(l.member.untold, b.Prefix)
	if !local {
		l.fleet.Say(fleet.Statement{What: fleet.Unban, Prefix: b.Prefix, Stamp: g.Stamp, Node: g.Node, Until: l.untilOf(&g), By: by})
	}
}

func (l *loop) tellAllow(a *Allowance) {
	if l.fleet == nil {
		return
	}
	a.Node, a.Stamp = l.member.node, l.fleet.Stamp()
	l.unremember(what{ledger.Disallowed, a.Prefix})
	if !a.Local {
		l.fleet.Say(statementOfAllowance(a))
	}
}

func statementOfAllowance(a *Allowance) fleet.Statement {
	return fleet.Statement{What: fleet.Allow, Prefix: a.Prefix, Stamp: a.Stamp, Node: a.Node, Since: a.Since, Until: a.Until, By: a.By, Reason: a.Reason}
}

func (l *loop) tellDisallow(a *Allowance, by string, local bool) {
	if l.fleet == nil {
		return
	}
	g := gone{Stamp: l.fleet.Stamp(), Node: l.member.node, Until: a.Until, By: by, Local: local}
	l.remember(what{ledger.Disallowed, a.Prefix}, g)
	if !local {
		l.fleet.Say(fleet.Statement{What: fleet.Disallow, Prefix: a.Prefix, Stamp: g.Stamp, Node: g.Node, Until: l.untilOf(&g), By: by})
	}
}

// tellAttempt shares what counts here, where failures are shared.
func (l *loop) tellAttempt(a *policy.Attempt) {
	if !l.sharesFailures() || a.Source == policy.Fleet || a.Kind != policy.AuthFailure && a.Kind != policy.Violation {
		return
	}
	l.fleet.Say(fleet.Statement{
		What: fleet.Attempt, Prefix: netip.PrefixFrom(a.Addr, a.Addr.BitLen()), Stamp: l.fleet.Stamp(), Node: l.member.node, Attempt: *a, Times: 1,
	})
}

// tellKnown shares that an address is known-good.
func (l *loop) tellKnown(g *policy.KnownGood) {
	if l.sharesFailures() && !g.Since.IsZero() && g.Suspected.IsZero() {
		l.fleet.Say(l.statementOfKnown(g))
	}
}

func (l *loop) statementOfKnown(g *policy.KnownGood) fleet.Statement {
	return fleet.Statement{What: fleet.Known, Prefix: g.Prefix, Stamp: l.fleet.StampOf(g.Last), Node: l.member.node, Since: g.Since, Last: g.Last}
}

// remember keeps what was taken back until nobody can know it otherwise any more.
func (l *loop) remember(at what, g gone) {
	g.Prefix = at.prefix
	g.Until = l.untilOf(&g)
	if _, there := l.member.gone[at]; !there && len(l.member.gone) >= 2*maxGone {
		l.forgetGone(maxGone / 10)
	}
	l.member.gone[at] = g
	if err := l.ledger.Keep(at.shelf, at.prefix, g); err != nil {
		l.log.Error("an unban is not on disk", "addr", at.prefix, "error", err)
	}
}

// untilOf returns when a thing that was taken back is forgotten.
func (l *loop) untilOf(g *gone) time.Time {
	if limit := time.Now().Add(goneFor); g.Until.IsZero() || g.Until.After(limit) {
		return limit
	}
	return g.Until
}

func (l *loop) unremember(at what) {
	if _, there := l.member.gone[at]; there {
		delete(l.member.gone, at)
		_ = l.ledger.Keep(at.shelf, at.prefix, nil) // nil can always be kept
	}
}

// forgetGone makes room: those go that would go first.
func (l *loop) forgetGone(n int) {
	type entry struct {
		what
		until time.Time
	}
	list := make([]entry, 0, len(l.member.gone))
	for at, g := range l.member.gone {
		list = append(list, entry{at, g.Until})
	}
	slices.SortFunc(list, func(a, b entry) int { return a.until.Compare(b.until) })
	for _, e := range list[:min(n, len(list))] {
		l.unremember(e.what)
	}
}

// restoreGone takes up what an earlier process remembered.
func (l *loop) restoreGone() {
	l.member.gone = make(map[what]gone)
	for _, shelf := range []ledger.Shelf{ledger.Unbanned, ledger.Disallowed} {
		unreadable, err := l.ledger.Records(shelf, func(record []byte) error {
			var g gone
			if err := json.Unmarshal(record, &g); err != nil {
				return err
			}
			if g.Prefix.IsValid() && g.Until.After(l.started) {
				l.member.gone[what{shelf, g.Prefix}] = g
			}
			return nil
		})
		l.missing(string(shelf), unreadable, err)
	}
}

// tickFleet does what is due every second.
func (l *loop) tickFleet(now time.Time) {
	if l.fleet == nil {
		return
	}
	m := &l.member
	l.tellUntold(now)
	l.takeWaiting(now)
	if m.missed && len(m.waiting) == 0 && now.After(m.resync) {
		// Whom a never-ban entry spared, or for whom there was no room, may be banned by now.
		m.missed, m.resync = false, now.Add(5*time.Minute)
		l.fleet.Resync()
	}
	l.waiting.Store(int64(len(m.waiting)))
	if now.Unix()%60 == 0 {
		for at, g := range m.gone {
			if !g.Until.After(now) {
				l.unremember(at)
			}
		}
	}
}

// current goes through all that others may have to know. It runs in the fleet's reader.
func (d *Daemon) current(ctx context.Context, yield func(fleet.Statement)) error {
	var list []fleet.Statement
	err := d.do(ctx, func(l *loop) {
		for at, g := range l.member.gone {
			s := fleet.Statement{What: fleet.Unban, Prefix: at.prefix, Stamp: g.Stamp, Node: g.Node, Until: g.Until, By: g.By}
			if at.shelf == ledger.Disallowed {
				s.What = fleet.Disallow
			}
			if !g.Local {
				list = append(list, s)
			}
		}
		for _, a := range l.allowed {
			if !a.Local {
				a.Stamp, a.Node = l.stampOfAllowance(&a), orOwn(a.Node, l.member.node)
				list = append(list, statementOfAllowance(&a))
			}
		}
		if d.sharesFailures() {
			for g := range l.engine.Known() {
				if !g.Since.IsZero() && g.Suspected.IsZero() {
					list = append(list, l.statementOfKnown(&g))
				}
			}
		}
	})
	if err != nil {
		return err
	}
	now := time.Now()
	for _, b := range d.ledger.List() {
		if b.Local || b.Rule == ruleKernel || b.Over(now) {
			continue
		}
		b.Stamp, b.Node = d.loop.stampOfBan(&b), orOwn(b.Node, d.loop.member.node)
		yield(statementOf(&b))
	}
	for _, s := range list {
		yield(s)
	}
	return nil
}

func orOwn(node, own string) string {
	if node == "" {
		return own
	}
	return node
}

// self is what others are told of this node.
func (d *Daemon) self() fleet.Node {
	v4, v6 := d.ledger.Count()
	n := fleet.Node{Version: d.opts.Version, Started: d.started, Ready: len(d.unready()) == 0, Bans: v4 + v6, Share: d.cfg().Fleet.Share}
	for k := range policy.NumKinds {
		if s := d.speaking[k].Load(); s > 0 {
			if name := policy.Source(s - 1).String(); !slices.Contains(n.Speaks, name) {
				n.Speaks = append(n.Speaks, name)
			}
		}
	}
	return n
}

// onFleet says where Redis has come or gone.
func (d *Daemon) onFleet(s fleet.Status) {
	switch {
	case s.Up:
		d.log.Info("the fleet is there", "name", d.cfg().Fleet.Name, "redis", d.cfg().Fleet.Redis, "nodes", s.Nodes)
		if s.Skew.Abs() > fleetSkew {
			d.log.Warn("Redis' clock and ours differ", "skew", s.Skew.Round(time.Millisecond))
		}
	case s.Err != nil:
		d.log.Warn("the fleet is away: this node goes on alone, and tells later what it does now", "error", s.Err, "to_be_told", s.Queue)
	}
}

// fleetStatus tells of the fleet, and what of it needs a human.
func (a api) fleetStatus(ctx context.Context) (*control.Fleet, []string) {
	if a.fleet == nil {
		return nil, nil
	}
	c, s := &a.cfg().Fleet, a.fleet.Status()
	f := &control.Fleet{
		Name: c.Name, Redis: c.Redis, Share: c.Share, Node: a.loop.member.node, Up: s.Up, Since: s.Since, InStep: s.InStep,
		Queue: s.Queue, Behind: s.Behind, Waiting: int(a.waiting.Load()), Skew: s.Skew, Nodes: []control.FleetNode{},
	}
	var list []string
	problem := func(format string, args ...any) { list = append(list, "fleet: "+fmt.Sprintf(format, args...)) }
	if s.Err != nil {
		f.Error = s.Err.Error()
		problem("this node is alone: %v", s.Err)
	} else {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		nodes, err := a.fleet.Nodes(ctx)
		if err != nil {
			f.Error = err.Error()
		}
		for _, n := range nodes {
			f.Nodes = append(f.Nodes, control.FleetNode{
				Name: n.Name, Version: n.Version, Started: n.Started, Seen: n.Seen, Ready: n.Ready, Bans: n.Bans, Speaks: n.Speaks, Share: n.Share,
			})
			if n.Share != c.Share {
				problem("%s shares %.20q, this node %s (fleet.share)", n.Name, n.Share, c.Share)
			}
		}
	}
	if s.Clash {
		problem("another node is called %s, too: is its state directory a copy of this one? Remove fsban.db there", f.Node)
	}
	if s.Skew.Abs() > fleetSkew {
		problem("Redis' clock is %v ahead of ours: ends of bans are the same all the same, times in lists are not", s.Skew.Round(time.Millisecond))
	}
	if s.Full > 0 {
		problem("%d statements found no room in Redis: it has a million of a kind", s.Full)
	}
	if s.Dropped > 0 {
		problem("%d things found no room in the queue: what of them is in force is told later", s.Dropped)
	}
	if f.Waiting > 0 {
		problem("%d bans of other nodes wait: more came than %d times policy.ban_rate a minute from one node, or %d from all", f.Waiting, rateOfOne, rateOfAll)
	}
	return f, list
}
