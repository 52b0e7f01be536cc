package daemon

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fsban/config"
	"fsban/control"
	"fsban/esl"
	"fsban/internal/captures"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/policy"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		os.Exit(childMain(path))
	}
	if path := os.Getenv(fleetChildEnv); path != "" {
		os.Exit(fleetChildMain(path))
	}
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" {
		os.Exit(netns.Main(m))
	}
	// Where nobody answers, the Redis client looks once more a second after it was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// A rig is a daemon next to a FreeSWITCH, both of the test's own.
type rig struct {
	*Daemon
	t      testing.TB
	fs     *fakeswitch.Switch
	client *control.Client
	log    *syncBuffer
	stop   func() error // ends the daemon and returns what Run returned
}

// logLevel has a benchmark not measure its log.
func logLevel(t testing.TB) slog.Level {
	if _, ok := t.(*testing.B); ok {
		return slog.LevelError
	}
	return slog.LevelDebug
}

// newSwitch starts a FreeSWITCH for the length of the test.
func newSwitch(t testing.TB, o fakeswitch.Options) *fakeswitch.Switch {
	t.Helper()
	fs := fakeswitch.New(o)
	if err := fs.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = fs.Serve(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return fs
}

// configFor is the default configuration with places of the test's own, in dry run.
func configFor(t testing.TB, fs *fakeswitch.Switch) config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "fsban") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := config.Default()
	cfg.FreeSWITCH.Address = fs.Addr()
	cfg.Firewall.Backend = config.BackendDryRun
	cfg.State.Directory = dir
	cfg.Control.Socket = filepath.Join(dir, "s")
	cfg.HTTP.Listen = ""
	return cfg
}

// impatient makes a client notice and come back in milliseconds.
func impatient(o *esl.Options) {
	o.Silence, o.LoginTimeout = 500*time.Millisecond, 2*time.Second
	o.RetryMin, o.RetryMax, o.RetryRefused = 10*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond
}

// start runs a daemon with cfg until the end of the test, or until stop.
func start(t testing.TB, fs *fakeswitch.Switch, cfg config.Config) *rig {
	t.Helper()
	return startWith(t, fs, cfg, Options{}, nil)
}

// startWith is start with what opts say beside, and something done to the daemon before it runs.
func startWith(t testing.TB, fs *fakeswitch.Switch, cfg config.Config, opts Options, prepare func(*Daemon)) *rig {
	t.Helper()
	log := new(syncBuffer)
	opts.Log, opts.Version, opts.tune, opts.pace = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: logLevel(t)})), "test", impatient, brisk
	d, err := open(cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(d)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.run(ctx) }()
	r := &rig{Daemon: d, t: t, fs: fs, client: control.NewClient(cfg.Control.Socket), log: log}
	r.stop = sync.OnceValue(func() error {
		cancel()
		r.client.Close()
		return <-done
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the daemon ended with %v", err)
		}
		if t.Failed() {
			t.Logf("its log:\n%s", log)
		}
	})
	r.eventually("the control socket answers", func() bool {
		_, err := r.client.Status(t.Context())
		return err == nil
	})
	return r
}

// eventually waits until ok, at most thirty seconds.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never came true: %s\nlog:\n%s", what, r.log)
		}
	}
}

func (r *rig) ready() {
	r.t.Helper()
	r.eventually("ready", func() bool { return len(r.unready()) == 0 })
}

// settled waits until everything that FreeSWITCH said so far has been decided: a success, of which there is no other one
// in these tests, comes out behind it.
func (r *rig) settled() {
	r.t.Helper()
	before := r.counts[policy.AuthSuccess].Load()
	r.fs.Emit(fakeswitch.Success, fakeswitch.Caller{Addr: netip.MustParseAddr("198.51.100.1")}, time.Now())
	r.eventually("settled", func() bool { return r.counts[policy.AuthSuccess].Load() > before && len(r.attempts) == 0 })
	if err := r.do(context.Background(), func(*loop) {}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) fail(addr string, times int) {
	for range times {
		r.fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr(addr), User: "1000"}, time.Now())
	}
}

func (r *rig) banned() []string {
	r.t.Helper()
	bans, err := r.client.Bans(r.t.Context(), control.Pick{})
	if err != nil {
		r.t.Fatal(err)
	}
	var list []string
	for _, b := range bans {
		list = append(list, b.Prefix.String())
	}
	return list
}

