package daemon

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fsban/control"
	"fsban/esl"
	"fsban/internal/captures"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/internal/testenv"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		os.Exit(childMain(path))
	}
	if path := os.Getenv(fleetChildEnv); path != "" {
		os.Exit(fleetChildMain(path))
	}
	flag.Parse()
	parallelism()
	if flag.Lookup("test.bench").Value.String() != "" {
		os.Exit(netns.Main(m))
	}
	// Where nobody answers, the Redis client looks once more a second after it was closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// parallelism runs more tests in parallel than there are processors, unless -parallel is given: they mostly wait.
func parallelism() {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0)))
	}
}

// recordedEvents returns the event frames of a recording up to its n-th register_failure.
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
	t.Parallel()
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
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	fs.Emit(fakeswitch.InviteWrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("2001:db8::7"), User: "2002", UserAgent: "friendly-scanner"}, time.Now())
	r.fail("2001:db8::8", 4)
	b := r.enforced(1)[0]
	if b.Prefix.String() != "2001:db8::/64" || b.Rule != "auth" || b.Source != "event" || b.Attempts != 5 || len(b.Evidence) != 5 {
		t.Errorf("ban %+v", b)
	}
	if left := time.Until(b.Until); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("left %v", left)
	}
	if e := b.Evidence[0]; e.User != "2002" || e.Method != "INVITE" || e.UserAgent != "friendly-scanner" || e.Addr.String() != "2001:db8::7" {
		t.Errorf("evidence %+v", e)
	}
}

func TestTroubleWithFreeSWITCHIsSaidAndOutlived(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		tune    func(*esl.Options) // nil: short retry times
		break_  func(*fakeswitch.Switch)
		mend    func(*fakeswitch.Switch, string)
		problem string
		reason  string
	}{
		{
			"goes away", nil,
			func(fs *fakeswitch.Switch) { fs.CloseListener(); fs.End(fakeswitch.Kill) },
			func(fs *fakeswitch.Switch, addr string) { _ = fs.Listen(addr) },
			"connection refused", "unreachable",
		},
		{
			"is shut down", nil,
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.DenyAddress); fs.End(fakeswitch.Shutdown) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"denied this address (apply-inbound-acl in event_socket.conf.xml)", "address",
		},
		{
			"refuses the password", nil,
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.RefusePassword); fs.End(fakeswitch.Reload) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"refused the password (freeswitch.user, freeswitch.password)", "password",
		},
		{
			"falls silent", noticesSilence,
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.Silent) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"is silent", "silent",
		},
		{
			"sends garbage", nil,
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.Garbage); fs.End(fakeswitch.Reset) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"protocol error", "protocol",
		},
		{
			"ends in the middle of a frame", noticesSilence,
			func(fs *fakeswitch.Switch) { fs.SetFault(fakeswitch.Silent); fs.End(fakeswitch.HalfFrame) },
			func(fs *fakeswitch.Switch, _ string) { fs.SetFault(fakeswitch.NoFault) },
			"is silent", "disconnected",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := newSwitch(t, fakeswitch.Options{})
			addr := fs.Addr()
			r := startWith(t, fs, configFor(t, fs), Options{tune: tc.tune}, nil)
			r.ready()
			bans := func(addr string) {
				t.Helper()
				r.eventually("a ban of "+addr, func() bool { // a client that notices silence may lose a connection on a busy machine
					r.fail(addr, 5)
					return slices.Contains(r.banned(), addr+"/32")
				})
			}
			bans("203.0.113.1")

			tc.break_(fs)
			r.statusIs("the problem: "+tc.problem, func(s control.Status) bool {
				return !s.Ready && strings.Contains(strings.Join(s.Problems, "\n"), tc.problem) && !s.Sources[0].Up
			})
			r.logged(tc.problem)
			r.eventually("fsban_event_socket_errors_total counts "+tc.reason, func() bool {
				return !r.has("fsban_event_socket_errors_total", "reason="+tc.reason+" 0")
			})
			r.metricIs("fsban_ready", "0\n")

			tc.mend(fs, addr)
			r.ready()
			bans("203.0.113.2")
			r.metricIs("fsban_event_socket_up", "1\n")
			r.metricIs("fsban_ready", "1\n")
		})
	}
}

