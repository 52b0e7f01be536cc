package book

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"fsban/fleet/merge"
)

// An operator allows an address here, and another node bans it at about the same time: the allowance holds on both nodes, in whichever
// order the two statements are made and arrive.
func TestAnAllowanceHoldsAgainstBansOfOtherNodes(t *testing.T) {
	p := netip.MustParsePrefix("203.0.113.7/32")
	for _, byOperator := range []bool{false, true} {
		for _, later := range []bool{false, true} {
			for _, arrives := range []string{"before", "after", "before and after"} {
				t.Run(fmt.Sprintf("operator %v, made later %v, arrives %s", byOperator, later, arrives), func(t *testing.T) {
					here, there := newRig(t), newRig(t)
					there.SetNode("b-1")
					origin := ByRule
					if byOperator {
						origin = ByOperator
					}
					ban := there.entry(p.String(), origin)
					made := here.now.Add(-time.Second)
					if later {
						made = here.now.Add(time.Second)
					}
					ban.Ban.Since = made
					if err := there.Ban(ban); err != nil {
						t.Fatal(err)
					}
					news := there.outbox.announced[0]
					if byOperator {
						news.Stamp = made.UnixMicro()
					}
					if arrives != "after" {
						here.TakeBan(&news, false, here.now)
					}
					if err := here.Allow(Allowance{Prefix: p, By: "anna", Since: here.now}, false); err != nil {
						t.Fatal(err)
					}
					if arrives != "before" {
						here.TakeBan(&news, false, here.now)
					}
					if here.inForce(p) {
						t.Error("banned where it was allowed")
					}
					for i := range here.outbox.announced {
						s := &here.outbox.announced[i]
						switch s.Kind {
						case merge.Allow:
							if there.TakeAllow(s, false, there.now) {
								there.ApplyNeverBan()
							}
						case merge.Unban:
							there.TakeUnban(s, false, there.now)
						case merge.Ban, merge.Disallow, merge.Known, merge.Attempt:
						}
					}
					if there.inForce(p) {
						t.Error("banned on the node that has banned it")
					}
					if err := there.Ban(there.entry(p.String(), ByRule)); err == nil {
						t.Error("a rule bans it again")
					}
				})
			}
		}
	}
}
