package dashboards

import "strings"

import "fmt"

// Colours have meanings: red an attack or a failure, orange a state to look at, green a good state, blue a neutral value.
const (
	red, orange, yellow, green, blue, purple, grey = "red", "orange", "yellow", "green", "blue", "purple", "text"

	perMinute = "suffix: /min"
)

// kindColors are the colours of the kinds of attempts, the same in each panel.
var kindColors = []string{"auth_failure", red, "violation", orange, "call_reject", purple, "acl_reject", yellow, "challenge", blue,
	"auth_success", green, "scan", yellow, "malformed", grey, "flood", purple, "exploit", red}

// sel returns a selector of the chosen instances, with more matchers.
func sel(metric string, matchers ...string) string {
	var s strings.Builder
	s.WriteString(metric + `{instance=~"$instance"`)
	for _, m := range matchers {
		s.WriteString(", " + m)
	}
	return s.String() + "}"
}

// ofProfile returns a selector of attempts of the chosen profiles and kinds.
func ofProfile(kinds string) string {
	return sel("fsban_profile_attempts_total", `profile=~"$profile"`, kinds)
}

// attack matches all kinds but successful logins and challenges, which every phone causes.
const attack = `kind!~"auth_success|challenge"`

// minutely returns the query of a rate per minute, by a label.
func minutely(by, metric string) string {
	return fmt.Sprintf("60 * sum by (%s) (rate(%s[$__rate_interval]))", by, metric)
}

// inRange returns the query of an increase within the selected time range.
func inRange(metric string) string { return fmt.Sprintf("round(sum(increase(%s[$__range])))", metric) }

func quantile(q float64, histogram, window string) string {
	return fmt.Sprintf("histogram_quantile(%g, sum by (le) (rate(%s[%s])))", q, sel(histogram+"_bucket"), window)
}

