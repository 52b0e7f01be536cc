//go:build linux

package dashboards_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/config"
	"fsban/dashboards"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/internal/redisserver"
)

// mayBeEmpty lists the metrics whose queries have no result in the played night, with reasons.
var mayBeEmpty = map[string]string{
	"fsban_fleet_refused_total":         "shown where there were some",
	"fsban_event_socket_errors_total":   "shown where there were some",
	"fsban_attempts_unconfirmed_total":  "shown where there were some",
	"fsban_frames_skipped_total":        "shown where there were some",
	"fsban_policy_evicted_total":        "shown where there were some",
	"fsban_firewall_operation_errors":   "shown where there were some",
	"fsban_unbans_total":                "shown where there were some",
	"fsban_event_socket_connects_total": "the sockets came up before anybody looked",
	"fsban_config_":                     "shown where there were some",
	"fsban_control_requests_total":      "shown where there were some",
}

// notPlayed lists alerts that this test cannot trigger, with reasons; rules/fsban_test.yaml tests them all.
var notPlayed = map[string]string{
	"FsbanKnownGoodBanned": "policy/shieldknown_test.go has its counter, promtool the rule",
	"FsbanForgedFailures":  "only a tap shows forged failures",
	"FsbanFreeSWITCHDeaf":  "only a tap shows unanswered requests",
	"FsbanExploit":         "only a tap shows attacks on FreeSWITCH itself",
	"FsbanWatching":        "it fires after an hour, and no daemon of the stage watches; promtool tests the rule",
	"FsbanAttemptsDropped": "fsban is faster than FreeSWITCH can be played",
	"FsbanStateNotWritten": "the disk of the test takes everything",
	"FsbanReloadFailed":    "no file is read here; daemon/reload_test.go has its metric",
}

// TestDashboardAndAlertsTellTheTruth plays attacks on real fsbans and runs every query of dashboard and rules on a real
// Prometheus. Then it causes faults until Alertmanager has received the alerts.
func TestDashboardAndAlertsTellTheTruth(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		tools := borrowTools(t)
		s := newStage(t)
		// Three work at first, and one never connects to its FreeSWITCH.
		redis := redisserver.Start(t)
		a := s.guard(func(c *config.Config) {
			c.Fleet.Redis = "redis://" + redis.Addr()
			c.Firewall.Backend, c.Firewall.MaxBans = config.BackendIPTables, 13
			c.Policy.IgnoreIP = config.IgnoreList{"127.0.0.0/8", "198.51.100.0/24"}
			c.CTILog.Path = ctiLog(t, s, "a.log")
		})
		b := s.guard(func(c *config.Config) {
			c.Policy.BanRate, c.CTILog.Path = 110, ctiLog(t, s, "b.log")
		})
		c := s.guard(func(*config.Config) {})
		s.guard(func(c *config.Config) { c.FreeSWITCH.Address = "127.0.0.1:1" })
		s.watch(immediate(file(t, "rules/fsban.rules.yaml")), file(t, "rules/fail2ban.rules.yaml"))

		// Prometheus must have scraped counters at zero, or their increase is unknown.
		s.eventually("four fsbans are scraped twice, and three are ready", func() error {
			return s.all(map[string]float64{
				`sum(up)`: 4, `sum(fsban_ready)`: 3, `count(count_over_time(fsban_ready[1m]) >= 2)`: 4,
				`sum(fsban_source_alive)`: 3 + 3 + 2,
			})
		})
		// The first attempt at a profile creates its counters.
		a.happens(1, fakeswitch.WrongPassword, "203.0.113.200", "early")
		a.call("203.0.113.200", 1)
		b.happens(1, fakeswitch.WrongPassword, "203.0.113.200", "early")
		s.eventually("the profiles are scraped twice", func() error {
			return s.all(map[string]float64{`count(count_over_time(fsban_profile_attempts_total{profile!~"unknown|other", kind="auth_failure"}[1m]) >= 2)`: 3})
		})

		playNight(a)
		playFlood(b)
		playBusyAndSilent(c)
		at := a.listen
		s.eventually("all of the night is counted", func() error { return s.all(played(at)) })
		if n := s.knock("203.0.113.1", 20); n > 0 {
			t.Errorf("%d of 20 packets of a banned address arrive", n)
		}
		s.eventually("the packets of a bystander arrive", func() error {
			if n := s.knock("203.0.113.77", 3); n != 3 { // on a busy machine one may be late
				return fmt.Errorf("%d of 3", n)
			}
			return nil
		})
		s.eventually("the packets are counted", func() error {
			return s.all(map[string]float64{
				`fsban_dropped_packets_total{family="ipv4", instance="` + at + `"}`: 20,
				`fsban_dropped_packets_total{family="ipv6", instance="` + at + `"}`: 0,
				`f2b_jail_banned_current{instance="` + at + `"}`:                    12, // the same number under fail2ban's name
			})
		})
		for _, instance := range []string{".*", at} {
			panelsAnswer(s, instance)
		}
		tilesAreRight(s, at)
		rulesAnswer(s)
		metricsExist(s, at)

		redis.Kill()
		breakThings(s, a, b, tools)
		alertsArrive(s)
	}, "prometheus", "promtool", "prometheus-alertmanager", "redis-server", "iptables", "ip6tables")
}

