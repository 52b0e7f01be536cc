package daemon

import (
	"slices"

	"fsban/fleet"
)

// ofFleet exports how the fleet stands. These are there only where one is configured.
func (*metrics) ofFleet(t table, d *Daemon) {
	gauge := func(name, help string, f func(fleet.Status) float64) {
		t.gauge(name, help, func() float64 { return f(d.fleet.Status()) })
	}
	counter := func(name, help string, f func(fleet.Status) uint64) {
		t.counterOf(name, help, func() uint64 { return f(d.fleet.Status()) })
	}
	gauge("fsban_fleet_connected", "1 while the fleet's Redis answers, and takes what this node says.", func(s fleet.Status) float64 { return boolean(s.Up) })
	gauge("fsban_fleet_in_step", "1 while nothing waits to be said to the fleet or to be taken from it.", func(s fleet.Status) float64 { return boolean(s.InStep) })
	gauge("fsban_fleet_nodes", "Nodes of the fleet that were heard in the last 30 s, this one included.", func(s fleet.Status) float64 { return float64(s.Nodes) })
	gauge("fsban_fleet_behind", "Entries of the fleet's log that are not read yet.", func(s fleet.Status) float64 { return float64(s.Behind) })
	gauge("fsban_fleet_queue", "What waits to be said to the fleet.", func(s fleet.Status) float64 { return float64(s.Queue) })
	gauge("fsban_fleet_clock_skew_seconds", "Redis' clock minus ours.", func(s fleet.Status) float64 { return s.Skew.Seconds() })
	t.gauge("fsban_fleet_waiting", "Bans of other nodes that wait because too many came at once.", func() float64 { return float64(d.waiting.Load()) })
	counter("fsban_fleet_queue_dropped_total", "What found no room in the queue. What of it is in force is said later; attempts are lost.", func(s fleet.Status) uint64 { return s.Dropped })
	counter("fsban_fleet_errors_total", "Exchanges with Redis that failed. They are repeated.", func(s fleet.Status) uint64 { return s.Errors })
	counter("fsban_fleet_resyncs_total", "How often all that Redis holds was read: at the start, and where the log had not gone on.", func(s fleet.Status) uint64 { return s.Resyncs })
	counter("fsban_fleet_gaps_total", "Parts of the fleet's log that were gone before they were read: attempts in them are lost.", func(s fleet.Status) uint64 { return s.Gaps })
	counter("fsban_fleet_full_total", "Statements that found no room in Redis.", func(s fleet.Status) uint64 { return s.Full })
	var whats []fleet.What
	for w := range fleet.NumWhat {
		whats = append(whats, w)
	}
	countersOf(t, "fsban_fleet_sent_total", "What this node has said to the fleet.", "what", whats, d.fleet.Sent)
	countersOf(t, "fsban_fleet_received_total", "What other nodes have said.", "what", whats, d.fleet.Received)
	countersOf(t, "fsban_fleet_refused_total", "What other nodes have said and was not taken. rate: it waits.", "reason", fleet.Reasons[:],
		func(reason string) uint64 { return d.fleet.Refused(slices.Index(fleet.Reasons[:], reason)) })
}
