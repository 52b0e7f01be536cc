package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/policy"
)

// A file is the configuration that a daemon reads at reload.
type file struct {
	mu   sync.Mutex
	cfg  config.Config
	err  error
	logs []config.Log // log settings applied so far
}

// set changes the configuration. change may modify the rules.
func (f *file) set(change func(*config.Config)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cfg.Policy.Ruleset = slices.Clone(f.cfg.Policy.Ruleset)
	change(&f.cfg)
}

func (f *file) options() Options {
	return Options{
		Load: func() (config.Config, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.cfg, f.err
		},
		SetLog: func(l config.Log) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.logs = append(f.logs, l)
		},
	}
}

// startFile starts a daemon that can reload, and waits until it is ready.
func startFile(t *testing.T, fs *fakeswitch.Switch, cfg config.Config) (*rig, *file) {
	t.Helper()
	f := &file{cfg: cfg}
	r := startWith(t, fs, cfg, f.options(), nil)
	r.ready()
	r.eventually("the socket is up", r.connected)
	return r, f
}

// reload has the daemon reload, and returns the keys that changed.
func (r *rig) reload() string {
	r.t.Helper()
	result, err := r.client.Reload(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Join(result.Changed, " ")
}

func TestReloadsInTheMiddleOfAnAttackLoseNothing(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Policy.BanRate = 0
	cfg.Calls.DenyPrefix = []string{"00"}
	r, f := startFile(t, fs, cfg)
	const attackers, reloads = 100, 25
	attack := func() {
		for i := range attackers {
			r.fail(fmt.Sprintf("203.0.113.%d", i), 1)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 4 {
			attack()
		}
	}()
	for i := range reloads {
		f.set(func(c *config.Config) {
			c.Policy.MaxRetry, c.Policy.FindTime = 5+i%2, config.Duration(5+i)*config.Duration(time.Minute)
			c.Policy.Ruleset.Named("slow").Enabled = i%2 == 0
			c.Calls.DenyPrefix = []string{fmt.Sprint("00", i)}
			c.Policy.KnownGood.Max = 1000 + i
		})
		r.reload()
	}
	<-done
	r.settled()
	if got := r.loop.Counted(policy.AuthFailure); got != 4*attackers || len(r.banned()) != 0 {
		t.Fatalf("%d failures counted, want %d; banned %v", got, 4*attackers, r.banned())
	}
	// Counts of unchanged rules are kept: the fifth failure bans each of them.
	attack()
	r.settled()
	if got := len(r.banned()); got != attackers {
		t.Errorf("%d banned, want %d", got, attackers)
	}
	if s := r.sources.client.State(); s.Connects != 1 {
		t.Errorf("the event socket came up %d times", s.Connects)
	}
	r.metricIs("fsban_config_reloads_total", fmt.Sprintf("result=failed 0\nresult=ok %d\n", reloads))
}

func TestAReloadKeepsBansAndHeldBans(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Policy.BanRate = 1
	r, f := startFile(t, fs, cfg)
	for i := range 3 {
		r.fail(fmt.Sprintf("203.0.113.%d", i), 5)
	}
	r.settled()
	f.set(func(c *config.Config) { c.Policy.MaxRetry, c.Policy.Ruleset.Named("auth").Enabled = 7, false })
	if got := r.reload(); got != "policy.maxretry policy.rules.auth.enabled" {
		t.Errorf("changed: %s", got)
	}
	held, err := r.client.Held(t.Context())
	if err != nil || len(held) != 2 || held[0].Rule != "auth" || fmt.Sprint(r.banned()) != "[203.0.113.0/32]" {
		t.Errorf("held %+v, %v, banned %v", held, err, r.banned())
	}
	if n, err := r.client.Release(t.Context(), netip.Prefix{}); err != nil || n != 2 {
		t.Errorf("released %d, %v", n, err)
	}
	// A removed rule keeps its series, and its bans count there.
	if got := r.bansMade(); got != "rule=auth 3\n" || len(r.banned()) != 3 {
		t.Errorf("bans made: %s, banned %v", got, r.banned())
	}
}

func TestAWrongFileChangesNothing(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r, f := startFile(t, fs, configFor(t, fs))
	before := r.cfg()
	f.set(func(c *config.Config) { c.Policy.MaxRetry = 1 })
	_, wrong := config.Parse("/etc/fsban/config.yaml", []byte("policy:\n  maxretry: x\n  findtime: y\n"))
	f.err = wrong
	var configError *control.ConfigError
	if _, err := r.client.Reload(t.Context()); !errors.As(err, &configError) || err.Error() != wrong.Error() || !strings.Contains(err.Error(), "policy.findtime") {
		t.Errorf("reload: %v", err)
	}
	r.fail("203.0.113.1", 4)
	r.settled()
	if r.cfg() != before || r.banned() != nil {
		t.Errorf("banned %v", r.banned())
	}
	const trouble = `the configuration was not reloaded, the old one is in force: config.yaml: line 2: policy.maxretry: "x" is not a whole number (and 1 more: fsban check)`
	r.problem(trouble)
	r.metricIs("fsban_config_reloads_total", "result=failed 1\nresult=ok 0\n")
	r.metricIs("fsban_config_last_reload_successful", "0\n")
	// The file is corrected: the fifth failure of five bans, and the problem disappears.
	f.err = nil
	if got := r.reload(); got != "policy.maxretry" {
		t.Errorf("changed: %s", got)
	}
	r.fail("203.0.113.1", 1)
	r.settled()
	if got := r.banned(); len(got) != 1 {
		t.Errorf("banned %v", got)
	}
	r.noProblem(trouble)
	r.metricIs("fsban_config_last_reload_successful", "1\n")
}

func TestRulesAreSwitchedOffAndOn(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r, f := startFile(t, fs, configFor(t, fs))
	off := func(c *config.Config) {
		for i := range c.Policy.Ruleset {
			c.Policy.Ruleset[i].Enabled = false
		}
	}
	f.set(off)
	r.reload()
	r.fail("203.0.113.1", 50)
	r.settled()
	if got := r.banned(); got != nil {
		t.Fatalf("banned %v without a rule", got)
	}
	f.set(func(c *config.Config) {
		mine := config.Rule{Name: "mine", RuleSettings: config.RuleSettings{Enabled: true, Kinds: []policy.Kind{policy.AuthFailure}, MaxRetry: new(3)}}
		c.Policy.Ruleset = append(c.Policy.Ruleset, mine)
	})
	if got := r.reload(); got != "policy.rules.mine" {
		t.Errorf("changed: %s", got)
	}
	r.metricHas("fsban_bans_total", "rule=mine 0")
	r.fail("203.0.113.1", 2)
	r.settled()
	if got := r.banned(); got != nil {
		t.Errorf("banned %v: what happened before the rule was there counts", got)
	}
	r.fail("203.0.113.1", 1)
	r.settled()
	if got := r.bansMade(); got != "rule=mine 1\n" {
		t.Errorf("bans made:\n%s", got)
	}
}

func TestWhoIsNeverBannedNowIsUnbanned(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	list := filepath.Join(cfg.State.Directory, "ignored")
	if err := os.WriteFile(list, []byte("198.51.100.9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, f := startFile(t, fs, cfg)
	for _, addr := range []string{"203.0.113.1", "198.51.100.9", "203.0.113.2"} {
		r.fail(addr, 5)
	}
	if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix("203.0.113.3/32")}); err != nil {
		t.Fatal(err)
	}
	r.settled()
	if got := len(r.banned()); got != 4 {
		t.Fatalf("%d banned", got)
	}
	f.set(func(c *config.Config) {
		c.Policy.IgnoreIP = append(slices.Clone(c.Policy.IgnoreIP), "203.0.113.1/32", "203.0.113.3/32")
		c.Policy.IgnoreFile = list
	})
	if got := r.reload(); got != "policy.ignoreip policy.ignore_file" {
		t.Errorf("changed: %s", got)
	}
	// The new list is in force when the request returns, also against an operator's unforced ban.
	if got := fmt.Sprint(r.banned()); got != "[203.0.113.2/32]" {
		t.Errorf("banned %s", got)
	}
	f.set(func(c *config.Config) { c.Policy.IgnoreIP = nil })
	r.reload()
	r.fail("203.0.113.1", 5)
	r.eventually("banned again, after its grace", func() bool {
		r.fail("203.0.113.1", 5)
		_ = r.loop.Do(t.Context(), func() { r.loop.Tick(time.Now().Add(2 * time.Minute)) })
		return slices.Contains(r.banned(), "203.0.113.1/32")
	})
}

func TestTheEventSocketIsAskedForWhatANewFileWants(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	r, f := startFile(t, fs, cfg)
	up := func(what string, connects uint64) {
		t.Helper()
		r.eventually(what, func() bool { s := r.sources.client.State(); return r.connected() && s.Connects == connects })
	}
	// Subscribe to mod_cti's events.
	f.set(func(c *config.Config) {
		c.CTIEvent = config.CTIEvent{Subclasses: []string{"cti::ban"}, IPHeader: "caller", UserHeader: "user", ReasonHeader: "why"}
	})
	if got := r.reload(); got != "cti_event.subclasses cti_event.ip_header cti_event.reason_header" {
		t.Errorf("changed: %s", got)
	}
	up("asked anew", 2)
	for range 5 {
		fs.EmitCustom("cti::ban", time.Now(), [2]string{"caller", "203.0.113.5"}, [2]string{"user", "1000"}, [2]string{"why", "Called number not allowed"})
	}
	r.eventually("mod_cti's event bans", func() bool { return slices.Contains(r.banned(), "203.0.113.5/32") })
	if names := sourceNames(r.status()); names != "event cti_event esl_log" {
		t.Errorf("sources %s", names)
	}

	// Another FreeSWITCH, with another password.
	other := newSwitch(t, fakeswitch.Options{Password: "secret"})
	f.set(func(c *config.Config) { c.FreeSWITCH.Address, c.FreeSWITCH.Password = other.Addr(), "secret" })
	if got := r.reload(); got != "freeswitch.address freeswitch.password" {
		t.Errorf("changed: %s", got)
	}
	up("at the other one", 3)
	r.fs = other
	r.fail("203.0.113.6", 5)
	r.settled()
	if s := r.status(); !slices.Contains(r.banned(), "203.0.113.6/32") || s.Sources[0].Address != other.Addr() {
		t.Errorf("banned %v, source %+v", r.banned(), s.Sources[0])
	}
	// Unsubscribe from log lines and mod_cti's events.
	f.set(func(c *config.Config) { c.FreeSWITCH.Log, c.CTIEvent.Subclasses = false, nil })
	r.reload()
	up("asked for less", 4)
	if names := sourceNames(r.status()); names != "event" {
		t.Errorf("sources %s", names)
	}
}

func sourceNames(s control.Status) string {
	var names []string
	for _, source := range s.Sources {
		names = append(names, source.Name)
	}
	return strings.Join(names, " ")
}

func TestAnotherLogIsFollowed(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	first, second := filepath.Join(cfg.State.Directory, "first.log"), filepath.Join(cfg.State.Directory, "second.log")
	cfg.CTILog.Path = config.CTILogOff
	r, f := startFile(t, fs, cfg)
	follow := func(path string) {
		t.Helper()
		f.set(func(c *config.Config) { c.CTILog.Path = path })
		if got := r.reload(); got != "cti_log.path" {
			t.Errorf("changed: %s", got)
		}
	}
	violate := func(path, addr string, n int) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			fmt.Fprintf(file, "ip[%s] user[1000] at[%s] Called number 00861234 not allowed\n", addr, time.Now().Format("2006-01-02T15:04:05.000000-0700"))
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	violate(second, "203.0.113.9", 5) // older lines of a log that was not followed then
	for _, path := range []string{first, second} {
		follow(path)
		r.eventually("its follower runs", func() bool {
			l := r.sources.follower.Load()
			if l == nil {
				return false
			}
			s := l.Status()
			return s.Following || path == first && s.Err != nil && strings.Contains(s.Err.Error(), "no such file")
		})
		addr := map[string]string{first: "203.0.113.1", second: "203.0.113.2"}[path]
		violate(path, addr, 5)
		r.eventually("its lines ban", func() bool { return slices.Contains(r.banned(), addr+"/32") })
	}
	violate(first, "203.0.113.8", 5) // not followed any more
	follow(config.CTILogOff)
	violate(second, "203.0.113.7", 5)
	r.eventually("mod_cti's lines are not asked for any more", func() bool { return r.connected() && r.sources.client.State().Connects == 3 })
	r.settled()
	if got := fmt.Sprint(r.banned()); got != "[203.0.113.1/32 203.0.113.2/32]" {
		t.Errorf("banned %s", got)
	}
	if names := sourceNames(r.status()); names != "event esl_log" || r.sources.followsLog() {
		t.Errorf("sources %s", names)
	}
}

func TestWhatElseAReloadChanges(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r, f := startFile(t, fs, configFor(t, fs))
	f.set(func(c *config.Config) {
		c.Log.Level = "debug"
		c.Firewall.MaxBans, c.Firewall.Check = 16, config.Duration(time.Minute)
		c.Control.Readers = "nosuchgroup"
		c.Policy.IPv6Prefix, c.HTTP.Listen, c.State.Directory = 48, "127.0.0.1:1", "/nowhere"
	})
	result, err := r.client.Reload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(result.Changed, " "); got != "firewall.max_bans firewall.check control.readers log.level" {
		t.Errorf("changed: %s", got)
	}
	if got := strings.Join(result.NeedsRestart, " "); got != "policy.ipv6_prefix state.directory http.listen" {
		t.Errorf("needs a restart: %s", got)
	}
	for _, want := range []string{
		"settings in the configuration file that need a restart: policy.ipv6_prefix, state.directory, http.listen",
		`control.readers: there is no group nosuchgroup: make it (groupadd) and then say fsban reload, or set it to ""`,
	} {
		r.problem(want)
	}
	if len(f.logs) != 1 || f.logs[0].Level != "debug" {
		t.Errorf("logs %+v", f.logs)
	}
	for i := range 17 { // one more than the limit
		if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix(fmt.Sprintf("203.0.113.%d/32", i))}); (err != nil) != (i == 16) {
			t.Errorf("ban %d: %v", i, err)
		}
	}
	// The prefix length is unchanged: 48 needs a restart.
	if w, err := r.client.Why(t.Context(), netip.MustParseAddr("2001:db8::1")); err != nil || w.Prefix.Bits() != 64 {
		t.Errorf("counted as %v, %v", w.Prefix, err)
	}
	f.set(func(c *config.Config) { c.Control.Readers = "" })
	r.reload()
	r.noProblem("nosuchgroup")
	r.eventually("the administrator's requests are counted", func() bool {
		return r.has("fsban_control_requests_total", "role=refused 0") && !r.has("fsban_control_requests_total", "role=admin 0")
	})
}

func TestWithoutAFileThereIsNothingToReload(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	if _, err := r.client.Reload(t.Context()); err == nil || err.Error() != "this fsban was started without a configuration file" {
		t.Errorf("%v", err)
	}
}
