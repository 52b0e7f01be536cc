package decide

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"fsban/decide/book"
	"fsban/firewall"
	"fsban/fleet/merge"
	"fsban/ledger"
	"fsban/policy"
)

// mailbox is an outbox with the clock of its night.
type mailbox struct {
	n         *night
	announced []merge.Statement
	last      int64
}

func (m *mailbox) Announce(s merge.Statement) { m.announced = append(m.announced, s) }
func (m *mailbox) StampOf(t time.Time) int64  { return t.UnixMicro() }
func (m *mailbox) Refuse(merge.Refusal)       {}
func (*mailbox) Step(time.Duration)           {}
func (m *mailbox) Resync()                    {}
func (m *mailbox) Stamp() int64 {
	m.last = max(m.last+1, m.n.now.UnixMicro())
	return m.last
}

// newMember returns a night that is a node of a fleet whose nodes share failures.
func newMember(t *testing.T) (*night, *mailbox) {
	n := newNight(t, func(o *Options) { o.Settings.ShareFailures = true })
	m := &mailbox{n: n}
	n.fleet.node = "a-1"
	n.Join(m)
	return n, m
}

// fail is a failure at a time, made here or announced by another node.
func (n *night) fail(remote bool, at time.Time) {
	a := policy.Attempt{Addr: attacker, At: at, Kind: policy.AuthFailure, User: "1000"}
	if !remote {
		n.sequence.Count(&a, n.now)
		return
	}
	a.Source = policy.Fleet
	n.takeBatch(&merge.Batch{Statements: []merge.Statement{{Kind: merge.Attempt, Prefix: netip.PrefixFrom(attacker, 32), Stamp: at.UnixMicro(), Node: "b-1", Attempt: a}}}, n.now)
}

var attackers = netip.PrefixFrom(attacker, 32)

// Failures from before a withdrawal, read after it, do not lead to the ban again.
func TestFailuresFromBeforeAWithdrawalDoNotCount(t *testing.T) {
	for name, withdraw := range map[string]func(*night){
		"by an operator of another node": func(n *night) {
			n.takeBatch(&merge.Batch{Sync: true, Statements: []merge.Statement{{
				Kind: merge.Unban, Prefix: attackers, Stamp: n.now.UnixMicro(), Node: "c-1", Until: n.now.Add(30 * 24 * time.Hour), By: "anna",
			}}}, n.now)
		},
		"by an operator of another node, of a wider prefix": func(n *night) {
			n.takeBatch(&merge.Batch{Sync: true, Statements: []merge.Statement{{
				Kind: merge.Unban, Prefix: netip.MustParsePrefix("198.51.100.0/24"), Stamp: n.now.UnixMicro(), Node: "c-1", Until: n.now.Add(time.Hour), By: "anna",
			}}}, n.now)
		},
		"by an operator here": func(n *night) {
			b := ledger.Ban{Prefix: attackers, Since: n.now, Until: n.now.Add(time.Hour), Rule: book.RuleOperator, Source: policy.Operator}
			if err := n.book.Ban(book.Entry{Ban: b, Origin: book.ByOperator, Cause: firewall.Cause{Read: n.now}}); err != nil {
				n.t.Fatal(err)
			}
			n.book.Unban(b, book.Order{By: "anna"})
		},
	} {
		for _, remote := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, remote failures: %v", name, remote), func(t *testing.T) {
				n, m := newMember(t)
				began := n.now
				n.pass(10 * time.Second)
				withdraw(n)
				n.pass(2 * time.Minute) // beyond the grace
				for i := range 20 {
					n.fail(remote, began.Add(time.Duration(i)*time.Millisecond))
				}
				n.pass(10 * time.Second)
				if n.banned(attacker) || slices.ContainsFunc(m.announced, func(s merge.Statement) bool { return s.Kind == merge.Ban && s.Rule != book.RuleOperator }) {
					t.Fatalf("banned by failures from before the withdrawal, announced: %+v", m.announced)
				}
				for i := range 5 {
					n.fail(remote, n.now.Add(time.Duration(i)*time.Millisecond))
				}
				if !n.banned(attacker) {
					t.Error("five failures after the withdrawal do not ban")
				}
			})
		}
	}
}

// The clock was set back after a withdrawal: its stamp lies ahead, and excuses nothing.
func TestAWithdrawalOfALaterTimeExcusesNothing(t *testing.T) {
	n, _ := newMember(t)
	n.takeBatch(&merge.Batch{Statements: []merge.Statement{{
		Kind: merge.Unban, Prefix: attackers, Stamp: n.now.Add(2 * time.Hour).UnixMicro(), Node: "c-1", Until: n.now.Add(24 * time.Hour), By: "anna",
	}}}, n.now)
	n.pass(2 * time.Minute)
	for range 5 {
		n.fail(false, n.now)
	}
	if !n.banned(attacker) {
		t.Error("five failures do not ban")
	}
}

