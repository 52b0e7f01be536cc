package dashboards

import "fmt"

// Colours that mean something: red is an attack or a failure, orange what somebody should look at, green what is well, blue
// what is neither.
const (
	red, orange, yellow, green, blue, purple, grey = "red", "orange", "yellow", "green", "blue", "purple", "text"

	perMinute = "suffix: /min"
)

// kindColors are those of the kinds of attempts, the same in each panel.
var kindColors = []string{"auth_failure", red, "violation", orange, "call_reject", purple, "acl_reject", yellow, "challenge", blue, "auth_success", green}

// sel is a metric of the chosen instances, with more matchers.
func sel(metric string, matchers ...string) string {
	s := metric + `{instance=~"$instance"`
	for _, m := range matchers {
		s += ", " + m
	}
	return s + "}"
}

// ofProfile is the attempts of the chosen profiles, attacks only where no other kinds are named.
func ofProfile(kinds string) string {
	return sel("fsban_profile_attempts_total", `profile=~"$profile"`, kinds)
}

// attack are the kinds that are nobody's right password and not every phone's first request.
const attack = `kind!~"auth_success|challenge"`

// minutely is how often a minute something is counted, by a label.
func minutely(by, metric string) string {
	return fmt.Sprintf("60 * sum by (%s) (rate(%s[$__rate_interval]))", by, metric)
}

// inRange is how often something was counted in what the dashboard shows.
func inRange(metric string) string { return fmt.Sprintf("round(sum(increase(%s[$__range])))", metric) }

func quantile(q float64, histogram, window string) string {
	return fmt.Sprintf("histogram_quantile(%g, sum by (le) (rate(%s[%s])))", q, sel(histogram+"_bucket"), window)
}

func firstLook(l *layout) {
	l.place(
		stat("Are we protected?", "Whether each chosen fsban enforces bans and hears at least one source. `fsban status` says why not.", "none", "no fsban here: is it scraped?").
			query("", `min(fsban_ready{instance=~"$instance"} or up{job="fsban", instance=~"$instance"})`).
			words("NOT PROTECTED", red, "PROTECTED", green).option("colorMode", "background").size(5, 4).alerts("FsbanDown", "FsbanNotEnforcing", "FsbanNoSource"),
		stat("Bans in the kernel", "Whether the kernel has every ban that was asked for.", "none", "unknown").
			query("", "min("+sel("fsban_firewall_enforcing")+")").
			words("NOT ENFORCED", red, "enforced", green).size(4, 4).alerts("FsbanNotEnforcing"),
		stat("Wrong passwords are told by", "The source whose word counts for failed logins now. event is sofia's, the best; cti_log is the last resort.", "none", "nobody").
			query("{{source}}", "max by (source) ("+sel("fsban_source_speaking", `kind="auth_failure"`)+" == 1)").
			option("textMode", "name").thresholds(green).size(5, 4).alerts("FsbanOnlyFallback", "FsbanNoSource"),
		stat("Guards", "A guard holds bans back: many customers fail together (outage), or there are too many bans a minute (ban_rate). `fsban held` shows which.", "none", "unknown").
			query("", "max("+sel("fsban_guard_active")+")").
			words("quiet", green, "HOLDING BANS", orange).size(5, 4).alerts("FsbanGuardActive"),
		stat("Alerts", "fsban's alerts that fire now. They are in rules/fsban.rules.yaml.", "none", "none").
			query("", `count(ALERTS{alertname=~"Fsban.+", alertstate="firing", instance=~"$instance|"}) or vector(0)`).
			thresholds(green, step{1, red}).size(5, 4),

		stat("Failed attempts", "Wrong passwords, refused calls, refusals by access lists and violations in the time shown. Each counts once.", "short", "none").
			query("", inRange(ofProfile(attack))).thresholds(red).size(5, 4).alerts("FsbanAttackSurge"),
		stat("Bans made", "In the time shown.", "short", "none").
			query("", inRange(sel("fsban_bans_total"))).thresholds(red).size(5, 4).alerts("FsbanBanSurge"),
		stat("Banned now", "Addresses and networks that are banned.", "short", "none").
			query("", "sum("+sel("fsban_banned_prefixes")+")").thresholds(blue).spark().size(4, 4),
		stat("Packets dropped", "What the banned sent all the same, in the time shown. Nobody saw it.", "short", "none").
			query("", inRange(sel("fsban_dropped_packets_total"))).thresholds(blue).size(5, 4),
		stat("From attempt to ban", "In 99 of 100 bans of the time shown, the kernel held the ban so long after the event was read.", "s", "no ban yet").
			query("", quantile(0.99, "fsban_ban_latency_seconds", "$__range")).thresholds(green, step{0.1, orange}, step{1, red}).size(5, 4),

		lines("What is happening", "Failed attempts a minute, by kind, and bans a minute.", perMinute, "nobody attacks").
			query("{{kind}}", minutely("kind", ofProfile(attack))).
			query("bans", "60 * sum(rate("+sel("fsban_bans_total")+"[$__rate_interval]))").
			stacked().colors(kindColors[:8]...).
			override("bans", object{"id": "color", "value": object{"mode": "fixed", "fixedColor": grey}},
				object{"id": "custom.stacking", "value": object{"group": "B", "mode": "none"}}, object{"id": "custom.fillOpacity", "value": 0}, object{"id": "custom.lineWidth", "value": 2}).
			size(16, 9).alerts("FsbanAttackSurge", "FsbanBanSurge"),
		needsMe(),

		stat("Suspicious logins", "Right passwords right after wrong ones, from where nobody had logged in before. Ask the user: the password may be guessed.", "short", "none").
			query("", inRange(sel("fsban_suspicious_logins_total"))).thresholds(green, step{1, red}).size(6, 4).alerts("FsbanSuspiciousLogin"),
		stat("Attacks of many on one user", "Each address does too little to be banned. The password must be good.", "short", "none").
			query("", inRange(sel("fsban_distributed_attacks_total"))).thresholds(green, step{1, orange}).size(6, 4).alerts("FsbanDistributedAttack"),
		stat("Bans spared", "Addresses that are never banned and would have been: carriers, offices, this host. `fsban status` names them.", "short", "none").
			query("", inRange(sel("fsban_decisions_total", `verdict="spared_ban"`))).thresholds(green, step{1, orange}).size(6, 4).alerts("FsbanNeverBanAttacks"),
		stat("Stuck phones", "Phones with an old password at offices that are known-good, now. `fsban status` names them.", "short", "none").
			query("", "sum("+sel("fsban_stuck_phones")+")").thresholds(green, step{1, yellow}).size(6, 4).alerts("FsbanStuckPhone"),
	)
}