// ctiLog creates an empty log of mod_cti.
func ctiLog(t *testing.T, s *stage, name string) string {
	t.Helper()
	s.write(name, "")
	return filepath.Join(s.dir, name)
}

// immediate returns rules without their waiting times.
func immediate(rules string) string {
	return regexp.MustCompile(`(?m)^( +for:) .*$`).ReplaceAllString(rules, "$1 0s")
}

// all describes the values that differ from the wanted ones.
func (s *stage) all(want map[string]float64) error {
	for expr, w := range want {
		got, err := s.value(expr)
		if err != nil {
			return err
		}
		if got != w {
			return fmt.Errorf("%s: %v, want %v", expr, got, w)
		}
	}
	return nil
}

// call reports refused calls of strangers at the profile external.
func (g *guard) call(addr string, times int) {
	for range times {
		g.fs.Emit(fakeswitch.RefusedCall, fakeswitch.Caller{Addr: netip.MustParseAddr(addr), Port: 5060, User: "100", Number: "0044123", UserAgent: "softphone", Profile: "external"}, time.Now())
	}
}

// playNight plays a night at a; played returns the expected values.
func playNight(a *guard) {
	var lines strings.Builder // of mod_cti, which reports the first failure too
	for i := range 9 {
		a.happens(5, fakeswitch.WrongPassword, fmt.Sprintf("203.0.113.%d", 1+i), fmt.Sprint("victim", i))
	}
	for range 5 {
		fmt.Fprintf(&lines, "ip[203.0.113.1] user[victim0] at[%s] Registration failed\n", time.Now().Format("2006-01-02T15:04:05.000000-0700"))
	}
	if err := os.WriteFile(a.cfg.CTILog.Path, []byte(lines.String()), 0o600); err != nil {
		panic(err)
	}
	a.happens(5, fakeswitch.WrongPassword, "2001:db8:66::7", "victim")
	for range 3 {
		a.fs.Emit(fakeswitch.UnknownUser, fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.99"), User: "100", UserAgent: "sipvicious", Profile: "internal"}, time.Now())
	}
	a.call("203.0.113.98", 5)
	a.happens(2, fakeswitch.RejectedRegister, "203.0.113.97", "")
	a.happens(5, fakeswitch.WrongPassword, "198.51.100.99", "carrier")
	for i := range 20 {
		a.happens(1, fakeswitch.WrongPassword, fmt.Sprintf("203.0.113.%d", 160+i), "1000")
	}
	a.happens(3, fakeswitch.WrongPassword, "203.0.113.150", "3001")
	a.happens(1, fakeswitch.Success, "203.0.113.150", "3001") // a suspicious login
	a.happens(1, fakeswitch.Success, "203.0.113.165", "1000") // one of the 20 has guessed the password
	a.happens(1, fakeswitch.Success, "203.0.113.140", "4000")
	a.happens(5, fakeswitch.WrongPassword, "203.0.113.140", "4001") // a stuck phone
	a.happens(5, fakeswitch.Refresh, "203.0.113.30", "5000")
	// A banned address is still reported, with a challenge and a failure each time: 12 bans may bring 130 such attempts.
	a.happens(80, fakeswitch.WrongPassword, "203.0.113.2", "victim1")
}

// played returns the values expected after playNight.
func played(at string) map[string]float64 {
	own := func(metric, matchers string) string { return metric + `{instance="` + at + `"` + matchers + `}` }
	failures := 1 + 9*5 + 5 + 3 + 5 + 20 + 3 + 5 + 80
	return map[string]float64{
		own("fsban_profile_attempts_total", `, profile="internal", kind="auth_failure"`): float64(failures),
		own("fsban_profile_attempts_total", `, profile="internal", kind="auth_success"`): 8,
		own("fsban_profile_attempts_total", `, profile="external", kind="call_reject"`):  6,
		"sum(" + own("fsban_profile_attempts_total", `, kind="acl_reject"`) + ")":        2,
		own("fsban_attempts_total", `, source="event", kind="auth_failure"`):             float64(failures),
		own("fsban_attempts_total", `, source="esl_log", kind="acl_reject"`):             2,
		own("fsban_attempts_total", `, source="cti_log", kind="auth_failure"`):           5,
		own("fsban_bans_total", `, rule="auth"`):                                         10,
		own("fsban_bans_total", `, rule="scanner"`):                                      1,
		own("fsban_bans_total", `, rule="toll"`):                                         1,
		"sum(" + own("fsban_bans_total", "") + ")":                                       12,
		own("fsban_banned_prefixes", `, family="ipv4"`):                                  11,
		own("fsban_banned_prefixes", `, family="ipv6"`):                                  1,
		own("fsban_firewall_set_entries", `, family="ipv4"`):                             11,
		own("fsban_decisions_total", `, verdict="ban"`):                                  12,
		own("fsban_decisions_total", `, verdict="spared_ban"`):                           1,
		own("fsban_attempts_while_banned_total", ""):                                     2*80 + 3, // the scanner is banned at its second challenge
		own("fsban_suspicious_logins_total", `, grade="likely"`):                         1,
		own("fsban_suspicious_logins_total", `, grade="possible"`):                       1,
		own("fsban_distributed_attacks_total", ""):                                       1,
		own("fsban_stuck_phones", ""):                                                    1,
		own("fsban_stuck_phone_reports_total", ""):                                       1,
		own("fsban_attempts_dropped_total", ""):                                          0,
		own("fsban_ban_latency_seconds_count", ""):                                       12,
		own("fsban_ban_delay_seconds_count", ""):                                         12,
	}
}

// playFlood exceeds the ban rate and an alert's threshold.
func playFlood(b *guard) {
	for i := range 160 {
		b.happens(5, fakeswitch.WrongPassword, fmt.Sprintf("198.18.0.%d", 1+i), fmt.Sprint("user", i))
	}
	for i := range 500 {
		b.happens(3, fakeswitch.WrongPassword, fmt.Sprintf("198.18.%d.%d", 1+i/200, 1+i%200), fmt.Sprint("other", i))
	}
}

// playBusyAndSilent plays a FreeSWITCH with calls, without logins, and with a wrong clock. The recording has no calls.
func playBusyAndSilent(c *guard) {
	beat := bytes.Replace(fakeswitch.Frames(fakeswitch.Heartbeat, fakeswitch.Caller{}, time.Now().Add(30*time.Second)), []byte("Session-Count: 0\n"), []byte("Session-Count: 9\n"), 1)
	c.fs.EmitRaw(beat)
}

// interpolate replaces Grafana's variables.
func interpolate(expr, instance string) string {
	return strings.NewReplacer("$instance", instance, "$profile", ".*", "$__rate_interval", "20s", "$__range", "10m").Replace(expr)
}

// panelsAnswer runs each query of each panel.
func panelsAnswer(s *stage, instance string) {
	s.t.Helper()
	from, asked := time.Now().Add(-time.Minute), 0
	for _, p := range dashboards.Panels() {
		for _, target := range p.Targets {
			what := fmt.Sprintf("%s %s for %s", p.Title, target.RefID, instance)
			at := time.Time{}
			if !target.Instant {
				at = from
			}
			list, err := s.ask(interpolate(target.Expr, instance), at)
			// A rate needs two samples, and a full step of the range.
			for tries := 0; err == nil && len(list) == 0 && !excused(target.Expr) && tries < 4*int(patience/time.Second); tries++ {
				time.Sleep(250 * time.Millisecond)
				list, err = s.ask(interpolate(target.Expr, instance), at)
			}
			asked++
			switch {
			case err != nil:
				s.t.Errorf("%s: %v", what, err)
				continue
			case len(list) == 0 && !excused(target.Expr):
				s.t.Errorf("%s: no answer: %s", what, target.Expr)
			}
			for _, name := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				for _, one := range list {
					if one.Metric[name[1]] == "" {
						s.t.Errorf("%s: the legend is %s, and a series is %v", what, target.LegendFormat, one.Metric)
					}
				}
			}
		}
	}
	if asked < 80 {
		s.t.Errorf("only %d queries were run", asked)
	}
}

