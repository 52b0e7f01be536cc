package daemon

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/esl"
	"fsban/firewall"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/internal/testenv"
	"fsban/policy"
)

// A rig is a daemon and a FreeSWITCH for one test.
//
// Everything that a daemon does is done by other goroutines and the kernel, so a test waits for a state before it asserts it: the
// methods eventually, statusIs, problem, metricIs, metricHas, logged and bansAre wait at most patience, and print the last state
// when they fail. Only settled makes a single read valid: of bans, counts and counters of the decision loop, and to assert that
// something has not happened.
type rig struct {
	*Daemon
	t      testing.TB
	fs     *fakeswitch.Switch
	client *control.Client
	log    *syncBuffer
	stop   func() error // stops the daemon and returns the result of Run
}

// patience is how long a test waits for a condition, on however busy a machine. A test that passes does not need it.
const patience = 2 * time.Minute

// wait polls until ok, at most patience. Then it fails with the text of last, which may be nil.
func wait(t testing.TB, what string, ok func() bool, last func() string) {
	t.Helper()
	pause := time.Millisecond
	for deadline := time.Now().Add(patience); !ok(); pause = min(2*pause, 20*time.Millisecond) {
		if time.Now().After(deadline) {
			state := ""
			if last != nil {
				state = "; last state:\n" + last()
			}
			t.Fatalf("not within %v: %s%s", patience, what, state)
		}
		time.Sleep(pause)
	}
}

// logLevel keeps the log out of a benchmark.
func logLevel(t testing.TB) slog.Level {
	if _, ok := t.(*testing.B); ok {
		return slog.LevelError
	}
	return slog.LevelDebug
}

// newSwitch starts a FreeSWITCH that ends with the test.
func newSwitch(t testing.TB, o fakeswitch.Options) *fakeswitch.Switch {
	t.Helper()
	fs := fakeswitch.New(o)
	if err := fs.Listen(testenv.Address(t)); err != nil { // some tests listen there again
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

// configFor returns the default configuration with directories and sockets for this test. Bans are enforced in memory.
func configFor(t testing.TB, fs *fakeswitch.Switch) config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "fsban") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := config.Default()
	cfg.FreeSWITCH.Address = fs.Addr()
	cfg.Firewall.Backend = firewall.None
	cfg.State.Directory = dir
	cfg.Control.Socket = filepath.Join(dir, "s")
	cfg.HTTP.Listen = ""
	cfg.SIP.Tap = config.TapOff // the address of its listener is that of one daemon of the host
	return cfg
}

// impatient makes a client reconnect within milliseconds. It does not shorten the time for an answer: on a busy machine a
// connection would end, and the events meanwhile would be lost.
func impatient(o *esl.Options) {
	o.IdleTimeout, o.LoginTimeout = time.Minute, time.Minute
	o.RetryMin, o.RetryMax, o.RetryRefused = 10*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond
}

// noticesSilence makes a client notice in seconds that FreeSWITCH does not answer.
func noticesSilence(o *esl.Options) {
	impatient(o)
	o.IdleTimeout, o.LoginTimeout = time.Second, 2*time.Second
}

// start runs a daemon with cfg until the end of the test, or until stop.
func start(t testing.TB, fs *fakeswitch.Switch, cfg config.Config) *rig {
	t.Helper()
	return startWith(t, fs, cfg, Options{}, nil)
}

// startWith is start with options; prepare, if any, changes the daemon before it runs.
func startWith(t testing.TB, fs *fakeswitch.Switch, cfg config.Config, opts Options, prepare func(*Daemon)) *rig {
	t.Helper()
	if cfg.Firewall.Backend != firewall.None && cfg.Firewall.Enforce && !netns.Inside() {
		t.Fatalf("firewall.backend %s would change the host's firewall: run the test with netns.Run", cfg.Firewall.Backend)
	}
	log := new(syncBuffer)
	opts.Log, opts.Version, opts.pace = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: logLevel(t)})), "test", brisk
	if opts.tune == nil {
		opts.tune = impatient
	}
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

// eventually waits until ok. The daemon's log is printed with each failure of a test.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	wait(r.t, what, ok, nil)
}

