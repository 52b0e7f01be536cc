package daemon

import (
	"github.com/prometheus/client_golang/prometheus"

	"fsban/fleet"
)

// registerFleet exports how the fleet stands. It is called where a fleet is configured.
func (d *Daemon) registerFleet() {
	gauge := func(name, help string, f func(fleet.Status) float64) {
		d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return f(d.fleet.Status()) }))
	}
	counter := func(name, help string, labels prometheus.Labels, f func() uint64) {
		d.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(f()) }))
	}
	gauge("fsban_fleet_connected", "1 while the fleet's Redis answers, and takes what this node says.",
		func(s fleet.Status) float64 { return boolean(s.Up) })
	gauge("fsban_fleet_in_step", "1 while nothing waits to be said to the fleet or to be taken from it.",
		func(s fleet.Status) float64 { return boolean(s.InStep) })
	gauge("fsban_fleet_nodes", "Nodes of the fleet that were heard in the last 30 s, this one included.",
		func(s fleet.Status) float64 { return float64(s.Nodes) })
	gauge("fsban_fleet_behind", "Entries of the fleet's log that are not read yet.",
		func(s fleet.Status) float64 { return float64(s.Behind) })
	gauge("fsban_fleet_queue", "What waits to be said to the fleet.",
		func(s fleet.Status) float64 { return float64(s.Queue) })
	gauge("fsban_fleet_clock_skew_seconds", "Redis' clock minus ours.",
		func(s fleet.Status) float64 { return s.Skew.Seconds() })
	d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fsban_fleet_waiting", Help: "Bans of other nodes that wait because too many came at once.",
	}, func() float64 { return float64(d.waiting.Load()) }))
	counter("fsban_fleet_queue_dropped_total", "What found no room in the queue. What of it is in force is said later; attempts are lost.", nil,
		func() uint64 { return d.fleet.Status().Dropped })
	counter("fsban_fleet_errors_total", "Exchanges with Redis that failed. They are repeated.", nil,
		func() uint64 { return d.fleet.Status().Errors })
	counter("fsban_fleet_resyncs_total", "How often all that Redis holds was read: at the start, and where the log had not gone on.", nil,
		func() uint64 { return d.fleet.Status().Resyncs })
	counter("fsban_fleet_gaps_total", "Parts of the fleet's log that were gone before they were read: attempts in them are lost.", nil,
		func() uint64 { return d.fleet.Status().Gaps })
	counter("fsban_fleet_full_total", "Statements that found no room in Redis.", nil,
		func() uint64 { return d.fleet.Status().Full })
	for w := range fleet.NumWhat {
		what := prometheus.Labels{"what": w.String()}
		counter("fsban_fleet_sent_total", "What this node has said to the fleet.", what, func() uint64 { return d.fleet.Sent(w) })
		counter("fsban_fleet_received_total", "What other nodes have said.", what, func() uint64 { return d.fleet.Received(w) })
	}
	for i, reason := range fleet.Reasons {
		counter("fsban_fleet_refused_total", "What other nodes have said and was not taken. rate: it waits.", prometheus.Labels{"reason": reason},
			func() uint64 { return d.fleet.Refused(i) })
	}
}