func (r *rig) status() control.Status {
	r.t.Helper()
	s, err := r.client.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// bansMade returns the samples of fsban_bans_total that are not zero.
func (r *rig) bansMade() string {
	r.t.Helper()
	var b strings.Builder
	for line := range strings.Lines(r.metric("fsban_bans_total")) {
		if !strings.HasSuffix(line, " 0\n") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// metric returns the text of a metric's samples.
func (r *rig) metric(name string) string {
	r.t.Helper()
	var b strings.Builder
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				fmt.Fprintf(&b, "%s=%s ", l.GetName(), l.GetValue())
			}
			fmt.Fprintf(&b, "%v\n", m.GetCounter().GetValue()+m.GetGauge().GetValue())
		}
	}
	return b.String()
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// recordedEvents returns the event frames of a recording, the n-th register_failure being the last.
func recordedEvents(t *testing.T, name string, failures int) []byte {
	t.Helper()
	data := captures.Read(t, name)
	var out bytes.Buffer
	r := esl.NewReader(bytes.NewReader(data))
	for failures != 0 {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.Type != esl.EventPlain {
			continue
		}
		fmt.Fprintf(&out, "%s\n\n%s", bytes.TrimRight(f.Header, "\n"), f.Body)
		if bytes.Contains(f.Body, []byte("register_failure\n")) {
			failures--
		}
	}
	return out.Bytes()
}

func TestARecordedSessionBansAtTheFifthWrongPasswordOnly(t *testing.T) {
	for _, tc := range []struct {
		recording string
		failures  int
		want      string
	}{
		{"register-wrong-password-x5-fresh-nonces.plain.esl", 5, "[10.77.0.3/32]"},
		{"register-wrong-password-x5-one-nonce.plain.esl", 5, "[10.77.0.3/32]"},
		{"register-wrong-password-x5-fresh-nonces.plain.esl", 4, "[]"},
		{"register-wrong-password-x5-one-nonce.plain.esl", 4, "[]"},
		{"register-refresh-new-challenge.plain.esl", -1, "[]"},
		{"register-refresh-replayed-nc.plain.esl", -1, "[]"},
		{"register-refresh-same-nonce.plain.esl", -1, "[]"},
		{"register-invented-nonce.plain.esl", -1, "[]"},
		{"register-no-auth.plain.esl", -1, "[]"},
		{"register-no-auth-no-contact.plain.esl", -1, "[]"},
		{"register-no-auth-unknown-user.plain.esl", -1, "[]"},
	} {
		t.Run(fmt.Sprintf("%s/%d", tc.recording, tc.failures), func(t *testing.T) {
			fs := newSwitch(t, fakeswitch.Options{})
			r := start(t, fs, configFor(t, fs))
			r.ready()
			events := recordedEvents(t, tc.recording, tc.failures)
			times := 1
			if tc.failures < 0 {
				times = 20 // however often an ordinary phone does it
			}
			for range times {
				fs.EmitRaw(events)
			}
			r.settled()
			if got := fmt.Sprint(r.banned()); got != tc.want {
				t.Errorf("banned: %s, want %s", got, tc.want)
			}
			made := ""
			if tc.failures == 5 {
				made = "rule=auth 1\n"
			}
			if got := r.bansMade(); got != made {
				t.Errorf("fsban_bans_total:\n%swant\n%s", got, made)
			}
		})
	}
}

func TestWhatABanRemembers(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	fs.Emit(fakeswitch.InviteWrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("2001:db8::7"), User: "2002", UserAgent: "friendly-scanner"}, time.Now())
	r.fail("2001:db8::8", 4)
	var b control.Ban
	r.eventually("one ban, in the kernel", func() bool {
		bans, err := r.client.Bans(t.Context(), control.Pick{Evidence: control.All})
		if err != nil || len(bans) != 1 {
			return false
		}
		b = bans[0]
		return b.InKernel
	})
	if b.Prefix.String() != "2001:db8::/64" || b.Rule != "auth" || b.Source != "event" || b.Attempts != 5 || len(b.Evidence) != 5 {
		t.Errorf("ban %+v", b)
	}
	if left := time.Until(b.Until); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("left %v", left)
	}
	// A list that is being made while a ban of it ends.
	list := []control.Ban{{Prefix: netip.MustParsePrefix("192.0.2.7/32")}, {Prefix: b.Prefix}}
	if err := (api{r.Daemon}).addEvidence(list); err != nil || len(list[0].Evidence) != 0 || len(list[1].Evidence) != 5 {
		t.Errorf("%+v, %v", list, err)
	}
	if e := b.Evidence[0]; e.User != "2002" || e.Method != "INVITE" || e.UserAgent != "friendly-scanner" || e.Addr.String() != "2001:db8::7" {
		t.Errorf("evidence %+v", e)
	}
}