// needsMe lists the alerts that fire. Prometheus itself says which.
func needsMe() *Panel {
	p := newPanel("table", "What needs me", "The alerts that fire, the gravest first. Each has its chapter in the runbook.", "none", "nothing: no alert fires").
		query("", "sort_desc(3 * "+firing("critical")+" or 2 * "+firing("warning")+" or "+firing("info")+")").
		size(8, 9)
	p.FieldConfig.Defaults["custom"] = object{"align": "auto", "cellOptions": object{"type": "auto"}, "inspect": false}
	p.Options = object{"cellHeight": "sm", "frameIndex": 0, "showHeader": true}
	p.Transformations = []object{{"id": "organize", "options": object{
		"excludeByName": object{"Time": true, "Value": true},
		"indexByName":   object{"severity": 0, "alertname": 1, "instance": 2},
		"renameByName":  object{"severity": "Severity", "alertname": "Alert", "instance": "Instance"},
	}}}
	p.override("Severity",
		object{"id": "custom.width", "value": 80},
		object{"id": "custom.cellOptions", "value": object{"type": "color-text"}},
		object{"id": "mappings", "value": []object{{"type": "value", "options": object{
			"critical": object{"color": red, "index": 0}, "warning": object{"color": orange, "index": 1}, "info": object{"color": blue, "index": 2},
		}}}})
	p.Links = []link{linkTo("Runbook", runbook)}
	return p
}

// firing are the alerts of a severity that fire.
func firing(severity string) string {
	return fmt.Sprintf(`max by (alertname, instance, severity) (ALERTS{alertname=~"Fsban.+", alertstate="firing", severity=%q, instance=~"$instance|"})`, severity)
}

