package daemon

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"fsban/detect"
	"fsban/esl"
	"fsban/policy"
)

// metrics are all that fsban exports, in one place. Every label set is closed and made at the start, so that zero is
// visible. No address, user or call-id is ever a label.
type metrics struct {
	attempts   map[policy.Source]map[policy.Kind]prometheus.Counter
	lines      map[detect.Outcome]prometheus.Counter // of mod_cti's log
	frames     map[detect.Outcome]prometheus.Counter // of FreeSWITCH's log
	events     map[detect.Outcome]prometheus.Counter
	whileBan   prometheus.Counter
	verdicts   map[policy.Verdict]prometheus.Counter
	bans       map[string]prometheus.Counter // by rule
	guards     map[policy.Guard]prometheus.Gauge
	stuck      prometheus.Counter
	suspicious prometheus.Counter

	distributed prometheus.Counter
	unbans      map[string]prometheus.Counter // by cause
	adopted     prometheus.Counter
	latency     prometheus.Histogram
	sourceErrs  map[esl.Reason]prometheus.Counter
}

// The causes of an unban, and the names that stand where no rule banned.
const (
	causeExpired  = "expired"
	causeOperator = "operator"
	causeNeverBan = "never_ban"
	causeRoom     = "room"   // firewall.max_bans was reached, and it was nearest to its end
	causeOutage   = "outage" // it was known-good, and its back end was down

	ruleOffice   = "office" // the policy's own, for known-good addresses
	ruleOperator = "operator"
	ruleKernel   = "kernel"
)