func firstLook(l *layout) {
	l.place(
		stat("Protection",
			"PROTECTED: every chosen fsban enforces bans and has at least one live source. NOT PROTECTED also while one only "+
				"watches. `fsban status` shows the reason.", "none", "no data: is fsban scraped?").
			query("", `min(fsban_ready{instance=~"$instance"} or up{job="fsban", instance=~"$instance"})`).
			words("NOT PROTECTED", red, "PROTECTED", green).option("colorMode", "background").size(5, 4).
			alerts("FsbanDown", "FsbanNotEnforcing", "FsbanNoSource"),
		stat("Enforcement",
			"Whether every active ban is in the kernel or queued for it. NOT ENFORCED also while fsban only watches.", "none", "unknown").
			query("", "min("+sel("fsban_firewall_enforcing")+")").
			words("NOT ENFORCED", red, "enforced", green).size(4, 4).alerts("FsbanNotEnforcing"),
		stat("Active source for failed logins",
			"Source whose reports of failed logins count now. event (sofia's events) is preferred; cti_log is the last "+
				"fallback.", "none", "none").
			query("{{source}}", "max by (source) ("+sel("fsban_source_active", `kind="auth_failure"`)+" == 1)").
			option("textMode", "name").thresholds(green).size(5, 4).alerts("FsbanOnlyFallback", "FsbanNoSource"),
		stat("Guards",
			"A guard holds bans back: outage or ban_rate. `fsban held` lists the bans.", "none", "unknown").
			query("", "max("+sel("fsban_guard_active")+")").
			words("inactive", green, "HOLDING BANS", orange).size(5, 4).alerts("FsbanGuardActive"),
		stat("Firing alerts",
			"Number of fsban's alerts that fire now (rules/fsban.rules.yaml).", "none", "none").
			query("", `count(ALERTS{alertname=~"Fsban.+", alertstate="firing", instance=~"$instance|"}) or vector(0)`).
			thresholds(green, step{1, red}).size(5, 4),

		stat("Failed attempts",
			"Wrong passwords, refused calls, refusals by access lists and violations in the selected time range. Each counts "+
				"once.", "short", "none").
			query("", inRange(ofProfile(attack))).thresholds(red).size(5, 4).alerts("FsbanAttackSurge"),
		stat("New bans",
			"New bans in the selected time range.", "short", "none").
			query("", inRange(sel("fsban_bans_total"))).thresholds(red).size(5, 4).alerts("FsbanBanSurge"),
		stat("Active bans",
			"Banned addresses and networks.", "short", "none").
			query("", "sum("+sel("fsban_banned_prefixes")+")").thresholds(blue).spark().size(4, 4),
		stat("Dropped packets",
			"Packets of banned addresses dropped in the selected time range.", "short", "none").
			query("", inRange(sel("fsban_dropped_packets_total"))).thresholds(blue).size(5, 4),
		stat("Ban latency (p99)",
			"Time from reading an attempt until the kernel held the ban, 99th percentile of the selected time range.", "s", "no bans").
			query("", quantile(0.99, "fsban_ban_latency_seconds", "$__range")).thresholds(green, step{0.1, orange}, step{1, red}).size(5, 4),

		lines("Attacks and bans",
			"Failed attempts per minute by kind, and bans per minute.", perMinute, "no attacks").
			query("{{kind}}", minutely("kind", ofProfile(attack))).
			query("bans", "60 * sum(rate("+sel("fsban_bans_total")+"[$__rate_interval]))").
			stacked().colors(kindColors[:8]...).
			override("bans", object{"id": "color", "value": object{"mode": "fixed", "fixedColor": grey}},
				object{"id": "custom.stacking", "value": object{"group": "B", "mode": "none"}}, object{"id": "custom.fillOpacity", "value": 0},
				object{"id": "custom.lineWidth", "value": 2}).
			size(16, 9).alerts("FsbanAttackSurge", "FsbanBanSurge"),
		firingAlerts(),

		stat("Suspicious logins",
			"Logins from new addresses with evidence that the password was guessed. `fsban status` shows user and address.", "short", "none").
			query("", inRange(sel("fsban_suspicious_logins_total"))).thresholds(green, step{1, red}).size(6, 4).
			alerts("FsbanPasswordGuessed", "FsbanSuspiciousLogin"),
		stat("Distributed attacks",
			"Attacks on one user by many addresses, each below the limits of the rules. A strong password is the only "+
				"protection.", "short", "none").
			query("", inRange(sel("fsban_distributed_attacks_total"))).thresholds(green, step{1, orange}).size(6, 4).
			alerts("FsbanDistributedAttack"),
		stat("Attacks from never-ban addresses",
			"Bans that rules would have made of never-ban addresses: carriers, offices, this host. `fsban status` shows them.", "short", "none").
			query("", inRange(sel("fsban_decisions_total", `verdict="spared_ban"`))).thresholds(green, step{1, orange}).size(6, 4).
			alerts("FsbanNeverBanAttacks"),
		stat("Known-good addresses banned",
			"Bans of known-good addresses by rules: customers that are cut off. More than a few are forged, or the directory "+
				"is down.", "short", "none").
			query("", inRange(sel("fsban_known_good_bans_total"))).thresholds(green, step{1, orange}).size(6, 4).
			alerts("FsbanKnownGoodBanned"),
		stat("Stuck phones",
			"Phones that repeat an old password at known-good addresses, now. `fsban status` shows them.", "short", "none").
			query("", "sum("+sel("fsban_stuck_phones")+")").thresholds(green, step{1, yellow}).size(6, 4).alerts("FsbanStuckPhone"),
	)
}

