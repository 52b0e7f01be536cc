package daemon

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"fsban/advisory"
	"fsban/decide/book"
	"fsban/detect"
	"fsban/esl"
	"fsban/firewall"
	"fsban/policy"
)

// metrics are all that fsban exports, in one place; docs/metrics.md explains the use of each. Every label set is closed and
// made at the start, so that zero is visible. No address, user or call-id is ever a label.
type metrics struct {
	attempts map[policy.Source]map[policy.Kind]prometheus.Counter
	profiles profiles
	events   map[detect.Outcome]prometheus.Counter
	frames   map[detect.Outcome]prometheus.Counter // of FreeSWITCH's log
	lines    map[detect.Outcome]prometheus.Counter // of mod_cti's log
	tap      tapMetrics
	verdicts map[policy.Verdict]prometheus.Counter
	whileBan prometheus.Counter

	bans    *prometheus.CounterVec // by rule
	unbans  map[book.Cause]prometheus.Counter
	refused prometheus.Counter
	adopted prometheus.Counter
	removed map[book.Reason]prometheus.Counter // entries found in the kernel
	latency prometheus.Histogram
	delay   prometheus.Histogram

	sourceErrs map[esl.Reason]prometheus.Counter

	observations observations

	operations map[firewall.Operation]prometheus.Observer
	failed     map[firewall.Operation]prometheus.Counter

	reloads map[string]prometheus.Counter // by result
}

// observations count the policy's observations that ban nobody.
type observations struct {
	stuck, distributed prometheus.Counter
	suspicious         map[string]prometheus.Counter // by grade
}

// Results of a reload.
const (
	reloadOK     = "ok"
	reloadFailed = "failed"
)

var families = []string{"ipv4", "ipv6"}

func newMetrics(reg prometheus.Registerer, d *Daemon) *metrics {
	m, t := new(metrics), table{reg}
	m.ofAttempts(t, d)
	m.ofBans(t, d)
	m.ofSources(t, d)
	m.ofTap(t, d)
	m.ofPolicy(t, d)
	m.ofFirewall(t, d)
	m.ofOperation(t, d)
	t.counterOf("fsban_journal_lost_total",
		"Attempts that were not written to the journal because writing to disk failed. A restart forgets them.", d.ledger.Lost)
	t.counterOf("fsban_ledger_failures_total", "Failed writes of the state file. Each is retried.",
		func() uint64 { n, _ := d.ledger.Failures(); return n })
	t.gauge("fsban_ready", "1 if fsban enforces bans and at least one source of attempts is alive, 0 otherwise.",
		func() float64 { return boolean(len(d.unready()) == 0) })
	t.constant("fsban_build_info", "Version, revision and Go version of this build, as labels; the value is 1.",
		prometheus.Labels{"version": d.opts.Version, "revision": d.opts.Revision, "goversion": runtime.Version()})
	t.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) ofAttempts(t table, d *Daemon) {
	attempts := t.counterVec("fsban_attempts_total",
		"Attempts reported by each source, by kind. Reports of one attempt by several sources are counted for each of them.",
		"source", "kind")
	m.attempts = make(map[policy.Source]map[policy.Kind]prometheus.Counter)
	for source, kinds := range map[policy.Source][]policy.Kind{
		policy.Event:    {policy.AuthFailure, policy.Challenge, policy.AuthSuccess, policy.CallReject},
		policy.CTIEvent: {policy.AuthFailure, policy.Violation},
		policy.ESLLog:   {policy.AuthFailure, policy.Violation, policy.ACLReject},
		policy.CTILog:   {policy.AuthFailure, policy.Violation},
		policy.SIP: {
			policy.AuthFailure, policy.Challenge, policy.AuthSuccess, policy.Scan, policy.Malformed, policy.Flood, policy.Exploit,
		},
		policy.Fleet: {policy.AuthFailure, policy.Violation},
	} {
		m.attempts[source] = make(map[policy.Kind]prometheus.Counter)
		for _, k := range kinds {
			m.attempts[source][k] = attempts.WithLabelValues(source.String(), k.String())
		}
	}
	m.profiles = newProfiles(t.counterVec("fsban_profile_attempts_total",
		"Attempts counted once across sources, by sofia profile and kind. unknown: the source reports no profile; other: more "+
			"than 16 profiles.", "profile", "kind"))
	m.events = counters(t, "fsban_events_total", "Events read from the event socket, by outcome.", "outcome", detect.Outcomes)
	m.lines = counters(t, "fsban_cti_log_lines_total",
		"Lines read from mod_cti's log file, by outcome.", "outcome", detect.LineOutcomes)
	m.frames = counters(t, "fsban_log_frames_total",
		"Lines of FreeSWITCH's log received over the event socket, by outcome. forged: text of a peer that imitates a log "+
			"line.", "outcome", detect.LogOutcomes)
	t.counterOf("fsban_frames_skipped_total", "Frames of an unknown type received over the event socket and skipped.",
		func() uint64 { return d.sources.client.Skipped() })
	t.counterOf("fsban_attempts_dropped_total", "Attempts dropped because the decision queue was full.",
		func() uint64 { return d.loop.Dropped() })
	verdicts := make([]policy.Verdict, policy.NumVerdicts)
	for v := range verdicts {
		verdicts[v] = policy.Verdict(v)
	}
	m.verdicts = counters(t, "fsban_decisions_total",
		"Decisions of the policy on attempts, by verdict. spared: never-ban address, not counted; spared_ban: never-ban "+
			"address that a rule would ban; held: a guard holds the ban; excused: unbanned a moment ago; forged: a tap saw a "+
			"failure of a known-good or never-ban address, and nothing proves that it sent it.", "verdict", verdicts)
	m.whileBan = t.counter("fsban_attempts_while_banned_total", "Attempts of addresses that were already banned.")
	m.tap.details = map[policy.Kind]map[string]prometheus.Counter{
		policy.Malformed: counters(t, "fsban_malformed_messages_total",
			"Malformed SIP messages that count as attempts, by fault.", "fault", detect.Faults),
		policy.Exploit: counters(t, "fsban_exploits_total",
			"SIP requests that match a published attack on FreeSWITCH itself, by advisory.", "advisory", advisory.Recognised()),
	}
}

