package daemon

import (
	"fsban/fleet"
	"fsban/fleet/merge"
)

// ofFleet registers the metrics of the fleet. They exist only if a fleet is configured.
func (*metrics) ofFleet(t table, d *Daemon) {
	gauge := func(name, help string, f func(fleet.Status) float64) {
		t.gauge(name, help, func() float64 { return f(d.fleet.Status()) })
	}
	counter := func(name, help string, f func(fleet.Status) uint64) {
		t.counterOf(name, help, func() uint64 { return f(d.fleet.Status()) })
	}
	gauge("fsban_fleet_connected", "1 if the fleet's Redis answers and accepts this node's statements, 0 otherwise.",
		func(s fleet.Status) float64 { return boolean(s.Up) })
	gauge("fsban_fleet_in_step", "1 if no statement of this node or of another waits to be sent or applied, 0 otherwise.",
		func(s fleet.Status) float64 { return boolean(s.InStep) })
	gauge("fsban_fleet_nodes", "Nodes of the fleet seen in the last 30 s, including this one.",
		func(s fleet.Status) float64 { return float64(s.Nodes) })
	gauge("fsban_fleet_unread_statements",
		"Entries of the fleet's stream that this node has not read.", func(s fleet.Status) float64 { return float64(s.Behind) })
	gauge("fsban_fleet_queued_statements",
		"Statements queued to be sent to the fleet.", func(s fleet.Status) float64 { return float64(s.Queue) })
	gauge("fsban_fleet_clock_skew_seconds",
		"Clock of Redis minus the clock of this host.", func(s fleet.Status) float64 { return s.Skew.Seconds() })
	t.gauge("fsban_fleet_waiting_bans", "Bans of other nodes delayed by the rate limit for remote bans.",
		func() float64 { return float64(d.loop.Observed().Waiting) })
	counter("fsban_fleet_queue_dropped_total",
		"Statements dropped because the queue was full. Bans and allowances in force are announced later; attempts are lost.",
		func(s fleet.Status) uint64 { return s.Dropped })
	counter("fsban_fleet_errors_total", "Failed exchanges with Redis. Each is retried.",
		func(s fleet.Status) uint64 { return s.Errors })
	counter("fsban_fleet_resyncs_total", "Complete reads of the state in Redis: at the start, and after a gap in the stream.",
		func(s fleet.Status) uint64 { return s.Resyncs })
	counter("fsban_fleet_gaps_total", "Stream ranges trimmed before this node read them. Their attempts are lost.",
		func(s fleet.Status) uint64 { return s.Gaps })
	counter("fsban_fleet_redis_full_total",
		"Statements that Redis had no capacity for.", func(s fleet.Status) uint64 { return s.Full })
	var kinds []merge.Kind
	for k := range merge.NumKinds {
		kinds = append(kinds, k)
	}
	countersOf(t, "fsban_fleet_sent_total", "Statements sent to the fleet, by kind.", "kind", kinds, d.fleet.Sent)
	countersOf(t, "fsban_fleet_received_total", "Statements received from other nodes, by kind.", "kind", kinds, d.fleet.Received)
	var refusals []merge.Refusal
	for r := range merge.NumRefusals {
		refusals = append(refusals, r)
	}
	countersOf(t, "fsban_fleet_refused_total",
		"Statements of other nodes that were not applied, by reason. rate: delayed by the rate limit.", "reason", refusals,
		d.fleet.Refused)
}