func attacks(l *layout) {
	l.row("Attacks",
		lines("Attempts by profile", "Failed attempts a minute, by profile of sofia.", perMinute, "nobody attacks").
			query("{{profile}}", minutely("profile", ofProfile(attack))).stacked().size(12, 8),
		lines("All that knocks", "Attempts a minute by kind, right passwords too. challenge: FreeSWITCH asked for a password, as it asks every phone.", perMinute, "nobody knocks").
			query("{{kind}}", minutely("kind", ofProfile(`kind=~".+"`))).colors(kindColors...).size(12, 8),
		lines("What became of them", "Decisions a minute. counted: nearer to a ban; ban: the last one before it; spared: never banned; held: a guard holds the ban; excused: unbanned a moment ago.", perMinute, "nobody knocks").
			query("{{verdict}}", minutely("verdict", sel("fsban_decisions_total"))).
			colors("pass", green, "counted", yellow, "ban", red, "spared", blue, "spared_ban", orange, "held", purple).size(12, 8).alerts("FsbanNeverBanAttacks"),
		lines("Who is watched", "Addresses with failures in a window, addresses from which somebody has logged in lately, users under attack, and past offenders, whose next ban is longer.", "short", "unknown").
			query("addresses with attempts", "sum("+sel("fsban_tracked_addresses")+")").
			query("known-good addresses", "sum("+sel("fsban_known_good_addresses")+")").
			query("attacked users", "sum("+sel("fsban_attacked_users")+")").
			query("past offenders", "sum("+sel("fsban_offenders")+")").
			colors("addresses with attempts", red, "known-good addresses", green, "attacked users", orange, "past offenders", purple).custom("fillOpacity", 0).size(12, 8),
	)
}

func bans(l *layout) {
	l.row("Bans",
		lines("Bans by rule", "Bans a minute, by the rule that made them. operator: by hand.", perMinute, "nobody was banned").
			query("{{rule}}", minutely("rule", sel("fsban_bans_total"))+" > 0").stacked().custom("showPoints", "always").size(8, 8).alerts("FsbanBanSurge"),
		lines("Banned now", "Addresses and networks that are banned, by family.", "short", "nobody is banned").
			query("{{family}}", "sum by (family) ("+sel("fsban_banned_prefixes")+")").stacked().colors("ipv4", blue, "ipv6", purple).size(8, 8),
		lines("Bans that ended", "Unbans a minute, by cause. expired: served; operator: by hand; never_ban: the address came onto the list; outage: it was a customer; room: the set was full.", perMinute, "no ban ended").
			query("{{cause}}", minutely("cause", sel("fsban_unbans_total"))+" > 0").stacked().custom("showPoints", "always").
			colors("expired", green, "operator", blue, "room", red, "outage", orange, "never_ban", purple).size(8, 8),
		lines("From attempt to ban", "From reading the last attempt until the kernel held the ban. Points stand where bans were made.", "s", "no ban yet").
			query("p50", quantile(0.5, "fsban_ban_latency_seconds", "$__rate_interval")).query("p99", quantile(0.99, "fsban_ban_latency_seconds", "$__rate_interval")).
			custom("showPoints", "always").colors("p50", green, "p99", orange).size(8, 8),
		lines("From FreeSWITCH's event to ban", "The same from the time that FreeSWITCH gave the event. What it is longer than the other, the event waited in FreeSWITCH or on the way.", "s", "no ban yet").
			query("p50", quantile(0.5, "fsban_ban_delay_seconds", "$__rate_interval")).query("p99", quantile(0.99, "fsban_ban_delay_seconds", "$__rate_interval")).
			custom("showPoints", "always").colors("p50", green, "p99", orange).size(8, 8),
		lines("Bans not made", "held: a guard holds them, now. refused: by hand, and no room. adopted: found in the kernel. The last two in the time of one point.", "short", "none").
			query("held", "sum("+sel("fsban_bans_held")+")").
			query("refused", "sum(increase("+sel("fsban_bans_refused_total")+"[$__rate_interval]))").
			query("adopted", "sum(increase("+sel("fsban_bans_adopted_total")+"[$__rate_interval]))").
			colors("held", orange, "refused", red, "adopted", blue).size(8, 8),
	)
}