func TestASlowFreeSWITCHIsWaitedFor(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	fs.SetFault(fakeswitch.Slow)
	r := start(t, fs, configFor(t, fs))
	r.ready()
	r.fail("203.0.113.1", 5)
	r.eventually("the ban", func() bool { return len(r.banned()) == 1 })
	r.metricIs("fsban_event_socket_connects_total", "1\n")
}

func TestALoginThatMayNotSeeEverythingSaysSo(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{User: "guard@example.com", AllowedEvents: []string{"HEARTBEAT", "CUSTOM", "sofia::register_failure", "sofia::register_attempt"}})
	cfg := configFor(t, fs)
	cfg.FreeSWITCH.User = "guard@example.com"
	r := start(t, fs, cfg)
	r.ready()
	r.problem("may not see [sofia::pre_register sofia::register sofia::gateway_add sofia::gateway_delete CHANNEL_HANGUP_COMPLETE log]")
	r.fail("203.0.113.1", 5)
	r.eventually("the ban", func() bool { return len(r.banned()) == 1 })
}

func TestOwnAddressesAndTheEventSocketAreNeverBanned(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
		{"127.0.0.1/32", "127.0.0.1/32 is never banned, because of 127.0.0.0/8 (ignoreip): --force does it all the same"},
		{"0.0.0.0/1", "0.0.0.0/1 is too wide: a ban holds a /8 at most"},
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
	if err := unban("198.18.5.7/32"); err == nil || err.Error() != "198.18.5.7/32 is not banned, but it overlaps with 198.18.5.0/24: name the prefix as fsban list shows it" {
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
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	r := start(t, fs, cfg)
	r.ready()
	r.fail("203.0.113.1", 5)
	r.eventually("the ban", func() bool { return len(r.banned()) == 1 })
	before := r.enforced(1)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, fs, cfg)
	r.ready()
	after := r.enforced(1)
	if !after[0].Until.Equal(before[0].Until) || !after[0].Since.Equal(before[0].Since) || len(after[0].Evidence) != 5 {
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
	r.metricIs("fsban_attempts_while_banned_total", "40\n")
}

func TestABanOfSomebodyWhoIsNeverBannedNowIsLiftedAtTheStart(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	r.statusIs("the first one protects", func(s control.Status) bool { return s.Ready })
	if n := r.sources.client.State().Connects; n != 1 {
		t.Errorf("the first one is disturbed: it has connected %d times", n)
	}
}

func TestHealthAndMetricsOverHTTP(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.HTTP.Listen = testenv.Address(t)
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
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	hold, held := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	go func() {
		_ = r.loop.Do(context.Background(), func() {
			close(held)
			<-hold
		})
	}()
	<-held
	const surplus = 100
	for range 8192 + surplus {
		fs.Emit(fakeswitch.NoAuth, fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.1")}, time.Now())
	}
	r.eventually("all read", func() bool {
		return strings.Contains(r.metric("fsban_attempts_total"), fmt.Sprintf("kind=challenge source=event %d\n", 8192+surplus))
	})
	release()
	r.eventually("there is room again", func() bool { return r.loop.Queued() == 0 })
	r.settled()
	if got := r.loop.Dropped(); got != surplus {
		t.Errorf("%d dropped, want %d", got, surplus)
	}
	r.problem("100 attempts were lost: the decision queue was full")
}

func TestWhereTheSetIsFullTheBanNearestToItsEndMakesRoom(t *testing.T) {
	t.Parallel()
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
	r.metricHas("fsban_unbans_total", "cause=evicted 2")
	r.logged("firewall.max_bans")
	// Operators' bans are never evicted, not even for another operator's.
	for i := range 16 {
		if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/32", i+1))}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix("198.51.100.99/32")}); err == nil || !strings.Contains(err.Error(), "raise firewall.max_bans") {
		t.Errorf("one more: %v", err)
	}
	r.problem("1 bans were refused: raise firewall.max_bans, or")
}