func (m *metrics) ofBans(t table, d *Daemon) {
	m.bans = t.counterVec("fsban_bans_total",
		"New bans, by rule. fleet: received from other nodes. Bans restored after a restart or a resync are not counted. While "+
			"fsban watches, these are bans that it would make.", "rule")
	m.ofRules(d.cfg().Policy.Rules())
	for _, rule := range []string{book.RuleOperator, book.RuleOffice, book.RuleFleet} {
		m.bans.WithLabelValues(rule)
	}
	m.refused = t.counter("fsban_bans_refused_total", "Bans refused because operator bans fill the limit (firewall.max_bans).")
	m.adopted = t.counter("fsban_bans_adopted_total", "Unknown entries found in the kernel and adopted as bans.")
	m.removed = counters(t, "fsban_kernel_entries_removed_total",
		"Unknown entries found in the kernel and removed, by reason. withdrawn: unbanned later than banned.", "reason", book.Reasons)
	m.unbans = counters(t, "fsban_unbans_total",
		"Ended bans, by cause. unbanned, allowed: by an operator; evicted: at the ban limit; outage: lifted after an outage of the "+
			"directory; watched: not taken over by fsban enforce.", "cause", book.Causes)
	gauges(t, "fsban_banned_prefixes",
		"Active bans, by address family. While fsban watches, bans that would be active.", "family", families,
		func(family string) float64 { return float64(d.banned(family)) })
	m.latency = t.histogram(seconds("fsban_ban_latency_seconds",
		"Time from reading the attempt that triggered a ban until the ban was in the kernel.",
		.00005, .0001, .0002, .0005, .001, .002, .005, .01, .05, .1, .5, 1, 5))
	m.delay = t.histogram(seconds("fsban_ban_delay_seconds",
		"Time from the attempt that triggered a ban, by FreeSWITCH's clock, until the ban was in the kernel. Attempts read "+
			"back from a log after a start are excluded.",
		.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60))
}