// firingAlerts lists the firing alerts, as Prometheus reports them.
func firingAlerts() *Panel {
	p := newPanel("table", "Firing alerts",
		"Firing alerts, most severe first. Each has a chapter in the runbook.", "none", "no alerts").
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

// firing returns the query of the firing alerts of a severity.
func firing(severity string) string {
	return fmt.Sprintf(
		`max by (alertname, instance, severity) (ALERTS{alertname=~"Fsban.+", alertstate="firing", severity=%q, instance=~"$instance|"})`,
		severity)
}

func attacks(l *layout) {
	l.row("Attacks",
		lines("Attempts by profile",
			"Failed attempts per minute, by sofia profile.", perMinute, "no attacks").
			query("{{profile}}", minutely("profile", ofProfile(attack))).stacked().size(12, 8),
		lines("Attempts by kind",
			"Attempts per minute by kind, including successful logins. challenge: FreeSWITCH asked for a password, as it does "+
				"for every phone.", perMinute, "no attempts").
			query("{{kind}}", minutely("kind", ofProfile(`kind=~".+"`))).colors(kindColors...).size(12, 8),
		lines("Decisions by verdict",
			"Decisions per minute. counted: counts towards a ban; ban: triggers a ban; spared: never-ban address; held: a "+
				"guard holds the ban; excused: unbanned a moment ago; forged: not counted, in the name of a protected address.",
			perMinute, "no attempts").
			query("{{verdict}}", minutely("verdict", sel("fsban_decisions_total"))).
			colors("pass", green, "counted", yellow, "ban", red, "spared", blue, "spared_ban", orange, "held", purple).size(12, 8).
			alerts("FsbanNeverBanAttacks"),
		lines("Forged failures of protected addresses",
			"Failed logins per minute in the name of known-good and never-ban addresses, with nothing to prove that these sent "+
				"them. Only a tap shows them, and nobody is banned for them.", perMinute, "none").
			query("{{addresses}}", minutely("addresses", sel("fsban_forged_failures_total"))).
			colors("known_good", orange, "never_ban", blue).size(12, 8).alerts("FsbanForgedFailures"),
		lines("Attacks on FreeSWITCH itself",
			"Requests per minute that match a published attack, by advisory. Only a tap shows them. Upgrade FreeSWITCH: a ban is "+
				"no protection.", perMinute, "none").
			query("{{advisory}}", minutely("advisory", sel("fsban_exploits_total"))).
			colors("CVE-2026-116779", red, "PR-3134", orange).size(12, 8).alerts("FsbanExploit"),
		lines("Seconds without answers",
			"Seconds per minute in which a port of FreeSWITCH answered less than half of at least 500 requests. Only a tap shows "+
				"them.", "short", "none").
			query("{{instance}}", "60*rate("+sel("fsban_sip_deaf_seconds_total")+"[$__rate_interval])").size(12, 8).alerts("FsbanFreeSWITCHDeaf"),
		lines("Malformed messages by fault",
			"Malformed SIP messages per minute, by the part that is missing or invalid. Only a tap shows them.", perMinute, "none").
			query("{{fault}}", minutely("fault", sel("fsban_malformed_messages_total"))).size(12, 8),
		lines("Tracked entries",
			"Addresses with failures in a window, addresses with a recent login, users under attack, and past offenders, "+
				"whose next ban is longer.", "short", "unknown").
			query("addresses with attempts", "sum("+sel("fsban_tracked_addresses")+")").
			query("known-good addresses", "sum("+sel("fsban_known_good_addresses")+")").
			query("attacked users", "sum("+sel("fsban_attacked_users")+")").
			query("past offenders", "sum("+sel("fsban_offenders")+")").
			colors("addresses with attempts", red, "known-good addresses", green, "attacked users", orange, "past offenders", purple).
			custom("fillOpacity", 0).size(12, 8),
	)
}

func bans(l *layout) {
	l.row("Bans",
		lines("Bans by rule",
			"Bans per minute, by rule. operator: manual bans.", perMinute, "no bans").
			query("{{rule}}", minutely("rule", sel("fsban_bans_total"))+" > 0").stacked().custom("showPoints", "always").size(8, 8).
			alerts("FsbanBanSurge"),
		lines("Active bans by family",
			"Banned addresses and networks, by address family.", "short", "no bans").
			query("{{family}}", "sum by (family) ("+sel("fsban_banned_prefixes")+")").stacked().colors("ipv4", blue, "ipv6", purple).size(8, 8),
		lines("Ended bans by cause",
			"Unbans per minute, by cause. never_ban: the address was added to the list; outage: lifted after an outage; evicted: "+
				"at the ban limit.", perMinute, "no ended bans").
			query("{{cause}}", minutely("cause", sel("fsban_unbans_total"))+" > 0").stacked().custom("showPoints", "always").
			colors("expired", green, "unbanned", blue, "allowed", blue, "evicted", red, "outage", orange, "never_ban", purple).size(8, 8),
		lines("Ban latency",
			"Time from reading the last attempt until the kernel held the ban. Points mark bans.", "s", "no bans").
			query("p50", quantile(0.5, "fsban_ban_latency_seconds", "$__rate_interval")).
			query("p99", quantile(0.99, "fsban_ban_latency_seconds", "$__rate_interval")).
			custom("showPoints", "always").colors("p50", green, "p99", orange).size(8, 8),
		lines("Ban delay",
			"Time from FreeSWITCH's event, by its clock, until the kernel held the ban. The excess over the ban latency is "+
				"time in FreeSWITCH or in transit.", "s", "no bans").
			query("p50", quantile(0.5, "fsban_ban_delay_seconds", "$__rate_interval")).
			query("p99", quantile(0.99, "fsban_ban_delay_seconds", "$__rate_interval")).
			custom("showPoints", "always").colors("p50", green, "p99", orange).size(8, 8),
		lines("Held, refused and adopted bans",
			"held: now held back by a guard. refused: manual bans beyond the limit. adopted: found in the kernel. The last "+
				"two per interval.", "short", "none").
			query("held", "sum("+sel("fsban_bans_held")+")").
			query("refused", "sum(increase("+sel("fsban_bans_refused_total")+"[$__rate_interval]))").
			query("adopted", "sum(increase("+sel("fsban_bans_adopted_total")+"[$__rate_interval]))").
			colors("held", orange, "refused", red, "adopted", blue).size(8, 8),
	)
}

func sources(l *layout) {
	l.row("Sources",
		states("Sources",
			"Whether each source of attempts is alive. Worst of the selected instances.", "unknown").
			query("{{source}}", "min by (source) ("+sel("fsban_source_alive")+")").words("DOWN", red, "alive", green).size(8, 7).
			alerts("FsbanNoSource", "FsbanOnlyFallback"),
		states("Active source by kind",
			"For each kind of attempt, the reports of the preferred live source count; the others are in reserve.", "none").
			query("{{kind}}: {{source}}", "max by (kind, source) ("+sel("fsban_source_active")+")").words("in reserve", grey, "active", green).
			size(16, 7),
		lines("Time since the last attempt",
			"Time since each source last reported an attempt, successful ones included. With registering phones: minutes.", "s", "none yet").
			query("{{source}}", "min by (source) (time() - ("+sel("fsban_source_last_attempt_timestamp_seconds")+" > 0))").
			query("any event", "min(time() - ("+sel("fsban_last_event_timestamp_seconds")+" > 0))").size(8, 8).alerts("FsbanSourceSilent"),
		lines("Clock offset of FreeSWITCH",
			"FreeSWITCH's clock minus fsban's. Beyond 60 s fsban uses its own time for events.", "s", "no event yet").
			query("{{instance}}", sel("fsban_freeswitch_clock_offset_seconds")).signed().custom("fillOpacity", 0).
			thresholds(orange, step{-2, green}, step{2, orange}).colored().size(8, 8).alerts("FsbanClockSkew"),
		lines("Calls",
			"Current calls, and new calls per second, from FreeSWITCH's heartbeat.", "short", "no heartbeat yet").
			query("calls", "sum("+sel("fsban_freeswitch_sessions")+")").
			query("new per second", "sum("+sel("fsban_freeswitch_sessions_per_second")+")").
			colors("calls", blue, "new per second", green).custom("fillOpacity", 0).size(8, 8),
		lines("Events by outcome",
			"Events per minute, by outcome. no_attempt: parsed, not an attempt. no_address and not_understood indicate a "+
				"problem.", perMinute, "none").
			query("{{outcome}}", minutely("outcome", sel("fsban_events_total"))).
			colors("attempt", red, "no_attempt", green, "not_understood", orange, "clock_adrift", yellow).size(8, 8),
		lines("Log lines by outcome",
			"Lines per minute of FreeSWITCH's log (event socket) and mod_cti's file, by outcome. forged: text of a peer that "+
				"imitates a log line.", perMinute, "none").
			query("socket: {{outcome}}", minutely("outcome", sel("fsban_log_frames_total"))+" > 0").
			query("file: {{outcome}}", minutely("outcome", sel("fsban_cti_log_lines_total"))+" > 0").size(8, 8),
		lines("Event socket problems",
			"Per interval: failed or ended connections by reason, dropped attempts, unconfirmed attempts, frames of an "+
				"unknown type, and connects.", "short", "none").
			query("{{reason}}", "sum by (reason) (increase("+sel("fsban_event_socket_errors_total")+"[$__rate_interval])) > 0").
			query("lost: queue full", "sum(increase("+sel("fsban_attempts_dropped_total")+"[$__rate_interval]))").
			query("unconfirmed", "sum(increase("+sel("fsban_attempts_unconfirmed_total")+"[$__rate_interval])) > 0").
			query("unknown frames", "sum(increase("+sel("fsban_frames_skipped_total")+"[$__rate_interval])) > 0").
			query("connects", "sum(increase("+sel("fsban_event_socket_connects_total")+"[$__rate_interval])) > 0").
			colors("lost: queue full", red, "connects", green).size(8, 8).alerts("FsbanAttemptsDropped", "FsbanNoSource"),
	)
}

// colored gives each line the colour of its last value.
func (p *Panel) colored() *Panel {
	p.FieldConfig.Defaults["color"] = object{"mode": "thresholds", "seriesBy": "last"}
	return p
}

func kernel(l *layout) {
	l.row("Kernel",
		lines("Dropped packets by family",
			"Packets of banned addresses dropped per second, by address family.", "pps", "none").
			query("{{family}}", "sum by (family) (rate("+sel("fsban_dropped_packets_total")+"[$__rate_interval]))").stacked().
			colors("ipv4", blue, "ipv6", purple).size(8, 8),
		lines("Dropped bytes by family",
			"Bytes of banned addresses dropped per second, by address family.", "Bps", "none").
			query("{{family}}", "sum by (family) (rate("+sel("fsban_dropped_bytes_total")+"[$__rate_interval]))").stacked().
			colors("ipv4", blue, "ipv6", purple).size(8, 8),
		lines("Attempts of banned addresses",
			"Attempts per minute of banned addresses, and bans per minute. A few after each ban were in transit; more means "+
				"that packets bypass the ban.", perMinute, "none").
			query("attempts", "60 * sum(rate("+sel("fsban_attempts_while_banned_total")+"[$__rate_interval]))").
			query("bans", "60 * sum(rate("+sel("fsban_bans_total")+"[$__rate_interval]))").colors("attempts", red, "bans", grey).size(8, 8).
			alerts("FsbanBannedStillSeen"),
		lines("Set usage",
			"Entries of the kernel sets, as a share of their capacity (firewall.max_bans).", "percentunit", "unknown").
			query("{{family}}", "max by (family) ("+sel("fsban_firewall_set_entries")+" / "+sel("fsban_firewall_set_limit")+")").
			colors("ipv4", blue, "ipv6", purple).ceiling(1).
			size(6, 8).alerts("FsbanSetNearlyFull"),
		lines("Kernel operations (p99)",
			"Duration by operation, 99th percentile.", "s", "none").
			query("{{operation}}", "histogram_quantile(0.99, sum by (le, operation) (rate("+sel("fsban_firewall_operation_seconds_bucket")+
				"[$__rate_interval])))").custom("showPoints", "always").size(6, 8),
		lines("Kernel errors",
			"Failed operations on the kernel per interval. Each is retried.", "short", "none").
			query("all", "sum(increase("+sel("fsban_firewall_failures_total")+"[$__rate_interval]))").
			query("{{operation}}", "sum by (operation) (increase("+sel("fsban_firewall_operation_errors_total")+"[$__rate_interval])) > 0").
			colors("all", red).size(6, 8).alerts("FsbanFirewallErrors"),
		lines("Kernel repairs",
			"Per interval: rules and sets created again, and bans restored, because they were missing; and orders queued now.", "short", "none").
			query("rules and sets", "sum(increase("+sel("fsban_firewall_repairs_total")+"[$__rate_interval]))").
			query("bans", "sum(increase("+sel("fsban_firewall_restored_total")+"[$__rate_interval]))").
			query("waiting", "sum("+sel("fsban_firewall_pending_orders")+")").
			colors("rules and sets", orange, "bans", yellow, "waiting", blue).size(6, 8).
			alerts("FsbanFirewallRepairs"),
	)
}

func guards(l *layout) {
	l.row("Guards, and fsban itself",
		states("Guards",
			"outage: many known-good addresses fail at once. ban_rate: more bans per minute than policy.ban_rate.", "unknown").
			query("{{guard}}", "max by (guard) ("+sel("fsban_guard_active")+")").words("inactive", green, "holds bans", orange).size(8, 6).
			alerts("FsbanGuardActive"),
		lines("Evictions and lost writes",
			"Per interval: entries evicted because a table was full, and failed writes to disk.", "short", "none").
			query("{{table}}", "sum by (table) (increase("+sel("fsban_policy_evicted_total")+"[$__rate_interval])) > 0").
			query("journal", "sum(increase("+sel("fsban_journal_lost_total")+"[$__rate_interval]))").
			query("state file", "sum(increase("+sel("fsban_ledger_failures_total")+"[$__rate_interval]))").size(8, 6).alerts("FsbanStateNotWritten"),
		lines("Idle CPU of FreeSWITCH",
			"Idle share of the CPU, from FreeSWITCH's heartbeat.", "percentunit", "no heartbeat yet").
			query("{{instance}}", sel("fsban_freeswitch_idle_cpu_ratio")).ceiling(1).size(8, 6),
		lines("Memory of fsban",
			"Resident memory.", "bytes", "unknown").
			query("{{instance}}", `process_resident_memory_bytes{instance=~"$instance"} and on (instance) fsban_build_info`).size(8, 6),
		lines("CPU of fsban",
			"Share of one core.", "percentunit", "unknown").
			query("{{instance}}", `rate(process_cpu_seconds_total{instance=~"$instance"}[$__rate_interval]) and on (instance) fsban_build_info`).
			size(8, 6),
		lines("Reloads and control requests",
			"Per interval: reloads of the configuration, and requests on the control socket by role.", "short", "none").
			query("reload {{result}}", "sum by (result) (increase("+sel("fsban_config_reloads_total")+"[$__rate_interval])) > 0").
			query("{{role}}", "sum by (role) (increase("+sel("fsban_control_requests_total")+"[$__rate_interval])) > 0").
			colors("reload failed", red, "reload ok", green, "refused", orange).size(8, 6).alerts("FsbanReloadFailed"),
		versions(),
	)
}

func versions() *Panel {
	p := newPanel("table", "Versions",
		"Version and firewall backend of each fsban.", "none", "no data: is fsban scraped?").
		query("", "max by (instance, version, revision, goversion, backend) ("+sel("fsban_build_info")+" * on (instance) group_left (backend) "+
			sel("fsban_firewall_info")+")").size(24, 5)
	p.FieldConfig.Defaults["custom"] = object{"align": "auto", "cellOptions": object{"type": "auto"}, "inspect": false}
	p.Options = object{"cellHeight": "sm", "frameIndex": 0, "showHeader": true}
	p.Transformations = []object{{"id": "organize", "options": object{
		"excludeByName": object{"Time": true, "Value": true}, "indexByName": object{"instance": 0, "version": 1, "revision": 2, "goversion": 3,
			"backend": 4},
		"renameByName": object{"instance": "Instance", "version": "Version", "revision": "Revision", "goversion": "Go", "backend": "Firewall"},
	}}}
	return p
}

// fleet adds the row of the fleet, folded: without a fleet its metrics do not exist.
func fleet(l *layout) {
	const none = "no fleet is configured"
	l.folded("Fleet",
		states("In step",
			"Whether each node has applied and sent all statements.", none).
			query("{{instance}}", sel("fsban_fleet_in_step")).words("behind", orange, "in step", green).size(8, 7).alerts("FsbanFleetOutOfStep"),
		states("Connected",
			"Whether each node reaches Redis.", none).
			query("{{instance}}", sel("fsban_fleet_connected")).words("disconnected", red, "connected", green).size(8, 7).
			alerts("FsbanFleetOutOfStep"),
		lines("Nodes",
			"Nodes seen in the last 30 s, by reporting node.", "short", none).
			query("{{instance}}", sel("fsban_fleet_nodes")).custom("fillOpacity", 0).size(8, 7),
		lines("Unread statements",
			"Entries of the stream in Redis that each node has not read.", "short", none).
			query("{{instance}}", sel("fsban_fleet_unread_statements")).size(8, 7).alerts("FsbanFleetOutOfStep"),
		lines("Queued statements and delayed bans",
			"Statements queued to be sent, and bans of other nodes delayed by the rate limit.", "short", none).
			query("queued", "sum("+sel("fsban_fleet_queued_statements")+")").
			query("delayed bans", "sum("+sel("fsban_fleet_waiting_bans")+")").colors("queued", blue, "delayed bans", orange).size(8, 7),
		lines("Clock skew",
			"Clock of Redis minus the clock of each node.", "s", none).
			query("{{instance}}", sel("fsban_fleet_clock_skew_seconds")).signed().size(8, 7).alerts("FsbanClockSkew"),
		lines("Sent statements",
			"Statements per minute, by kind.", perMinute, none).
			query("{{kind}}", minutely("kind", sel("fsban_fleet_sent_total"))).stacked().size(8, 7),
		lines("Received statements",
			"Statements per minute, by kind.", perMinute, none).
			query("{{kind}}", minutely("kind", sel("fsban_fleet_received_total"))).stacked().size(8, 7),
		lines("Fleet problems",
			"Per interval: statements not applied, by reason; statements lost (queue full, Redis full, trimmed before "+
				"reading); errors, and complete reads.", "short", none).
			query("{{reason}}", "sum by (reason) (increase("+sel("fsban_fleet_refused_total")+"[$__rate_interval])) > 0").
			query("lost: queue full", "sum(increase("+sel("fsban_fleet_queue_dropped_total")+"[$__rate_interval]))").
			query("lost: Redis full", "sum(increase("+sel("fsban_fleet_redis_full_total")+"[$__rate_interval]))").
			query("lost: trimmed before reading", "sum(increase("+sel("fsban_fleet_gaps_total")+"[$__rate_interval]))").
			query("errors", "sum(increase("+sel("fsban_fleet_errors_total")+"[$__rate_interval]))").
			query("complete reads", "sum(increase("+sel("fsban_fleet_resyncs_total")+"[$__rate_interval]))").
			colors("lost: queue full", red, "lost: Redis full", red, "lost: trimmed before reading", red, "errors", orange, "complete reads", blue).
			size(8, 7).alerts("FsbanFleetOutOfStep"),
	)
}