func TestTroubleWithFreeSWITCHIsSaidAndOutlived(t *testing.T) {
	for _, tc := range []struct {
		name    string
		break_  func(*fakeswitch.Switch)
		mend    func(*fakeswitch.Switch, string)
		problem string
		reason  string
	}{
		{
			"goes away",
			func(fs *fakeswitch.Switch) { fs.CloseListener(); fs.End(fakeswitch.Kill) },
			func(fs *fakeswitch.Switch, addr string) { _ = fs.Listen(addr) },
			"connection refused", "unreachable",
		},
		{
			"is shut down",
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.DenyAddress); fs.End(fakeswitch.Shutdown) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"denied this address (apply-inbound-acl in event_socket.conf.xml)", "address",
		},
		{
			"refuses the password",
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.RefusePassword); fs.End(fakeswitch.Reload) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"refused the password (freeswitch.user, freeswitch.password)", "password",
		},
		{
			"falls silent",
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.Silent) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"is silent", "silent",
		},
		{
			"sends garbage",
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.Garbage); fs.End(fakeswitch.Reset) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"protocol error", "protocol",
		},
		{
			"ends in the middle of a frame",
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.Silent); fs.End(fakeswitch.HalfFrame) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"is silent", "disconnected",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := newSwitch(t, fakeswitch.Options{})
			addr := fs.Addr()
			r := start(t, fs, configFor(t, fs))
			r.ready()
			r.fail("203.0.113.1", 5)
			r.eventually("the first ban", func() bool { return len(r.banned()) == 1 })

			tc.break_(fs)
			r.eventually("the problem in status: "+tc.problem, func() bool {
				s := r.status()
				return !s.Ready && strings.Contains(strings.Join(s.Problems, "\n"), tc.problem) && !s.Sources[0].Up &&
					strings.Contains(r.log.String(), tc.problem)
			})
			if got := r.metric("fsban_event_socket_errors_total"); strings.Contains(got, "reason="+tc.reason+" 0\n") {
				t.Errorf("fsban_event_socket_errors_total does not count %s:\n%s", tc.reason, got)
			}
			if got := r.metric("fsban_ready"); got != "0\n" {
				t.Errorf("fsban_ready %s", got)
			}

			tc.mend(fs, addr)
			r.ready()
			r.fail("203.0.113.2", 5)
			r.eventually("the second ban", func() bool { return len(r.banned()) == 2 })
			if got := r.metric("fsban_event_socket_up"); got != "1\n" {
				t.Errorf("fsban_event_socket_up %s", got)
			}
		})
	}
}

func TestASlowFreeSWITCHIsWaitedFor(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	fs.SetFault(fakeswitch.Slow)
	r := start(t, fs, configFor(t, fs))
	r.ready()
	r.fail("203.0.113.1", 5)
	r.eventually("the ban", func() bool { return len(r.banned()) == 1 })
	if got := r.metric("fsban_event_socket_connects_total"); got != "1\n" {
		t.Errorf("fsban_event_socket_connects_total %s", got)
	}
}

func TestALoginThatMayNotSeeEverythingSaysSo(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{User: "guard@example.com", AllowedEvents: []string{"HEARTBEAT", "CUSTOM", "sofia::register_failure", "sofia::register_attempt"}})
	cfg := configFor(t, fs)
	cfg.FreeSWITCH.User = "guard@example.com"
	r := start(t, fs, cfg)
	r.ready()
	if p := fmt.Sprint(r.status().Problems); !strings.Contains(p, "may not see [sofia::pre_register sofia::register sofia::gateway_add sofia::gateway_delete CHANNEL_HANGUP_COMPLETE log]") {
		t.Errorf("problems %s", p)
	}
	r.fail("203.0.113.1", 5)
	r.eventually("the ban", func() bool { return len(r.banned()) == 1 })
}

func TestOwnAddressesAndTheEventSocketAreNeverBanned(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Policy.IgnoreIP = nil // loopback is this host's own all the same
	r := start(t, fs, cfg)
	r.ready()
	r.fail("127.0.0.1", 20)
	r.fail("::1", 20)
	r.settled()
	if got := r.banned(); got != nil {
		t.Errorf("banned %v", got)
	}
	if s := r.status(); s.Policy.Spared != 40 {
		t.Errorf("%d spared, want 40", s.Policy.Spared)
	}
}

