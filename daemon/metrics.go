package daemon

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"fsban/detect"
	"fsban/esl"
	"fsban/firewall"
	"fsban/policy"
)

// metrics are all that fsban exports, in one place; docs/metrics.md says what to do with each. Every label set is closed and
// made at the start, so that zero is visible. No address, user or call-id is ever a label.
type metrics struct {
	attempts map[policy.Source]map[policy.Kind]prometheus.Counter
	profiles profiles
	events   map[detect.Outcome]prometheus.Counter
	frames   map[detect.Outcome]prometheus.Counter // of FreeSWITCH's log
	lines    map[detect.Outcome]prometheus.Counter // of mod_cti's log
	verdicts map[policy.Verdict]prometheus.Counter
	whileBan prometheus.Counter

	bans    *prometheus.CounterVec // by rule
	unbans  map[string]prometheus.Counter
	adopted prometheus.Counter
	latency prometheus.Histogram
	delay   prometheus.Histogram

	sourceErrs map[esl.Reason]prometheus.Counter

	stuck, suspicious, distributed prometheus.Counter

	operations map[firewall.Operation]prometheus.Observer
	failed     map[firewall.Operation]prometheus.Counter

	reloads map[string]prometheus.Counter // by what came of it
}

// The causes of an unban, what comes of a reload, and the names that stand where no rule banned.
const (
	causeExpired  = "expired"
	causeOperator = "operator"
	causeNeverBan = "never_ban"
	causeRoom     = "room"   // firewall.max_bans was reached, and it was nearest to its end
	causeOutage   = "outage" // it was known-good, and its back end was down
	causeFleet    = "fleet"  // another node has unbanned it

	reloadOK     = "ok"
	reloadFailed = "failed"

	ruleOffice   = "office" // the policy's own, for known-good addresses
	ruleOperator = "operator"
	ruleKernel   = "kernel"
)

var families = []string{"ipv4", "ipv6"}

func newMetrics(reg prometheus.Registerer, d *Daemon, version, revision string) *metrics {
	m, t := new(metrics), table{reg}
	m.ofAttempts(t, d)
	m.ofBans(t, d)
	m.ofSources(t, d)
	m.ofPolicy(t, d)
	m.ofFirewall(t, d)
	m.ofOperation(t, d)
	t.counterOf("fsban_journal_lost_total", "Attempts that a restart would not know of, because the disk did not take them.", d.ledger.Lost)
	t.counterOf("fsban_ledger_failures_total", "Writes of the state file that failed. They are repeated.",
		func() uint64 { n, _ := d.ledger.Failures(); return n })
	t.gauge("fsban_ready", "1 while fsban enforces bans and at least one source is alive.",
		func() float64 { return boolean(len(d.unready()) == 0) })
	t.constant("fsban_build_info", "1, with the version as labels.", prometheus.Labels{"version": version, "revision": revision, "goversion": runtime.Version()})
	t.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) ofAttempts(t table, d *Daemon) {
	attempts := t.counterVec("fsban_attempts_total", "Attempts that a source told of, by kind. Two sources may tell of the same one: it is decided on once.", "source", "kind")
	m.attempts = make(map[policy.Source]map[policy.Kind]prometheus.Counter)
	for source, kinds := range map[policy.Source][]policy.Kind{
		policy.Event:    {policy.AuthFailure, policy.Challenge, policy.AuthSuccess, policy.CallReject},
		policy.CTIEvent: {policy.AuthFailure, policy.Violation},
		policy.ESLLog:   {policy.AuthFailure, policy.Violation, policy.ACLReject},
		policy.CTILog:   {policy.AuthFailure, policy.Violation},
		policy.Fleet:    {policy.AuthFailure, policy.Violation},
	} {
		m.attempts[source] = make(map[policy.Kind]prometheus.Counter)
		for _, k := range kinds {
			m.attempts[source][k] = attempts.WithLabelValues(source.String(), k.String())
		}
	}
	m.profiles = newProfiles(t.counterVec("fsban_profile_attempts_total", "Attempts decided on, by the sofia profile that they came to. unknown: the source does not say; other: there are more than 16 profiles.", "profile", "kind"))
	m.events = counters(t, "fsban_events_total", "Events read from the event socket, by what became of them.", "outcome", detect.Outcomes)
	m.lines = counters(t, "fsban_cti_log_lines_total", "Lines of mod_cti's log, by what became of them.", "outcome", detect.LineOutcomes)
	m.frames = counters(t, "fsban_log_frames_total", "Lines of FreeSWITCH's log that the event socket sent, by what became of them. forged: a peer's text that looks like a line of FreeSWITCH's own.", "outcome", detect.LogOutcomes)
	t.counterOf("fsban_frames_skipped_total", "Frames of the event socket of an unknown type.", d.client.Skipped)
	t.counterOf("fsban_attempts_dropped_total", "Attempts lost because the decision queue was full.", d.dropped.Load)
	verdicts := make([]policy.Verdict, policy.NumVerdicts)
	for v := range verdicts {
		verdicts[v] = policy.Verdict(v)
	}
	m.verdicts = counters(t, "fsban_decisions_total", "What the policy said of attempts. spared: not counted, the address is never banned; spared_ban: it would have been banned; held: a guard holds the ban; excused: a ban was lifted a moment ago.", "verdict", verdicts)
	m.whileBan = t.counter("fsban_attempts_while_banned_total", "Attempts of an address that was banned already.")
}