// ready waits until the daemon protects and every configured source has started: it is up, or has failed once. A connected event
// socket is reported to the decision loop by then.
func (r *rig) ready() {
	r.t.Helper()
	wait(r.t, "ready", func() bool {
		if len(r.unready()) > 0 {
			return false
		}
		if r.sources.client.State().Err == nil && !r.connected() {
			return false
		}
		follower := r.sources.follower.Load()
		if follower == nil {
			return true
		}
		log := follower.Status()
		return log.Err != nil || log.Following && r.sources.followsLog()
	}, func() string { return fmt.Sprintf("%q, sources %+v", r.unready(), r.sources.status()) })
}

// markers counts the successes that settled has sent, to any daemon.
var markers atomic.Uint32

// connected reports whether the event socket is up and the decision loop was notified of that.
func (r *rig) connected() bool { return r.sources.client.State().Up && r.loop.Alive(policy.Event) }

// settled waits until everything that FreeSWITCH sent so far has been decided: each call sends a success of another address and
// waits until that one is known-good. The event socket must be up.
func (r *rig) settled() {
	r.t.Helper()
	n := markers.Add(1)
	marker := netip.AddrFrom4([4]byte{198, 18 + byte(n>>16)%2, byte(n >> 8), byte(n)})
	r.fs.Emit(fakeswitch.Success, fakeswitch.Caller{Addr: marker}, time.Now())
	r.eventually("settled", func() bool {
		s, _, err := r.loop.Why(r.t.Context(), marker)
		return err == nil && s.KnownGood != nil && r.loop.Queued() == 0
	})
	if err := r.loop.Do(context.Background(), func() {}); err != nil {
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

// enforced waits until every ban of the ledger is in the kernel, and returns the bans with all evidence.
func (r *rig) enforced(bans int) []control.Ban {
	r.t.Helper()
	var list []control.Ban
	wait(r.t, fmt.Sprintf("%d bans are in the kernel", bans), func() bool {
		var err error
		list, err = r.client.Bans(r.t.Context(), control.Pick{Evidence: control.All})
		return err == nil && len(list) == bans && !slices.ContainsFunc(list, func(b control.Ban) bool { return !b.InKernel })
	}, func() string { return fmt.Sprintf("%+v", list) })
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

// statusIs waits until ok holds for the status.
func (r *rig) statusIs(what string, ok func(control.Status) bool) {
	r.t.Helper()
	var s control.Status
	wait(r.t, what, func() bool {
		s = r.status()
		return ok(s)
	}, func() string { return fmt.Sprintf("%+v", s) })
}

// problem waits until an open problem contains each of parts.
func (r *rig) problem(parts ...string) {
	r.t.Helper()
	r.statusIs(fmt.Sprintf("open problem %q", parts), func(s control.Status) bool {
		return slices.ContainsFunc(s.Problems, func(p string) bool {
			return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(p, part) })
		})
	})
}

// noProblem waits until no open problem contains part.
func (r *rig) noProblem(part string) {
	r.t.Helper()
	r.statusIs(fmt.Sprintf("no open problem %q", part), func(s control.Status) bool {
		return !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, part) })
	})
}

// logged waits until the log contains part.
func (r *rig) logged(part string) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%q in the log", part), func() bool { return strings.Contains(r.log.String(), part) })
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

// metricIs waits until a metric has exactly these samples.
func (r *rig) metricIs(name, want string) {
	r.t.Helper()
	var got string
	wait(r.t, fmt.Sprintf("%s is %q", name, want), func() bool {
		got = r.metric(name)
		return got == want
	}, func() string { return cmp.Or(got, "none") })
}

// metricHas waits until a metric has this sample, among others.
func (r *rig) metricHas(name, sample string) {
	r.t.Helper()
	wait(r.t, fmt.Sprintf("%s has %q", name, sample), func() bool { return r.has(name, sample) }, func() string { return r.metric(name) })
}

// has reports whether a metric has this sample.
func (r *rig) has(name, sample string) bool {
	return slices.Contains(strings.Split(r.metric(name), "\n"), sample)
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