func excused(expr string) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(mayBeEmpty)), func(metric string) bool { return strings.Contains(expr, metric) })
}

// tilesAreRight compares the numbers of the first screen with the played ones.
func tilesAreRight(s *stage, at string) {
	s.t.Helper()
	attacks := 1 + 9*5 + 5 + 3 + 5 + 20 + 3 + 5 + 80 + 6 + 2
	for title, want := range map[string]float64{
		"Protection": 1, "Enforcement": 1, "Active source for failed logins": 1, "Guards": 0, "Active bans": 12, "Stuck phones": 1,
		"Suspicious logins": 2, "Distributed attacks": 1, "Attacks from never-ban addresses": 1,
		"Failed attempts": float64(attacks), "New bans": 12, "Dropped packets": 20,
	} {
		i := slices.IndexFunc(dashboards.Panels(), func(p *dashboards.Panel) bool { return p.Title == title && p.Type == "stat" })
		if i < 0 {
			s.t.Errorf("there is no tile %s", title)
			continue
		}
		target := dashboards.Panels()[i].Targets[0]
		s.eventually("what a tile shows", func() error {
			got, err := s.value(interpolate(target.Expr, at))
			if err != nil {
				return fmt.Errorf("%s: %w", title, err)
			}
			// With so few samples increase() is off by up to a quarter; values without a range are exact.
			if off := math.Abs(got - want); off > want/4 || !strings.Contains(target.Expr, "$__range") && off != 0 {
				return fmt.Errorf("%s shows %v, want %v", title, got, want)
			}
			return nil
		})
	}
	list, err := s.ask(interpolate(dashboards.Panels()[2].Targets[0].Expr, at), time.Time{})
	if err != nil || len(list) != 1 || list[0].Metric["source"] != "event" {
		s.t.Errorf("wrong passwords are told by %v (%v), want event", list, err)
	}
}