func (m *metrics) ofSources(t table, d *Daemon) {
	t.gauge("fsban_event_socket_up", "1 if fsban is logged in to the event socket and subscribed, 0 otherwise.",
		func() float64 { return boolean(d.sources.client.State().Up) })
	t.gauge("fsban_cti_log_following",
		"1 if mod_cti's log file is open and read, 0 otherwise.", func() float64 { return boolean(d.sources.followsLog()) })
	gauges(t, "fsban_source_alive",
		"1 if the configured source is connected and can report attempts, 0 otherwise.", "source", configuredSources(d.cfg()),
		func(s policy.Source) float64 { return boolean(d.loop.Alive(s)) })
	gauges(t, "fsban_source_last_attempt_timestamp_seconds",
		"Unix time of the last attempt that the source reported; 0 if none.", "source",
		configuredSources(d.cfg()),
		func(s policy.Source) float64 { return stamp(d.loop.LastReport(s)) })
	for _, k := range policy.Kinds() {
		gauges(table{prometheus.WrapRegistererWith(prometheus.Labels{"kind": k.String()}, t)},
			"fsban_source_active",
			"1 for the active source of each kind of attempt, whose reports count; 0 for sources in reserve.",
			"source", detect.Sources(k),
			func(s policy.Source) float64 {
				active := d.loop.Observed().Active[k]
				return boolean(active.OK && active.Source == s)
			})
	}
	countersOf(t, "fsban_attempts_unconfirmed_total",
		"Attempts reported by a source in reserve that the active source never reported. They are not counted by the policy.",
		"source", []policy.Source{policy.SIP, policy.CTIEvent, policy.ESLLog, policy.CTILog},
		func(s policy.Source) uint64 { return d.loop.Observed().Unconfirmed[s] })
	t.counterOf("fsban_event_socket_connects_total", "Successful connections to the event socket.",
		func() uint64 { return d.sources.client.State().Connects })
	m.sourceErrs = counters(t, "fsban_event_socket_errors_total",
		"Failed or ended connections to the event socket, by reason.", "reason", esl.Reasons)
	t.gauge("fsban_last_event_timestamp_seconds", "Unix time of the last event read from the event socket; 0 if none.",
		func() float64 { return stamp(d.sources.pulse.last.Load()) })

	t.gauge("fsban_freeswitch_clock_offset_seconds",
		"FreeSWITCH's clock minus the clock of this host, by the newest event of the last minute. Negative if FreeSWITCH's "+
			"clock is behind, or if all events are delayed.",
		func() float64 { return d.sources.pulse.clock.ahead().Seconds() })
	t.gauge("fsban_freeswitch_heartbeat_timestamp_seconds", "Unix time of the last HEARTBEAT event; 0 if none.",
		func() float64 { return stamp(d.sources.pulse.beatAt.Load()) })
	beat := func(name, help string, f func(detect.Heartbeat) float64) {
		t.gauge(name, help, func() float64 { return f(d.sources.pulse.heartbeat()) })
	}
	beat("fsban_freeswitch_uptime_seconds", "Uptime of FreeSWITCH, from its last HEARTBEAT.",
		func(b detect.Heartbeat) float64 { return b.Uptime.Seconds() })
	beat("fsban_freeswitch_sessions", "Current sessions (call legs) of FreeSWITCH, from its last HEARTBEAT.",
		func(b detect.Heartbeat) float64 { return b.Sessions })
	beat("fsban_freeswitch_sessions_limit", "Session limit of FreeSWITCH (max-sessions), from its last HEARTBEAT.",
		func(b detect.Heartbeat) float64 { return b.SessionsLimit })
	beat("fsban_freeswitch_sessions_per_second", "Sessions started in the second before the last HEARTBEAT of FreeSWITCH.",
		func(b detect.Heartbeat) float64 { return b.SessionsPerSecond })
	beat("fsban_freeswitch_idle_cpu_ratio", "Idle share of the CPU of FreeSWITCH's host, from its last HEARTBEAT.",
		func(b detect.Heartbeat) float64 { return b.IdleCPU })
}