func sources(l *layout) {
	l.row("Sources",
		states("Sources", "Whether a source of attempts is there. The worst of the chosen instances.", "unknown").
			query("{{source}}", "min by (source) ("+sel("fsban_source_alive")+")").words("dead", red, "alive", green).size(8, 7).alerts("FsbanNoSource", "FsbanOnlyFallback"),
		states("Who speaks for what", "For each kind of attempt the best source that is alive speaks; the others are read along.", "nobody").
			query("{{kind}}: {{source}}", "max by (kind, source) ("+sel("fsban_source_speaking")+")").words("in reserve", grey, "speaks", green).size(16, 7),
		lines("Since the last attempt", "How long ago a source told of somebody's attempt, right or wrong. Phones make it minutes.", "s", "none yet").
			query("{{source}}", "min by (source) (time() - ("+sel("fsban_source_last_attempt_timestamp_seconds")+" > 0))").
			query("any event", "min(time() - ("+sel("fsban_last_event_timestamp_seconds")+" > 0))").size(8, 8).alerts("FsbanSourceSilent"),
		lines("FreeSWITCH's clock", "FreeSWITCH's clock minus fsban's. Beyond 60 s the times of events are not believed.", "s", "no event yet").
			query("{{instance}}", sel("fsban_freeswitch_clock_offset_seconds")).signed().custom("fillOpacity", 0).thresholds(orange, step{-2, green}, step{2, orange}).colored().size(8, 8).alerts("FsbanClockSkew"),
		lines("Calls", "FreeSWITCH's own word: calls that stand, and new ones a second.", "short", "no heartbeat yet").
			query("calls", "sum("+sel("fsban_freeswitch_sessions")+")").
			query("new a second", "sum("+sel("fsban_freeswitch_sessions_per_second")+")").
			colors("calls", blue, "new a second", green).custom("fillOpacity", 0).size(8, 8),
		lines("What came over the event socket", "Events a minute, by what became of them. no_attempt: understood, and nothing to count. no_address and not_understood should not be.", perMinute, "nothing").
			query("{{outcome}}", minutely("outcome", sel("fsban_events_total"))).
			colors("attempt", red, "no_attempt", green, "not_understood", orange, "clock_adrift", yellow).size(8, 8),
		lines("Lines of logs", "FreeSWITCH's log, over the event socket, and mod_cti's file: lines a minute, by what became of them. forged: a peer's text that looks like a line.", perMinute, "nothing").
			query("socket: {{outcome}}", minutely("outcome", sel("fsban_log_frames_total"))+" > 0").
			query("file: {{outcome}}", minutely("outcome", sel("fsban_cti_log_lines_total"))+" > 0").size(8, 8),
		lines("Trouble with the event socket", "In the time of one point: connections that failed or ended, by reason; attempts that were lost; that one source alone told of; frames of an unknown type; and how often it came up.", "short", "none").
			query("{{reason}}", "sum by (reason) (increase("+sel("fsban_event_socket_errors_total")+"[$__rate_interval])) > 0").
			query("lost: queue full", "sum(increase("+sel("fsban_attempts_dropped_total")+"[$__rate_interval]))").
			query("unconfirmed", "sum(increase("+sel("fsban_attempts_unconfirmed_total")+"[$__rate_interval])) > 0").
			query("unknown frames", "sum(increase("+sel("fsban_frames_skipped_total")+"[$__rate_interval])) > 0").
			query("came up", "sum(increase("+sel("fsban_event_socket_connects_total")+"[$__rate_interval])) > 0").
			colors("lost: queue full", red, "came up", green).size(8, 8).alerts("FsbanAttemptsDropped", "FsbanNoSource"),
	)
}

// colored has each line take the colour of its last value.
func (p *Panel) colored() *Panel {
	p.FieldConfig.Defaults["color"] = object{"mode": "thresholds", "seriesBy": "last"}
	return p
}