func newMetrics(reg prometheus.Registerer, d *Daemon, version, revision string) *metrics {
	m := &metrics{
		attempts:   make(map[policy.Source]map[policy.Kind]prometheus.Counter),
		lines:      make(map[detect.Outcome]prometheus.Counter),
		frames:     make(map[detect.Outcome]prometheus.Counter),
		events:     make(map[detect.Outcome]prometheus.Counter),
		verdicts:   make(map[policy.Verdict]prometheus.Counter),
		bans:       make(map[string]prometheus.Counter),
		guards:     make(map[policy.Guard]prometheus.Gauge),
		unbans:     make(map[string]prometheus.Counter),
		sourceErrs: make(map[esl.Reason]prometheus.Counter),
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	counterOf := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f))
	}

	// What happens.
	attempts := vec("fsban_attempts_total", "Attempts that a source told of, by kind. Two sources may tell of the same one: it is decided on once.", "source", "kind")
	for source, kinds := range map[policy.Source][]policy.Kind{
		policy.Event:    {policy.AuthFailure, policy.Challenge, policy.AuthSuccess, policy.CallReject},
		policy.CTIEvent: {policy.AuthFailure, policy.Violation},
		policy.ESLLog:   {policy.AuthFailure, policy.Violation, policy.ACLReject},
		policy.CTILog:   {policy.AuthFailure, policy.Violation},
	} {
		m.attempts[source] = make(map[policy.Kind]prometheus.Counter)
		for _, k := range kinds {
			m.attempts[source][k] = attempts.WithLabelValues(source.String(), k.String())
		}
	}
	events := vec("fsban_events_total", "Events read from the event socket, by what became of them.", "outcome")
	for _, o := range detect.Outcomes {
		m.events[o] = events.WithLabelValues(string(o))
	}
	lines := vec("fsban_cti_log_lines_total", "Lines of mod_cti's log, by what became of them.", "outcome")
	for _, o := range detect.LineOutcomes {
		m.lines[o] = lines.WithLabelValues(string(o))
	}
	frames := vec("fsban_log_frames_total", "Lines of FreeSWITCH's log that the event socket sent, by what became of them. forged: a peer's text that looks like a line of FreeSWITCH's own.", "outcome")
	for _, o := range detect.LogOutcomes {
		m.frames[o] = frames.WithLabelValues(string(o))
	}
	counterOf("fsban_frames_skipped_total", "Frames of the event socket of an unknown type.",
		func() float64 { return float64(d.client.Skipped()) })
	counterOf("fsban_attempts_dropped_total", "Attempts lost because the decision queue was full.",
		func() float64 { return float64(d.dropped.Load()) })
	verdicts := vec("fsban_decisions_total", "What the policy said of attempts. spared: not counted, the address is never banned; spared_ban: it would have been banned; held: a guard holds the ban; excused: a ban was lifted a moment ago.", "verdict")
	for v := range policy.NumVerdicts {
		m.verdicts[v] = verdicts.WithLabelValues(v.String())
	}
	m.whileBan = counter("fsban_attempts_while_banned_total", "Attempts of an address that was banned already.")

	// Bans.
	bans := vec("fsban_bans_total", "Bans made, by rule. Bans that a restart restores are not counted again.", "rule")
	for _, r := range d.loop.engine.Rules() {
		m.bans[r.Name] = bans.WithLabelValues(r.Name)
	}
	for _, name := range []string{ruleOperator, ruleOffice} {
		m.bans[name] = bans.WithLabelValues(name)
	}
	counterOf("fsban_bans_refused_total", "Bans not made because firewall.max_bans operators' bans are in force.",
		func() float64 { return float64(d.refused.Load()) })
	m.adopted = counter("fsban_bans_adopted_total", "Entries found in the kernel's set that fsban did not know, and took over.")
	unbans := vec("fsban_unbans_total", "Bans that ended, by cause.", "cause")
	for _, c := range []string{causeExpired, causeOperator, causeNeverBan, causeOutage, causeRoom} {
		m.unbans[c] = unbans.WithLabelValues(c)
	}
	banned := prometheus.NewDesc("fsban_banned_prefixes", "Prefixes that are banned now.", []string{"family"}, nil)
	m.latency = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "fsban_ban_latency_seconds",
		Help:    "Time from reading the attempt that led to a ban until the kernel held the ban.",
		Buckets: []float64{.00005, .0001, .0002, .0005, .001, .002, .005, .01, .05, .1, .5, 1, 5},
	})
	reg.MustRegister(m.latency)

	// Sources.
	gauge("fsban_event_socket_up", "1 while fsban is logged in to the event socket and subscribed.",
		func() float64 { return boolean(d.client.State().Up) })
	gauge("fsban_cti_log_following", "1 while mod_cti's log is open and read.",
		func() float64 { return boolean(d.followsLog()) })
	speaking := func(s policy.Source, k policy.Kind) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fsban_source_speaking", Help: "1 where the attempts of a kind that a source tells of count; what the others tell of is only read along.",
			ConstLabels: prometheus.Labels{"source": s.String(), "kind": k.String()},
		}, func() float64 { return boolean(d.speaking[k].Load() == int32(s)+1) }))
	}
	for _, k := range policy.Kinds() {
		for _, s := range detect.Sources(k) {
			speaking(s, k)
		}
	}
	unconfirmed := func(s policy.Source) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "fsban_attempts_unconfirmed_total", Help: "Attempts that a source told of while another one spoke, which never told of them: not counted.",
			ConstLabels: prometheus.Labels{"source": s.String()},
		}, func() float64 { return float64(d.alone[s].Load()) }))
	}
	for _, s := range []policy.Source{policy.CTIEvent, policy.ESLLog, policy.CTILog} {
		unconfirmed(s)
	}
	counterOf("fsban_event_socket_connects_total", "How often the event socket came up.",
		func() float64 { return float64(d.client.State().Connects) })
	failures := vec("fsban_event_socket_errors_total", "Connections that failed or ended, by reason.", "reason")
	for _, r := range esl.Reasons {
		m.sourceErrs[r] = failures.WithLabelValues(string(r))
	}
	gauge("fsban_last_event_timestamp_seconds", "When the last event was read; 0 for never.",
		func() float64 { return float64(d.lastEvent.Load()) / 1e6 })

	// Policy.
	d.stats.Store(new(policy.Stats))
	holds := func(name, help string, f func(*policy.Stats) int) {
		gauge(name, help, func() float64 { return float64(f(d.stats.Load())) })
	}
	holds("fsban_tracked_addresses", "Addresses with attempts in a window.", func(s *policy.Stats) int { return s.Tracked })
	holds("fsban_known_good_addresses", "Addresses from which somebody has logged in lately.", func(s *policy.Stats) int { return s.Known })
	holds("fsban_attacked_users", "Users with failures in a window.", func(s *policy.Stats) int { return s.Users })
	holds("fsban_offenders", "Prefixes whose past bans make the next one longer.", func(s *policy.Stats) int { return s.Offenders })
	holds("fsban_stuck_phones", "Phones that fail again and again at an address that others log in from.", func(s *policy.Stats) int { return s.Stuck })
	holds("fsban_bans_held", "Bans that a guard holds.", func(s *policy.Stats) int { return s.Held })
	lost := func(what string, f func(*policy.Stats) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "fsban_policy_evicted_total", Help: "What the policy forgot because its memory is bounded.", ConstLabels: prometheus.Labels{"what": what},
		}, func() float64 { return float64(f(d.stats.Load())) }))
	}
	lost("addresses", func(s *policy.Stats) uint64 { return s.Evicted })
	lost("known_good", func(s *policy.Stats) uint64 { return s.KnownForgotten })
	lost("users", func(s *policy.Stats) uint64 { return s.UsersForgotten })
	lost("offenders", func(s *policy.Stats) uint64 { return s.OffendersForgotten })
	lost("challenges", func(s *policy.Stats) uint64 { return s.ChallengesForgotten })
	lost("stuck_phones", func(s *policy.Stats) uint64 { return s.StuckForgotten })
	lost("held_bans", func(s *policy.Stats) uint64 { return s.HeldLost })
	guards := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "fsban_guard_active", Help: "1 while a guard holds bans. outage: known-good addresses fail together; ban_rate: too many bans a minute."}, []string{"guard"})
	reg.MustRegister(guards)
	for g := policy.OutageGuard; g < policy.NumGuards; g++ {
		m.guards[g] = guards.WithLabelValues(g.String())
	}
	m.stuck = counter("fsban_stuck_phone_reports_total", "Stuck phones noticed.")
	m.suspicious = counter("fsban_suspicious_logins_total", "Successes right after failures of the same user, from an address that was not known-good.")
	m.distributed = counter("fsban_distributed_attacks_total", "Attacks of many addresses on one user noticed.")

	// The kernel and the disk.
	gauge("fsban_firewall_enforcing", "1 while every ban asked for is in the kernel or on its way.",
		func() float64 { return boolean(d.enforcer.Status().Enforcing) })
	gauge("fsban_firewall_pending", "Bans and unbans that the kernel has not taken yet.",
		func() float64 { return float64(d.enforcer.Status().Pending) })
	counterOf("fsban_firewall_failures_total", "Operations on the kernel that failed. They are repeated.",
		func() float64 { return float64(d.enforcer.Status().Failures) })
	counterOf("fsban_firewall_repairs_total", "Rules, chains and sets of fsban's that were missing in the kernel, and were made again.",
		func() float64 { return float64(d.enforcer.Status().Repairs) })
	counterOf("fsban_firewall_restored_total", "Bans that were missing in the kernel, and were put back.",
		func() float64 { return float64(d.enforcer.Status().Restored) })
	counterOf("fsban_journal_lost_total", "Attempts that a restart would not know of, because the disk did not take them.",
		func() float64 { return float64(d.ledger.Lost()) })
	counterOf("fsban_ledger_failures_total", "Writes of the state file that failed. They are repeated.",
		func() float64 { n, _ := d.ledger.Failures(); return float64(n) })
	gauge("fsban_ready", "1 while fsban enforces bans and at least one source is alive.",
		func() float64 { return boolean(len(d.unready()) == 0) })

	reg.MustRegister(&families{d, banned,
		prometheus.NewDesc("fsban_dropped_packets_total", "Packets that fsban's rules threw away, since fsban started.", []string{"family"}, nil),
		prometheus.NewDesc("fsban_dropped_bytes_total", "Bytes that fsban's rules threw away, since fsban started.", []string{"family"}, nil),
	})
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "fsban_build_info",
		Help:        "1, with the version as labels.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "goversion": runtime.Version()},
	}, func() float64 { return 1 }))
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// families exports what is counted by address family.
type families struct {
	d                      *Daemon
	banned, packets, bytes *prometheus.Desc
}

func (f *families) Describe(ch chan<- *prometheus.Desc) {
	ch <- f.banned
	ch <- f.packets
	ch <- f.bytes
}

func (f *families) Collect(ch chan<- prometheus.Metric) {
	v4, v6 := f.d.ledger.Count()
	dropped := f.d.enforcer.Status().Dropped
	for family, n := range map[string]int{"ipv4": v4, "ipv6": v6} {
		ch <- prometheus.MustNewConstMetric(f.banned, prometheus.GaugeValue, float64(n), family)
		ch <- prometheus.MustNewConstMetric(f.packets, prometheus.CounterValue, float64(dropped[family].Packets), family)
		ch <- prometheus.MustNewConstMetric(f.bytes, prometheus.CounterValue, float64(dropped[family].Bytes), family)
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