func (m *metrics) ofBans(t table, d *Daemon) {
	m.bans = t.counterVec("fsban_bans_total", "Bans made, by rule. Bans that a restart restores are not counted again.", "rule")
	for _, r := range d.loop.engine.Rules() {
		m.bans.WithLabelValues(r.Name)
	}
	m.bans.WithLabelValues(ruleOperator)
	m.bans.WithLabelValues(ruleOffice)
	t.counterOf("fsban_bans_refused_total", "Bans not made because firewall.max_bans operators' bans are in force.", d.refused.Load)
	m.adopted = t.counter("fsban_bans_adopted_total", "Entries found in the kernel's set that fsban did not know, and took over.")
	m.unbans = counters(t, "fsban_unbans_total", "Bans that ended, by cause.", "cause", []string{causeExpired, causeOperator, causeNeverBan, causeOutage, causeRoom, causeFleet})
	gauges(t, "fsban_banned_prefixes", "Prefixes that are banned now.", "family", families, func(family string) float64 { return float64(d.banned(family)) })
	m.latency = t.histogram(seconds("fsban_ban_latency_seconds", "Time from reading the attempt that led to a ban until the kernel held the ban.",
		.00005, .0001, .0002, .0005, .001, .002, .005, .01, .05, .1, .5, 1, 5))
	m.delay = t.histogram(seconds("fsban_ban_delay_seconds", "Time from the attempt that led to a ban, by FreeSWITCH's clock, until the kernel held the ban. What was read back after a start is left out.",
		.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60))
}

func (m *metrics) ofSources(t table, d *Daemon) {
	t.gauge("fsban_event_socket_up", "1 while fsban is logged in to the event socket and subscribed.", func() float64 { return boolean(d.client.State().Up) })
	t.gauge("fsban_cti_log_following", "1 while mod_cti's log is open and read.", func() float64 { return boolean(d.followsLog()) })
	gauges(t, "fsban_source_alive", "1 while a source that the configuration has can be heard.", "source", d.sources(),
		func(s policy.Source) float64 { return boolean(d.alive[s].Load()) })
	gauges(t, "fsban_source_last_attempt_timestamp_seconds", "When a source last told of an attempt, as it was read; 0 for never.", "source", d.sources(),
		func(s policy.Source) float64 { return stamp(d.told[s].Load()) })
	for _, k := range policy.Kinds() {
		gauges(table{prometheus.WrapRegistererWith(prometheus.Labels{"kind": k.String()}, t)},
			"fsban_source_speaking", "1 where the attempts of a kind that a source tells of count; what the others tell of is only read along.", "source", detect.Sources(k),
			func(s policy.Source) float64 { return boolean(d.speaking[k].Load() == int32(s)+1) })
	}
	countersOf(t, "fsban_attempts_unconfirmed_total", "Attempts that a source told of while another one spoke, which never told of them: not counted.",
		"source", []policy.Source{policy.CTIEvent, policy.ESLLog, policy.CTILog}, func(s policy.Source) uint64 { return d.alone[s].Load() })
	t.counterOf("fsban_event_socket_connects_total", "How often the event socket came up.", func() uint64 { return d.client.State().Connects })
	m.sourceErrs = counters(t, "fsban_event_socket_errors_total", "Connections that failed or ended, by reason.", "reason", esl.Reasons)
	t.gauge("fsban_last_event_timestamp_seconds", "When the last event was read; 0 for never.", func() float64 { return stamp(d.pulse.last.Load()) })

	t.gauge("fsban_freeswitch_clock_offset_seconds", "How far FreeSWITCH's clock is ahead of ours, by its freshest event of the last minute; negative where it is behind, or where all events come late.",
		func() float64 { return d.pulse.clock.ahead().Seconds() })
	t.gauge("fsban_freeswitch_heartbeat_timestamp_seconds", "When FreeSWITCH's last HEARTBEAT was read; 0 for never.", func() float64 { return stamp(d.pulse.beatAt.Load()) })
	beat := func(name, help string, f func(detect.Heartbeat) float64) {
		t.gauge(name, help, func() float64 { return f(d.pulse.heartbeat()) })
	}
	beat("fsban_freeswitch_uptime_seconds", "How long FreeSWITCH runs, by its last HEARTBEAT.", func(b detect.Heartbeat) float64 { return b.Uptime.Seconds() })
	beat("fsban_freeswitch_sessions", "Sessions (legs of calls) that FreeSWITCH has, by its last HEARTBEAT.", func(b detect.Heartbeat) float64 { return b.Sessions })
	beat("fsban_freeswitch_sessions_limit", "Sessions that FreeSWITCH allows (max-sessions), by its last HEARTBEAT.", func(b detect.Heartbeat) float64 { return b.SessionsLimit })
	beat("fsban_freeswitch_sessions_per_second", "Sessions begun in the second before FreeSWITCH's last HEARTBEAT.", func(b detect.Heartbeat) float64 { return b.SessionsPerSecond })
	beat("fsban_freeswitch_idle_cpu_ratio", "Idle share of its host's CPU as FreeSWITCH sees it, by its last HEARTBEAT.", func(b detect.Heartbeat) float64 { return b.IdleCPU })
}

