package book

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"fsban/fleet/merge"
	"fsban/policy"
)

// A maker is a way in which a ban comes into force.
type maker struct {
	name            string
	origin          Origin
	operator, local bool
}

var makers = []maker{
	{"a rule here", ByRule, false, false}, {"an operator here", ByOperator, true, false}, {"an operator here, --local", ByOperator, true, true},
	{"a rule of a peer", FromPeer, false, false}, {"an operator of a peer", FromPeer, true, false}, {"an entry of the kernel", InKernel, false, false},
	{"the journal", Replayed, false, false},
}

// make makes the ban of a prefix that ends at until.
func (m *maker) make(r *rig, prefix string, until time.Time) {
	e := r.entry(prefix, m.origin)
	if e.Ban.Until = until; m.operator {
		e.Ban.Rule = RuleOperator
	}
	e.Ban.Local = m.local
	if m.origin != FromPeer {
		r.enter(e)
		return
	}
	s := statementOf(&e.Ban)
	s.Node = "b-1"
	if s.Stamp = r.outbox.Stamp(); !m.operator {
		s.Stamp = merge.RuleStamp(0, r.endStamp(&e.Ban))
	}
	r.TakeBan(&s, false, r.now)
}

// Operators precede rules, local stays local, the longer ban of a kind holds: for each pair of origins, in both orders of length, and
// over a restart.
func TestPrecedenceOfEachPair(t *testing.T) {
	const prefix = "203.0.113.7/32"
	for _, held := range makers {
		for _, next := range makers {
			for _, longer := range []bool{false, true} {
				for _, restart := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s holds, %s is longer: %v, restart: %v", held.name, next.name, longer, restart), func(t *testing.T) {
						r := newRig(t)
						heldUntil, nextUntil := time.Time{}, r.now.Add(time.Hour)
						if longer {
							heldUntil, nextUntil = nextUntil, heldUntil
						}
						held.make(r, prefix, heldUntil)
						if restart {
							r.restart()
						}
						next.make(r, prefix, nextUntil)
						var replaced bool
						switch {
						case next.origin == ByOperator:
							replaced = true
						case next.origin == InKernel || held.local:
						case next.operator:
							replaced = true
						case held.operator:
						default:
							replaced = longer
						}
						want := heldUntil
						if replaced {
							want = nextUntil
						}
						p := netip.MustParsePrefix(prefix)
						b, _ := r.disk.Get(p)
						same := func(end time.Time) bool { // an entry of the kernel has a time that is left
							return end.IsZero() == want.IsZero() && end.Sub(want).Abs() < time.Minute
						}
						if !r.inForce(p) || !same(b.Until) || next.origin != InKernel && !same(r.kernel[p]) {
							t.Errorf("by rule %s until %v, in the kernel until %v, want %v", b.Rule, b.Until, r.kernel[p], want)
						}
					})
				}
			}
		}
	}
}

// No statement of another node ends a ban with --local; an operator here does.
func TestALocalBanEndsHere(t *testing.T) {
	r := newRig(t)
	local := maker{"", ByOperator, true, true}
	local.make(r, "203.0.113.7/32", time.Time{})
	b, _ := r.disk.Get(netip.MustParsePrefix("203.0.113.7/32"))
	r.peerUnbans(b)
	if !r.inForce(b.Prefix) {
		t.Fatal("ended by another node")
	}
	if r.restart(); !r.inForce(b.Prefix) {
		t.Fatal("ended by another node, and a restart")
	}
	if r.Unban(b, Order{By: "root", Local: true}); r.inForce(b.Prefix) {
		t.Error("in force after an order here")
	}
}

// A rule's ban over the fleet is in force again after a withdrawal for this node alone, if it was made after that.
func TestALaterBanHoldsAgainstALocalWithdrawal(t *testing.T) {
	prefix := netip.MustParsePrefix("203.0.113.7/32")
	r := newRig(t)
	peer := maker{"", FromPeer, false, false}
	peer.make(r, prefix.String(), r.now.Add(time.Hour))
	b, _ := r.disk.Get(prefix)
	r.Unban(b, Order{By: "root", Local: true})
	s := statementOf(&b)
	if r.TakeBan(&s, true, r.now); r.inForce(prefix) {
		t.Error("the withdrawn ban is in force again")
	}
	r.now = r.now.Add(10 * time.Minute)
	if peer.make(r, prefix.String(), r.now.Add(time.Hour)); !r.inForce(prefix) {
		t.Error("a later ban is not in force")
	}
}

// Redis holds one statement for each prefix: a withdrawal that a ban had replaced there is announced again when the ban is over.
func TestAWithdrawalIsAnnouncedAgainAfterTheBanThatReplacedIt(t *testing.T) {
	prefix := netip.MustParsePrefix("203.0.113.7/32")
	r := newRig(t)
	if err := r.Ban(r.entry(prefix.String(), ByOperator)); err != nil {
		t.Fatal(err)
	}
	b, _ := r.disk.Get(prefix)
	r.Unban(b, Order{By: "root"})
	e := r.entry(prefix.String(), ByRule)
	e.Ban.Until = r.now.Add(time.Minute)
	if err := r.Ban(e); err != nil {
		t.Fatal(err)
	}
	r.outbox.announced = nil
	r.Expire(r.now.Add(2 * time.Minute))
	if said := r.outbox.announced; len(said) != 1 || said[0].Kind != merge.Unban || said[0].Prefix != prefix {
		t.Errorf("announced: %+v", said)
	}
}

// A node restarts between a ban that remote failures triggered and its announcement. The address was unbanned before: the announcement
// must be later than that.
func TestABanIsAnnouncedAfterARestart(t *testing.T) {
	prefix := netip.MustParsePrefix("203.0.113.7/32")
	r := newRig(t)
	if err := r.Ban(r.entry(prefix.String(), ByOperator)); err != nil {
		t.Fatal(err)
	}
	b, _ := r.disk.Get(prefix)
	r.Unban(b, Order{By: "root"})
	withdrawn := r.outbox.announced[1].Stamp
	e := r.entry(prefix.String(), ByRule)
	e.Ban.Source = policy.Fleet
	if err := r.Ban(e); err != nil || len(r.outbox.announced) != 2 {
		t.Fatalf("%+v, %v", r.outbox.announced, err)
	}
	r.restart()
	if r.Tick(r.now.Add(3 * time.Second)); len(r.outbox.announced) != 1 || r.outbox.announced[0].Stamp <= withdrawn {
		t.Errorf("announced: %+v, not after %d", r.outbox.announced, withdrawn)
	}
}