func TestAnOperatorBansAndUnbans(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	ban := func(prefix string, d time.Duration, force bool) (control.Ban, error) {
		return r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix(prefix), Time: d, Reason: "a test", Force: force})
	}
	if b, err := ban("198.18.5.0/24", time.Hour, false); err != nil || b.Rule != "operator" || b.By == "" || b.Reason != "a test" || time.Until(b.Until) > time.Hour {
		t.Fatalf("ban %+v, %v", b, err)
	}
	if b, err := ban("198.51.100.7/32", -1, false); err != nil || !b.Until.IsZero() {
		t.Fatalf("ban for ever %+v, %v", b, err)
	}
	for _, tc := range []struct{ prefix, want string }{
		{"127.0.0.1/32", "127.0.0.1/32 is never banned, because of 127.0.0.0/8 (ignoreip): --force bans it all the same"},
		{"0.0.0.0/1", "0.0.0.0/1 is never banned, because of 127.0.0.0/8 (ignoreip): --force bans it all the same"},
		{"0.0.0.0/0", "0.0.0.0/0 is everybody"},
		{"::/0", "::/0 is everybody"},
	} {
		if _, err := ban(tc.prefix, 0, false); err == nil || err.Error() != tc.want {
			t.Errorf("ban %s: %v, want %s", tc.prefix, err, tc.want)
		}
	}
	if _, err := ban("127.0.0.9/32", 0, true); err != nil {
		t.Errorf("with force: %v", err)
	}
	unban := func(prefix string) error {
		_, err := r.client.Unban(t.Context(), netip.MustParsePrefix(prefix))
		return err
	}
	if err := unban("198.18.5.7/32"); err == nil || err.Error() != "198.18.5.7/32 is not banned, but it overlaps with [198.18.5.0/24]: name the prefix as fsban list shows it" {
		t.Errorf("unban of a part: %v", err)
	}
	if err := unban("203.0.113.7/32"); err == nil || err.Error() != "203.0.113.7/32 is not banned" {
		t.Errorf("unban of what is not banned: %v", err)
	}
	if err := unban("198.18.5.0/24"); err != nil {
		t.Error(err)
	}
	r.fail("2001:db8::7", 5)
	r.eventually("the ban of a network", func() bool { return len(r.banned()) == 3 })
	if err := unban("2001:db8::7/128"); err != nil {
		t.Errorf("unban by one address of the network that it led to: %v", err)
	}
	if got := fmt.Sprint(r.banned()); got != "[198.51.100.7/32 127.0.0.9/32]" {
		t.Errorf("banned %s", got)
	}
	// Unban means unban: the address starts from zero.
	r.fail("2001:db8::7", 4)
	r.settled()
	if got := len(r.banned()); got != 2 {
		t.Errorf("%d banned after four failures", got)
	}
}

func TestBansAreRestoredWithTheirTimeAndCountedOnce(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	r := start(t, fs, cfg)
	r.ready()
	r.fail("203.0.113.1", 5)
	r.eventually("the ban", func() bool { return len(r.banned()) == 1 })
	before, err := r.client.Bans(t.Context(), control.Pick{Evidence: control.All})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, fs, cfg)
	r.ready()
	after, err := r.client.Bans(t.Context(), control.Pick{Evidence: control.All})
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != 1 || !after[0].Until.Equal(before[0].Until) || !after[0].Since.Equal(before[0].Since) || len(after[0].Evidence) != 5 || !after[0].InKernel {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	if got := r.bansMade(); got != "" {
		t.Errorf("counted again:\n%s", got)
	}
	r.fail("203.0.113.1", 20)
	r.settled()
	if got := r.bansMade(); got != "" {
		t.Errorf("banned again while banned:\n%s", got)
	}
	// Each wrong password is a challenge and a failure.
	if got := r.metric("fsban_attempts_while_banned_total"); got != "40\n" {
		t.Errorf("fsban_attempts_while_banned_total %s", got)
	}
}