func (m *metrics) ofPolicy(t table, d *Daemon) {
	holds := func(name, help string, f func(*policy.Stats) int) {
		t.gauge(name, help, func() float64 { return float64(f(&d.stats.Load().Stats)) })
	}
	holds("fsban_tracked_addresses", "Addresses with attempts in a window.", func(s *policy.Stats) int { return s.Tracked })
	holds("fsban_known_good_addresses", "Addresses from which somebody has logged in lately.", func(s *policy.Stats) int { return s.Known })
	holds("fsban_attacked_users", "Users with failures in a window.", func(s *policy.Stats) int { return s.Users })
	holds("fsban_offenders", "Prefixes whose past bans make the next one longer.", func(s *policy.Stats) int { return s.Offenders })
	holds("fsban_stuck_phones", "Phones that fail again and again at an address that others log in from.", func(s *policy.Stats) int { return s.Stuck })
	holds("fsban_bans_held", "Bans that a guard holds.", func(s *policy.Stats) int { return s.Held })
	lost := func(what string, f func(*policy.Stats) uint64) {
		countersOf(t, "fsban_policy_evicted_total", "What the policy forgot because its memory is bounded.", "what", []string{what},
			func(string) uint64 { return f(&d.stats.Load().Stats) })
	}
	lost("addresses", func(s *policy.Stats) uint64 { return s.Evicted })
	lost("known_good", func(s *policy.Stats) uint64 { return s.KnownForgotten })
	lost("users", func(s *policy.Stats) uint64 { return s.UsersForgotten })
	lost("offenders", func(s *policy.Stats) uint64 { return s.OffendersForgotten })
	lost("challenges", func(s *policy.Stats) uint64 { return s.ChallengesForgotten })
	lost("stuck_phones", func(s *policy.Stats) uint64 { return s.StuckForgotten })
	lost("held_bans", func(s *policy.Stats) uint64 { return s.HeldLost })
	gauges(t, "fsban_guard_active", "1 while a guard holds bans. outage: known-good addresses fail together; ban_rate: too many bans a minute.", "guard",
		[]policy.Guard{policy.OutageGuard, policy.RateGuard}, func(g policy.Guard) float64 { return boolean(d.stats.Load().guards[g]) })
	m.stuck = t.counter("fsban_stuck_phone_reports_total", "Stuck phones noticed.")
	m.suspicious = t.counter("fsban_suspicious_logins_total", "Successes right after failures of the same user, from an address that was not known-good.")
	m.distributed = t.counter("fsban_distributed_attacks_total", "Attacks of many addresses on one user noticed.")
}