func kernel(l *layout) {
	l.row("Kernel",
		lines("Packets dropped", "What the banned sent all the same, a second, by family.", "pps", "nothing").
			query("{{family}}", "sum by (family) (rate("+sel("fsban_dropped_packets_total")+"[$__rate_interval]))").stacked().colors("ipv4", blue, "ipv6", purple).size(8, 8),
		lines("Bytes dropped", "The same in bytes.", "Bps", "nothing").
			query("{{family}}", "sum by (family) (rate("+sel("fsban_dropped_bytes_total")+"[$__rate_interval]))").stacked().colors("ipv4", blue, "ipv6", purple).size(8, 8),
		lines("Banned and still heard of", "Attempts a minute from addresses that are banned, beside bans a minute. A few after each ban were on their way; more means that packets pass by the ban.", perMinute, "none").
			query("attempts", "60 * sum(rate("+sel("fsban_attempts_while_banned_total")+"[$__rate_interval]))").
			query("bans", "60 * sum(rate("+sel("fsban_bans_total")+"[$__rate_interval]))").colors("attempts", red, "bans", grey).size(8, 8).alerts("FsbanBannedStillSeen"),
		lines("How full the sets are", "Entries of the kernel's sets, as a share of what fits (firewall.max_bans).", "percentunit", "unknown").
			query("{{family}}", "max by (family) ("+sel("fsban_firewall_set_entries")+" / "+sel("fsban_firewall_set_limit")+")").colors("ipv4", blue, "ipv6", purple).ceiling(1).
			size(6, 8).alerts("FsbanSetNearlyFull"),
		lines("Operations on the kernel", "How long they take, p99, by operation.", "s", "none").
			query("{{operation}}", "histogram_quantile(0.99, sum by (le, operation) (rate("+sel("fsban_firewall_operation_seconds_bucket")+"[$__rate_interval])))").custom("showPoints", "always").size(6, 8),
		lines("Errors", "Operations on the kernel that failed, in the time of one point. They are repeated.", "short", "none").
			query("all", "sum(increase("+sel("fsban_firewall_failures_total")+"[$__rate_interval]))").
			query("{{operation}}", "sum by (operation) (increase("+sel("fsban_firewall_operation_errors_total")+"[$__rate_interval])) > 0").colors("all", red).size(6, 8).alerts("FsbanFirewallErrors"),
		lines("Repairs", "What was missing in the kernel and was put back, in the time of one point: rules and sets, bans; and what waits now.", "short", "none").
			query("rules and sets", "sum(increase("+sel("fsban_firewall_repairs_total")+"[$__rate_interval]))").
			query("bans", "sum(increase("+sel("fsban_firewall_restored_total")+"[$__rate_interval]))").
			query("waiting", "sum("+sel("fsban_firewall_pending")+")").colors("rules and sets", orange, "bans", yellow, "waiting", blue).size(6, 8).alerts("FsbanFirewallRepairs"),
	)
}

func guards(l *layout) {
	l.row("Guards, and fsban itself",
		states("Guards", "outage: many known-good addresses fail together. ban_rate: more bans a minute than policy.ban_rate.", "unknown").
			query("{{guard}}", "max by (guard) ("+sel("fsban_guard_active")+")").words("quiet", green, "holds bans", orange).size(8, 6).alerts("FsbanGuardActive"),
		lines("Forgotten for lack of room", "What the policy forgot because its memory is bounded, and what the disk did not take, in the time of one point.", "short", "nothing").
			query("{{what}}", "sum by (what) (increase("+sel("fsban_policy_evicted_total")+"[$__rate_interval])) > 0").
			query("journal", "sum(increase("+sel("fsban_journal_lost_total")+"[$__rate_interval]))").
			query("state file", "sum(increase("+sel("fsban_ledger_failures_total")+"[$__rate_interval]))").size(8, 6).alerts("FsbanStateNotWritten"),
		lines("FreeSWITCH's CPU", "The share of its CPU that is idle, as its heartbeat tells.", "percentunit", "no heartbeat yet").
			query("{{instance}}", sel("fsban_freeswitch_idle_cpu_ratio")).ceiling(1).size(8, 6),
		lines("fsban's memory", "Resident memory.", "bytes", "unknown").
			query("{{instance}}", `process_resident_memory_bytes{instance=~"$instance"} and on (instance) fsban_build_info`).size(8, 6),
		lines("fsban's CPU", "Of one core.", "percentunit", "unknown").
			query("{{instance}}", `rate(process_cpu_seconds_total{instance=~"$instance"}[$__rate_interval]) and on (instance) fsban_build_info`).size(8, 6),
		lines("Configuration and control", "In the time of one point: reloads of the configuration, and requests over the control socket by role.", "short", "none").
			query("reload {{result}}", "sum by (result) (increase("+sel("fsban_config_reloads_total")+"[$__rate_interval])) > 0").
			query("{{role}}", "sum by (role) (increase("+sel("fsban_control_requests_total")+"[$__rate_interval])) > 0").
			colors("reload failed", red, "reload ok", green, "refused", orange).size(8, 6).alerts("FsbanReloadFailed"),
		versions(),
	)
}