func (m *metrics) ofPolicy(t table, d *Daemon) {
	holds := func(name, help string, f func(*policy.Stats) int) {
		t.gauge(name, help, func() float64 { return float64(f(&d.loop.Observed().Policy)) })
	}
	holds("fsban_tracked_addresses",
		"Addresses with attempts within the window of a rule.", func(s *policy.Stats) int { return s.Tracked })
	holds("fsban_known_good_addresses", "Addresses with a recent successful login.", func(s *policy.Stats) int { return s.Known })
	holds("fsban_attacked_users",
		"Users with failed logins within the window of a rule.", func(s *policy.Stats) int { return s.Users })
	holds("fsban_offenders",
		"Prefixes with past bans, whose next ban lasts longer.", func(s *policy.Stats) int { return s.Offenders })
	holds("fsban_stuck_phones", "Phones that repeat a failing login at an address where other logins succeed.",
		func(s *policy.Stats) int { return s.Stuck })
	holds("fsban_bans_held", "Bans held back by a guard.", func(s *policy.Stats) int { return s.Held })
	t.counterOf("fsban_known_good_bans_total", "Bans of known-good addresses by rules.",
		func() uint64 { return d.loop.Observed().Policy.KnownBans })
	lost := func(table string, f func(*policy.Stats) uint64) {
		countersOf(t, "fsban_policy_evicted_total",
			"Entries evicted from the policy because a table was full, by table.", "table", []string{table},
			func(string) uint64 { return f(&d.loop.Observed().Policy) })
	}
	lost("addresses", func(s *policy.Stats) uint64 { return s.Evicted })
	lost("known_good", func(s *policy.Stats) uint64 { return s.KnownForgotten })
	lost("users", func(s *policy.Stats) uint64 { return s.UsersForgotten })
	lost("offenders", func(s *policy.Stats) uint64 { return s.OffendersForgotten })
	lost("challenges", func(s *policy.Stats) uint64 { return s.ChallengesForgotten })
	lost("stuck_phones", func(s *policy.Stats) uint64 { return s.StuckForgotten })
	lost("held_bans", func(s *policy.Stats) uint64 { return s.HeldLost })
	for group, f := range map[string]func(*policy.Stats) uint64{
		"known_good": func(s *policy.Stats) uint64 { return s.ForgedKnown }, "never_ban": func(s *policy.Stats) uint64 { return s.ForgedNever },
	} {
		countersOf(t, "fsban_forged_failures_total",
			"Failed logins that a tap saw in the name of protected addresses, with nothing to prove that these sent them. Nobody is "+
				"banned for them.", "addresses", []string{group},
			func(string) uint64 { return f(&d.loop.Observed().Policy) })
	}
	gauges(t, "fsban_guard_active",
		"1 if the guard holds bans back, 0 otherwise. outage: many known-good addresses fail at once; ban_rate: more bans a "+
			"minute than policy.ban_rate; known_good: more bans of known-good addresses than policy.known_good.ban_rate.", "guard",
		[]policy.Guard{policy.OutageGuard, policy.RateGuard, policy.KnownGoodGuard},
		func(g policy.Guard) float64 { return boolean(d.loop.Observed().Guards[g]) })
	m.observations.stuck = t.counter("fsban_stuck_phone_reports_total", "Reports of stuck phones.")
	m.observations.suspicious = counters(t, "fsban_suspicious_logins_total",
		"Logins from a new address with evidence that the password was guessed.", "grade", []string{"likely", "possible"})
	m.observations.distributed = t.counter("fsban_distributed_attacks_total", "Reports of attacks on one user by many addresses.")
}