func (m *metrics) ofFirewall(t table, d *Daemon) {
	t.constant("fsban_firewall_info", "1, with the backend that bans. dry-run bans nobody.", prometheus.Labels{"backend": d.backend.Name()})
	t.gauge("fsban_firewall_enforcing", "1 while every ban asked for is in the kernel or on its way.", func() float64 { return boolean(d.enforcer.Status().Enforcing) })
	t.gauge("fsban_firewall_pending", "Bans and unbans that the kernel has not taken yet.", func() float64 { return float64(d.enforcer.Status().Pending) })
	t.counterOf("fsban_firewall_failures_total", "Operations on the kernel that failed. They are repeated.", func() uint64 { return d.enforcer.Status().Failures })
	t.counterOf("fsban_firewall_repairs_total", "Rules, chains and sets of fsban's that were missing in the kernel, and were made again.", func() uint64 { return d.enforcer.Status().Repairs })
	t.counterOf("fsban_firewall_restored_total", "Bans that were missing in the kernel, and were put back.", func() uint64 { return d.enforcer.Status().Restored })
	m.operations = histograms(t, seconds("fsban_firewall_operation_seconds", "How long operations on the kernel took. apply: a batch of bans and unbans; setup: sets are made; guard: rules are looked at; list: entries are listed.",
		.00002, .00005, .0001, .0002, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 30), "operation", firewall.Operations)
	m.failed = counters(t, "fsban_firewall_operation_errors_total", "Operations on the kernel that failed, by operation.", "operation", firewall.Operations)
	gauges(t, "fsban_firewall_set_entries", "Entries of the kernel's set as of the last check (firewall.check); with nftables, which does not count them, the bans that fsban has put there.", "family", families,
		func(family string) float64 { return float64(d.setSize(family).Entries) })
	gauges(t, "fsban_firewall_set_limit", "Entries that there is room for (firewall.max_bans). With one rule a ban, what the other family leaves.", "family", families,
		func(family string) float64 { return float64(d.setSize(family).Limit) })
	dropped := func(family string) firewall.Dropped { return d.enforcer.Status().Dropped[family] }
	countersOf(t, "fsban_dropped_packets_total", "Packets that fsban's rules threw away, since fsban started, as of the last check (firewall.check).", "family", families,
		func(family string) uint64 { return dropped(family).Packets })
	countersOf(t, "fsban_dropped_bytes_total", "Bytes that fsban's rules threw away, since fsban started, as of the last check (firewall.check).", "family", families,
		func(family string) uint64 { return dropped(family).Bytes })
}

func (m *metrics) ofOperation(t table, d *Daemon) {
	m.reloads = counters(t, "fsban_config_reloads_total", "How often the configuration file was read again, by what came of it. failed: it was wrong, and the old one stayed in force.", "result", []string{reloadOK, reloadFailed})
	t.gauge("fsban_config_last_reload_successful", "1 unless the configuration file was wrong when it was last read again.", func() float64 { return boolean(!d.reloadFailed.Load()) })
	t.gauge("fsban_config_last_reload_success_timestamp_seconds", "When the configuration in force was read.", func() float64 { return stamp(d.lastReload.Load()) })
	countersOf(t, "fsban_control_requests_total", "Requests on the control socket, by what the peer may do. refused: it may not do this, or nothing.", "role", []string{"reader", "admin", "refused"},
		func(role string) uint64 {
			readers, admins, refused := d.server.Requests()
			return map[string]uint64{"reader": readers, "admin": admins, "refused": refused}[role]
		})
	t.counterOf("fsban_log_lines_lost_total", "Lines of fsban's own log that were lost, because whatever reads it did not take them.", d.opts.LogLost)
	t.counterOf("fsban_control_connections_dropped_total", "Connections to the control socket that were closed at once, because as many as may be were open.", d.server.Dropped)
	t.counterOf("fsban_http_connections_dropped_total", "Connections to metrics and health that were closed at once, because as many as may be were open.", d.turnedAway.Load)
}

// banned is how many bans of a family are in force.
func (d *Daemon) banned(family string) int {
	v4, v6 := d.ledger.Count()
	if family == "ipv4" {
		return v4
	}
	return v6
}

// setSize is how full the kernel's set of a family is. Where the kernel does not tell, it is as full as fsban has filled it.
func (d *Daemon) setSize(family string) firewall.SetSize {
	if size, ok := d.enforcer.Status().Sets[family]; ok {
		return size
	}
	return firewall.SetSize{Entries: d.banned(family), Limit: d.cfg().Firewall.MaxBans}
}