func versions() *Panel {
	p := newPanel("table", "Versions", "Each fsban, and how it bans.", "none", "no fsban here: is it scraped?").
		query("", "max by (instance, version, revision, goversion, backend) ("+sel("fsban_build_info")+" * on (instance) group_left (backend) "+sel("fsban_firewall_info")+")").size(24, 5)
	p.FieldConfig.Defaults["custom"] = object{"align": "auto", "cellOptions": object{"type": "auto"}, "inspect": false}
	p.Options = object{"cellHeight": "sm", "frameIndex": 0, "showHeader": true}
	p.Transformations = []object{{"id": "organize", "options": object{
		"excludeByName": object{"Time": true, "Value": true}, "indexByName": object{"instance": 0, "version": 1, "revision": 2, "goversion": 3, "backend": 4},
		"renameByName": object{"instance": "Instance", "version": "Version", "revision": "Revision", "goversion": "Go", "backend": "Firewall"},
	}}}
	return p
}

// fleet is for those who have one: without, its metrics are not there.
func fleet(l *layout) {
	const none = "no fleet is configured"
	l.folded("Fleet",
		states("In step", "Whether each node has all that the fleet knows.", none).
			query("{{instance}}", sel("fsban_fleet_in_step")).words("behind", orange, "in step", green).size(8, 7).alerts("FsbanFleetOutOfStep"),
		states("Connected", "Whether each node reaches Redis.", none).
			query("{{instance}}", sel("fsban_fleet_connected")).words("cut off", red, "connected", green).size(8, 7).alerts("FsbanFleetOutOfStep"),
		lines("Nodes", "Nodes that were seen lately, as each one sees it.", "short", none).
			query("{{instance}}", sel("fsban_fleet_nodes")).custom("fillOpacity", 0).size(8, 7),
		lines("Behind", "How far each node is behind what stands in Redis: entries not read yet.", "short", none).
			query("{{instance}}", sel("fsban_fleet_behind")).size(8, 7).alerts("FsbanFleetOutOfStep"),
		lines("Waiting", "What waits to be said to the fleet, and bans of other nodes that wait because too many came at once.", "short", none).
			query("to be said", "sum("+sel("fsban_fleet_queue")+")").
			query("bans of others", "sum("+sel("fsban_fleet_waiting")+")").colors("to be said", blue, "bans of others", orange).size(8, 7),
		lines("Clocks", "How far each node's clock and Redis' differ.", "s", none).
			query("{{instance}}", sel("fsban_fleet_clock_skew_seconds")).signed().size(8, 7).alerts("FsbanClockSkew"),
		lines("Sent", "Entries a minute, by what they are.", perMinute, none).
			query("{{what}}", minutely("what", sel("fsban_fleet_sent_total"))).stacked().size(8, 7),
		lines("Received", "Entries a minute, by what they are.", perMinute, none).
			query("{{what}}", minutely("what", sel("fsban_fleet_received_total"))).stacked().size(8, 7),
		lines("Trouble", "In the time of one point: entries not taken, by reason; what was lost because the queue or Redis had no room, or before it was read; errors, and full exchanges.", "short", none).
			query("{{reason}}", "sum by (reason) (increase("+sel("fsban_fleet_refused_total")+"[$__rate_interval])) > 0").
			query("lost: queue full", "sum(increase("+sel("fsban_fleet_queue_dropped_total")+"[$__rate_interval]))").
			query("lost: Redis full", "sum(increase("+sel("fsban_fleet_full_total")+"[$__rate_interval]))").
			query("lost: not read in time", "sum(increase("+sel("fsban_fleet_gaps_total")+"[$__rate_interval]))").
			query("errors", "sum(increase("+sel("fsban_fleet_errors_total")+"[$__rate_interval]))").
			query("full exchanges", "sum(increase("+sel("fsban_fleet_resyncs_total")+"[$__rate_interval]))").
			colors("lost: queue full", red, "lost: Redis full", red, "lost: not read in time", red, "errors", orange, "full exchanges", blue).size(8, 7).alerts("FsbanFleetOutOfStep"),
	)
}