// rulesAnswer waits until Prometheus has evaluated each rule without an error.
func rulesAnswer(s *stage) {
	s.t.Helper()
	var health struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	s.eventually("each rule was run", func() error {
		body, err := s.get("http://" + prometheusAddr + "/api/v1/rules")
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(body), &health); err != nil {
			return err
		}
		rules := 0
		for _, g := range health.Data.Groups {
			for _, r := range g.Rules {
				rules++
				if r.Health != "ok" {
					return fmt.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
				}
			}
		}
		if want := len(readAlerts(s.t)) + 6; rules != want {
			return fmt.Errorf("%d rules, want %d", rules, want)
		}
		return nil
	})
}

// metricsExist compares the named metrics with fsban's.
func metricsExist(s *stage, at string) {
	s.t.Helper()
	page, err := s.get("http://" + at + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	has, named := make(map[string]bool), used(s.t)
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (fsban_\w+) `).FindAllStringSubmatch(page, -1) {
		has[m[1]] = true
		if named[m[1]] == "" {
			s.t.Errorf("%s is neither shown nor documented", m[1])
		}
	}
	if len(has) < 50 {
		s.t.Errorf("only %d metrics are there", len(has))
	}
	for name, place := range named {
		if !has[name] {
			s.t.Errorf("%s names %s, which fsban does not have", place, name)
		}
	}
}

// borrowTools makes this process find programs in a directory of its own, from which they can be removed.
func borrowTools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

// breakThings causes the faults that the alerts report.
func breakThings(s *stage, a, b *guard, tools string) {
	s.t.Helper()
	// An operator's script flushes the rules repeatedly.
	for n := 1; n <= 3; n++ {
		if out, err := exec.CommandContext(s.t.Context(), "iptables", "-t", "raw", "-F", "FSBAN").CombinedOutput(); err != nil {
			s.t.Fatalf("flush: %v: %s", err, out)
		}
		s.eventually("a repair", func() error {
			return s.all(map[string]float64{fmt.Sprintf(`fsban_firewall_repairs_total{instance=%q} >= bool %d`, a.listen, n): 1})
		})
	}
	// iptables is removed, and so are the rules.
	out, err := exec.CommandContext(s.t.Context(), "iptables", "-t", "raw", "-F", "FSBAN").CombinedOutput()
	if err == nil {
		err = os.RemoveAll(tools)
	}
	if err != nil {
		s.t.Fatalf("take the tools away: %v: %s", err, out)
	}
	b.hangUp() // FreeSWITCH at b stops, and mod_cti's log remains
}

// alertsArrive waits until Alertmanager has every played alert, and asserts that no other instance has one.
func alertsArrive(s *stage) {
	s.t.Helper()
	want := make(map[string]bool)
	severities := make(map[string]bool)
	for _, a := range readAlerts(s.t) {
		if notPlayed[a.Alert] == "" {
			want[a.Alert], severities[a.Labels["severity"]] = true, true
		}
	}
	if len(severities) != 3 {
		s.t.Errorf("severities %v are played, want all three", severities)
	}
	got := make(map[string][]string)
	s.eventually("Alertmanager knows all alerts", func() error {
		body, err := s.get("http://" + alertmanagerAddr + "/api/v2/alerts")
		if err != nil {
			return err
		}
		var list []struct {
			Labels, Annotations map[string]string
		}
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			return err
		}
		clear(got)
		for _, a := range list {
			if strings.Contains(a.Annotations["summary"]+a.Annotations["description"], "<no value>") || a.Annotations["runbook_url"] == "" {
				s.t.Errorf("%s says %v", a.Labels["alertname"], a.Annotations)
			}
			got[a.Labels["alertname"]] = append(got[a.Labels["alertname"]], a.Labels["instance"])
		}
		var missing []string
		for name := range want {
			if len(got[name]) == 0 {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			return fmt.Errorf("%v are missing", missing)
		}
		return nil
	})
	for name, instances := range got {
		if !want[name] {
			s.t.Errorf("%s fires for %v, and was not played", name, instances)
		}
		if i := concerns[name]; i != nil && !slices.Equal(instances, i) {
			s.t.Errorf("%s fires for %v, want %v", name, instances, i)
		}
	}
}

// concerns lists the only instances that an alert may fire for.
var concerns = map[string][]string{
	"FsbanDown":            {silent},
	"FsbanNotEnforcing":    {"127.0.0.1:19738"},
	"FsbanNeverBanAttacks": {"127.0.0.1:19738"},
	"FsbanPasswordGuessed": {"127.0.0.1:19738"},
	"FsbanSuspiciousLogin": {"127.0.0.1:19738"},
	"FsbanSetNearlyFull":   {"127.0.0.1:19738"},
	"FsbanOnlyFallback":    {"127.0.0.1:19739"},
	"FsbanBanSurge":        {"127.0.0.1:19739"},
	"FsbanGuardActive":     {"127.0.0.1:19739"},
	"FsbanSourceSilent":    {"127.0.0.1:19740"},
	"FsbanClockSkew":       {"127.0.0.1:19740"},
	"FsbanNoSource":        {"127.0.0.1:19741"},
}