func (m *metrics) ofFirewall(t table, d *Daemon) {
	t.MustRegister(backendInfo{d, prometheus.NewDesc("fsban_firewall_info",
		"Backend that enforces bans, as a label; the value is 1. none: fsban watches only.", []string{"backend"}, nil)})
	t.gauge("fsban_firewall_enforcing",
		"1 if every active ban is in the kernel or queued for it, 0 otherwise; 0 while fsban watches only.",
		func() float64 { return boolean(d.enforcer.Status().Enforcing && !d.watch.on.Load()) })
	t.gauge("fsban_watching", "1 if fsban watches only: it decides on bans and blocks nobody (firewall.enforce), 0 otherwise.",
		func() float64 { return boolean(d.watch.on.Load()) })
	t.gauge("fsban_firewall_pending_orders", "Bans and unbans queued for the kernel.",
		func() float64 { return float64(d.enforcer.Status().Pending) })
	t.counterOf("fsban_firewall_failures_total",
		"Failed checks of the kernel and failed batches of bans and unbans. Each is retried.",
		func() uint64 { return d.enforcer.Status().Failures })
	t.counterOf("fsban_firewall_expired_orders_total", "Bans that expired before they reached the kernel.",
		func() uint64 { return d.enforcer.Status().Expired })
	t.counterOf("fsban_firewall_dropped_orders_total",
		"Bans and unbans dropped because the queue for the kernel was full. The next comparison with the kernel makes up for "+
			"them.", func() uint64 { return d.enforcer.Status().Overflows })
	t.counterOf("fsban_firewall_repairs_total",
		"Rules, chains and sets of fsban that were missing in the kernel and were created again.",
		func() uint64 { return d.enforcer.Status().Repairs })
	t.counterOf("fsban_firewall_restored_total", "Bans that were missing in the kernel and were restored.",
		func() uint64 { return d.enforcer.Status().Restored })
	m.operations = histograms(t, seconds("fsban_firewall_operation_seconds",
		"Duration of operations on the kernel, by operation. apply: a batch of bans and unbans; setup: create sets; verify: "+
			"check rules; list: list entries.",
		.00002, .00005, .0001, .0002, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 30), "operation", firewall.Operations)
	m.failed = counters(t, "fsban_firewall_operation_errors_total", "Failed operations on the kernel, by operation.", "operation",
		firewall.Operations)
	gauges(t, "fsban_firewall_set_entries",
		"Entries of the kernel set as of the last check (firewall.check), by address family. nftables does not count entries: "+
			"there it is the number of active bans.", "family", families,
		func(family string) float64 { return float64(d.setSize(family).Entries) })
	gauges(t, "fsban_firewall_set_limit",
		"Capacity of the kernel set (firewall.max_bans), by address family. With backend rules: the capacity that the other "+
			"family leaves.", "family", families,
		func(family string) float64 { return float64(d.setSize(family).Limit) })
	dropped := func(family string) firewall.Dropped { return d.enforcer.Status().Dropped[family] }
	countersOf(t, "fsban_dropped_packets_total",
		"Packets dropped by fsban's rules since fsban started, as of the last check (firewall.check), by address family.",
		"family", families,
		func(family string) uint64 { return dropped(family).Packets })
	countersOf(t, "fsban_dropped_bytes_total",
		"Bytes dropped by fsban's rules since fsban started, as of the last check (firewall.check), by address family.",
		"family", families,
		func(family string) uint64 { return dropped(family).Bytes })
}

func (m *metrics) ofOperation(t table, d *Daemon) {
	m.reloads = counters(t, "fsban_config_reloads_total",
		"Reloads of the configuration file, by result. failed: the file was invalid, and the previous configuration stays in "+
			"force.", "result", []string{reloadOK, reloadFailed})
	t.gauge("fsban_config_last_reload_successful", "1 if the last reload of the configuration file succeeded, 0 otherwise.",
		func() float64 { return boolean(!d.reloader.failed.Load()) })
	t.gauge("fsban_config_last_reload_success_timestamp_seconds",
		"Unix time of the last successful load of the configuration file.",
		func() float64 { return stamp(d.reloader.last.Load()) })
	countersOf(t, "fsban_control_requests_total",
		"Requests on the control socket, by role of the peer. refused: the role does not permit the request.",
		"role", []string{"reader", "admin", "refused"},
		func(role string) uint64 {
			readers, admins, refused := d.server.Requests()
			return map[string]uint64{"reader": readers, "admin": admins, "refused": refused}[role]
		})
	t.counterOf("fsban_log_lines_lost_total",
		"Lines of fsban's own log that were lost because the reader of standard error did not accept them.",
		d.opts.LogLost)
	t.counterOf("fsban_control_connections_dropped_total",
		"Connections to the control socket closed because too many were open.", func() uint64 { return d.server.Dropped() })
	t.counterOf("fsban_http_connections_dropped_total",
		"Connections to the HTTP server (metrics and health) closed because too many were open.", d.turnedAway.Load)
}

// backendInfo is an info metric with the name of the backend in use.
type backendInfo struct {
	daemon *Daemon
	desc   *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (i backendInfo) Describe(ch chan<- *prometheus.Desc) { ch <- i.desc }

// Collect implements prometheus.Collector.
func (i backendInfo) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(i.desc, prometheus.GaugeValue, 1, i.daemon.enforcer.Backend().Name())
}

// banned is how many bans of a family are in force.
func (d *Daemon) banned(family string) int {
	v4, v6 := d.ledger.Count()
	if family == "ipv4" {
		return v4
	}
	return v6
}

// setSize is how full the kernel's set of a family is. If the kernel does not count entries, fsban's own bans are counted.
func (d *Daemon) setSize(family string) firewall.SetSize {
	if size, ok := d.enforcer.Status().Sets[family]; ok {
		return size
	}
	return firewall.SetSize{Entries: d.banned(family), Limit: d.cfg().Firewall.MaxBans}
}