// A peer's withdrawal of a ban that is not in force here resets its counts and discards a held ban.
func TestAPeersWithdrawalResetsCounts(t *testing.T) {
	for name, prepare := range map[string]func(*night){
		"four failures": func(n *night) {
			for range 4 {
				n.fail(true, n.now)
			}
		},
		"a held ban": func(n *night) {
			for i := range 2 { // the second is held by the ban rate
				for range 5 {
					n.try(policy.AuthFailure, nth(i), "1000")
				}
			}
			for range 5 {
				n.fail(false, n.now)
			}
			if len(n.engine.Held()) != 2 {
				n.t.Fatalf("held: %+v", n.engine.Held())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, _ := newMember(t)
			o := n.settings
			o.Policy.BanRate = 1
			n.engine.SetRules(o.Rules, o.Policy)
			prepare(n)
			n.now = n.now.Add(time.Second)
			n.takeBatch(&merge.Batch{Statements: []merge.Statement{{
				Kind: merge.Unban, Prefix: attackers, Stamp: n.now.UnixMicro(), Node: "c-1", Until: n.now.Add(24 * time.Hour), By: "anna",
			}}}, n.now)
			n.pass(2 * time.Minute) // beyond the grace, within findtime
			n.fail(false, n.now)
			if n.pass(5 * time.Minute); n.banned(attacker) {
				t.Error("banned by what was counted before the withdrawal")
			}
		})
	}
}

// Eight failures, two minutes apart, that another node announces late.
func TestRemoteFailuresCountAtTheirOwnTimes(t *testing.T) {
	for gap, want := range map[time.Duration]bool{2 * time.Minute: false, time.Second: true} {
		n, _ := newMember(t)
		s := merge.Statement{Kind: merge.Attempt, Prefix: attackers, Stamp: n.now.UnixMicro(), Node: "b-1", Attempt: policy.Attempt{
			Addr: attacker, At: n.now, Kind: policy.AuthFailure, Source: policy.Fleet, User: "1000",
		}}
		for i := 7; i > 0; i-- {
			s.Earlier = append(s.Earlier, n.now.Add(-time.Duration(i)*gap))
		}
		n.takeBatch(&merge.Batch{Statements: []merge.Statement{s}}, n.now)
		if n.banned(attacker) != want {
			t.Errorf("eight failures %v apart: banned %v", gap, !want)
		}
	}
}

// A ban of another node ends known-good here, however it arrives, and an announcement from before the ban does not bring it back.
func TestAPeersBanEndsKnownGood(t *testing.T) {
	for name, tc := range map[string]struct {
		prefix, rule string
		sync         bool
	}{
		"news": {"203.0.113.5/32", "auth", false}, "state": {"203.0.113.5/32", "auth", true}, "an operator's, wider": {"203.0.112.0/22", "operator", false},
		"an operator's of 256 addresses": {"203.0.113.0/24", "operator", false},
	} {
		t.Run(name, func(t *testing.T) {
			n, m := newMember(t)
			n.try(policy.AuthSuccess, office, "1000")
			n.try(policy.AuthSuccess, nth(1), "1000")
			known := m.announced[0]
			known.Node = "b-1"
			n.now = n.now.Add(time.Second)
			n.takeBatch(&merge.Batch{Sync: tc.sync, Statements: []merge.Statement{{
				Kind: merge.Ban, Prefix: netip.MustParsePrefix(tc.prefix), Stamp: n.now.UnixMicro(), Node: "b-1", Since: n.now, Until: n.now.Add(time.Minute), Rule: tc.rule, Offence: 1,
			}}}, n.now)
			if _, ok := n.engine.KnownGood(office); ok {
				t.Error("still known-good")
			}
			if _, ok := n.engine.KnownGood(nth(1)); !ok {
				t.Error("another address is not known-good any more")
			}
			n.pass(2 * time.Minute)
			n.takeBatch(&merge.Batch{Sync: true, Statements: []merge.Statement{known}}, n.now)
			if _, ok := n.engine.KnownGood(office); ok && tc.rule != book.RuleOperator {
				t.Error("known-good again by a login from before the ban")
			}
			known.Last = n.now
			n.takeBatch(&merge.Batch{Statements: []merge.Statement{known}}, n.now)
			if _, ok := n.engine.KnownGood(office); !ok {
				t.Error("not known-good by a login after the ban")
			}
		})
	}
}
