package api

import (
	"context"
	"fmt"
	"time"

	"fsban/control"
	"fsban/decide"
	"fsban/fleet/merge"
)

// maxSkew is the difference between Redis' clock and ours that is reported.
const maxSkew = 2 * time.Second

// fleetStatus returns the state of the fleet, nil if there is none, and its open problems.
func (a *API) fleetStatus(ctx context.Context, o *decide.Observed) (*control.Fleet, []string) {
	f := a.parts.Fleet()
	if f == nil {
		return nil, nil
	}
	c, s := &a.parts.Config().Fleet, f.Status()
	st := &control.Fleet{
		Name: c.Name, Redis: c.Redis, Share: c.Share, Node: a.parts.Loop.Node(), Up: s.Up, Since: s.Since, InStep: s.InStep,
		Queue: s.Queue, Behind: s.Behind, Waiting: o.Waiting, Skew: s.Skew, Nodes: []control.FleetNode{},
	}
	var list []string
	problem := func(format string, args ...any) { list = append(list, "fleet: "+fmt.Sprintf(format, args...)) }
	if s.Err != nil {
		st.Error = s.Err.Error()
		problem("this node is alone: %v", s.Err)
	} else {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		nodes, err := f.Nodes(ctx)
		if err != nil {
			st.Error = err.Error()
		}
		for _, n := range nodes {
			st.Nodes = append(st.Nodes, control.FleetNode{
				Name: n.Name, Version: n.Version, Started: n.Started, Seen: n.Seen, Ready: n.Ready, Watching: n.Watching, Bans: n.Bans,
				ActiveSources: n.ActiveSources, Share: n.Share,
			})
			if n.Share != c.Share {
				problem("%s shares %.20q, this node %s (fleet.share)", n.Name, n.Share, c.Share)
			}
		}
	}
	if s.Clash {
		problem("another node is called %s, too: is its state directory a copy of this one? Remove fsban.db there", st.Node)
	}
	if s.Skew.Abs() > maxSkew {
		problem("Redis' clock is %v ahead of ours: ends of bans are the same all the same, times in lists are not",
			s.Skew.Round(time.Millisecond))
	}
	if s.Full > 0 {
		problem("%d statements found no room in Redis: it has a million of a kind", s.Full)
	}
	if s.Dropped > 0 {
		problem("the queue was full, %d statements dropped: bans and allowances in force are announced later", s.Dropped)
	}
	if st.Waiting > 0 {
		problem("%d bans of other nodes wait: more came than %d times policy.ban_rate a minute from one node, or %d from all", st.Waiting,
			merge.RatePerNode, merge.RateTotal)
	}
	return st, list
}