func TestABanOfSomebodyWhoIsNeverBannedNowIsLiftedAtTheStart(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	r := start(t, fs, cfg)
	r.ready()
	r.fail("203.0.113.1", 5)
	r.fail("203.0.113.2", 5)
	r.eventually("the bans", func() bool { return len(r.banned()) == 2 })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.Policy.IgnoreIP = append(cfg.Policy.IgnoreIP, "203.0.113.2")
	r = start(t, fs, cfg)
	r.ready()
	if got := fmt.Sprint(r.banned()); got != "[203.0.113.1/32]" {
		t.Errorf("banned %s", got)
	}
}

func TestASecondDaemonIsRefused(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	r := start(t, fs, cfg)
	r.ready()
	_, err := open(cfg, Options{Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "is a second fsban running?") {
		t.Errorf("the same state: %v", err)
	}
	other := cfg
	other.State.Directory = t.TempDir()
	if err := Run(t.Context(), other, Options{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "another fsban is running") {
		t.Errorf("the same control socket: %v", err)
	}
	if s := r.status(); !s.Ready {
		t.Errorf("the first one is disturbed: %v", s.Problems)
	}
}

func TestHealthAndMetricsOverHTTP(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.HTTP.Listen = l.Addr().String()
	_ = l.Close()
	r := start(t, fs, cfg)
	r.ready()
	get := func(method, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+cfg.HTTP.Listen+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, path := range []string{"/metrics", "/-/healthy", "/-/ready", "/"} {
		if code, body := get(http.MethodGet, path); code != http.StatusOK || body == "" {
			t.Errorf("%s: %d %s", path, code, body)
		}
		if code, _ := get(http.MethodPost, path); code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, code)
		}
	}
	if _, body := get(http.MethodGet, "/metrics"); !strings.Contains(body, "fsban_ready 1\n") || !strings.Contains(body, `fsban_bans_total{rule="auth"} 0`) {
		t.Errorf("metrics:\n%s", body)
	}
	fs.SetFault(fakeswitch.DenyAddress)
	fs.End(fakeswitch.Kill)
	r.eventually("not ready", func() bool { return len(r.unready()) > 0 })
	if code, body := get(http.MethodGet, "/-/ready"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no source of attempts is alive") {
		t.Errorf("ready: %d %s", code, body)
	}
	if code, _ := get(http.MethodGet, "/-/healthy"); code != http.StatusOK {
		t.Errorf("healthy: %d", code)
	}
}

func TestAFullQueueDropsAndCountsAndReadingGoesOn(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	hold, held := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	go func() {
		_ = r.do(context.Background(), func(*loop) {
			close(held)
			<-hold
		})
	}()
	<-held
	const surplus = 100
	for range queueSize + surplus {
		fs.Emit(fakeswitch.NoAuth, fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.1")}, time.Now())
	}
	r.eventually("all read", func() bool {
		return strings.Contains(r.metric("fsban_attempts_total"), fmt.Sprintf("kind=challenge source=event %d\n", queueSize+surplus))
	})
	release()
	r.eventually("there is room again", func() bool { return len(r.attempts) == 0 })
	r.settled()
	if got := r.dropped.Load(); got != surplus {
		t.Errorf("%d dropped, want %d", got, surplus)
	}
	if p := fmt.Sprint(r.status().Problems); !strings.Contains(p, "100 attempts were lost: the decision queue was full") {
		t.Errorf("problems %s", p)
	}
}

func TestWhereTheSetIsFullTheBanNearestToItsEndMakesRoom(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Firewall.MaxBans = 16
	r := start(t, fs, cfg)
	r.ready()
	for i := range 18 {
		r.fail(fmt.Sprintf("203.0.113.%d", i+1), 5)
	}
	r.settled()
	if got := r.banned(); len(got) != 16 || slices.Contains(got, "203.0.113.1/32") || slices.Contains(got, "203.0.113.2/32") {
		t.Errorf("banned %v", got)
	}
	if got := r.metric("fsban_unbans_total"); !strings.Contains(got, "cause=room 2\n") {
		t.Errorf("fsban_unbans_total\n%s", got)
	}
	if !strings.Contains(r.log.String(), "firewall.max_bans") {
		t.Error("it is not said")
	}
	// What operators ban does not give way, not to operators either.
	for i := range 16 {
		if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/32", i+1))}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix("198.51.100.99/32")}); err == nil || !strings.Contains(err.Error(), "raise firewall.max_bans") {
		t.Errorf("one more: %v", err)
	}
	if p := fmt.Sprint(r.status().Problems); !strings.Contains(p, "1 bans were refused: raise firewall.max_bans, or") {
		t.Errorf("problems %s", p)
	}
}
