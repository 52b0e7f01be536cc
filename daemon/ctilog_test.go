package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/policy"
)

// writeLine appends mod_cti's line of a failure of user 1000.
func writeLine(t *testing.T, path, addr string, at time.Time) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(f, "ip[%s] user[1000] at[%s] Registration failed\n", addr, at.Format("2006-01-02T15:04:05.000000-0700"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTheLogTakesOverWhenTheEventSocketIsGoneAndNothingCountsTwice(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	addr := fs.Addr()
	cfg := configFor(t, fs)
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
	writeLine(t, cfg.CTILog.Path, "203.0.113.9", time.Now()) // before the start
	r := start(t, fs, cfg)
	r.ready()
	r.eventually("the log is followed", r.sources.followsLog)
	r.eventually("it is read back", func() bool { return r.loop.Counted(policy.AuthFailure) == 1 })
	r.eventually("the socket is up", r.connected)
	lines := uint64(1)
	both := func(who string) {
		at := time.Now()
		fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr(who), User: "1000"}, at)
		writeLine(t, cfg.CTILog.Path, who, at)
		lines++
	}
	read := func() {
		t.Helper()
		r.eventually("every line is read", func() bool { return r.sources.follower.Load().Status().Lines >= lines })
		r.settled()
	}

	// Reported twice, counted once.
	for range 4 {
		both("203.0.113.1")
	}
	read()
	if got := r.banned(); got != nil {
		t.Fatalf("four failures, told twice each: banned %v", got)
	}
	both("203.0.113.1")
	read()
	if got := fmt.Sprint(r.banned()); got != "[203.0.113.1/32]" {
		t.Fatalf("banned %s", got)
	}
	r.counted(policy.AuthFailure, 6)

	// The socket is down: the log becomes active.
	fs.CloseListener()
	fs.End(fakeswitch.Kill)
	r.eventually("the socket is down", func() bool { return !r.sources.client.State().Up })
	for range 5 {
		writeLine(t, cfg.CTILog.Path, "203.0.113.2", time.Now())
	}
	r.eventually("the second ban", func() bool { return len(r.banned()) == 2 })
	r.statusIs("ready, with the log alone", func(s control.Status) bool {
		return s.Ready && strings.Contains(strings.Join(s.Problems, "\n"), "only mod_cti's log reports failed logins")
	})
	r.metricIs("fsban_cti_log_following", "1\n")

	// The socket is up, and active again.
	if err := fs.Listen(addr); err != nil {
		t.Fatal(err)
	}
	r.eventually("the socket is up", r.connected)
	lines += 5
	for range 4 {
		both("203.0.113.3")
	}
	read()
	r.counted(policy.AuthFailure, 15)
	// A line of a failure from before the reconnect may be held back for its event.
	if err := r.loop.Do(t.Context(), func() { r.loop.Tick(time.Now().Add(time.Minute)) }); err != nil {
		t.Fatal(err)
	}
	if got := r.loop.Counted(policy.AuthFailure); got != 15 {
		t.Errorf("%d failures counted after the wait, want 15", got)
	}
	if got := len(r.banned()); got != 2 {
		t.Errorf("%d banned", got)
	}
}

func TestUnreadableLogIsAnOpenProblem(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		make    func(path string) error
		problem bool
	}{
		"absent":      {func(string) error { return nil }, false},
		"a directory": {func(path string) error { return os.Mkdir(path, 0o700) }, true},
		"a loop":      {func(path string) error { return os.Symlink(path, path) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			fs := newSwitch(t, fakeswitch.Options{})
			cfg := configFor(t, fs)
			cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
			if err := tc.make(cfg.CTILog.Path); err != nil {
				t.Fatal(err)
			}
			r := start(t, fs, cfg)
			r.ready()
			const problem = "mod_cti's log cannot be read (cti_log.path)"
			follow := "follow " + cfg.CTILog.Path + ": "
			if tc.problem {
				r.problem(problem + ": " + follow)
			} else {
				r.noProblem(problem)
			}
			r.statusIs("the error of the source", func(s control.Status) bool {
				i := slices.IndexFunc(s.Sources, func(s control.Source) bool { return s.Name == "cti_log" })
				return i >= 0 && !s.Sources[i].Up && strings.HasPrefix(s.Sources[i].Error, follow)
			})
		})
	}
}

// A log that the follower has not opened yet is neither an open problem nor an error of its source.
func TestALogThatIsNotReadYetIsNoProblem(t *testing.T) {
	t.Parallel()
	d := everything(t)
	for _, p := range d.problems() {
		if strings.Contains(p, "cti_log") {
			t.Errorf("open problem %q", p)
		}
	}
	for _, s := range d.sources.status() {
		if s.Up || s.Error != "" {
			t.Errorf("source %+v", s)
		}
	}
}

func TestWhatModCTIAloneFindsCounts(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
	r := start(t, fs, cfg)
	r.ready()
	var text strings.Builder
	for range 5 {
		fmt.Fprintf(&text, "ip[203.0.113.4] user[1000] at[%s] Called number 00861234 not allowed\n", time.Now().Format("2006-01-02T15:04:05.000000-0700"))
	}
	if err := os.WriteFile(cfg.CTILog.Path, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if b := r.enforced(1)[0]; b.Source != "cti_log" || len(b.Evidence) != 5 || b.Evidence[0].Kind != "violation" {
		t.Errorf("ban %+v", b)
	}
}

// Without inotify watches left, mod_cti's lines still count, and the log reports polling.
func TestWithoutInotifyTheLogIsPolledAndThatIsSaid(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := configFor(t, fs)
		cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
		if err := os.WriteFile(cfg.CTILog.Path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		r := start(t, fs, cfg)
		r.ready()
		r.eventually("it is said", func() bool { return strings.Contains(r.log.String(), "fs.inotify.max_user_instances") })
		writeLine(t, cfg.CTILog.Path, "203.0.113.4", time.Now())
		r.eventually("the line is read", func() bool { return r.sources.follower.Load().Status().Lines == 1 })
	})
}

func TestTheLogIsLookedForOnce(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.CTILog.Path = "" // the default paths: their directories may appear and vanish while fsban runs
	r := start(t, fs, cfg)
	r.ready()
	if path := r.cfg().CTILog.Path; r.sources.follower.Load() == nil && path != config.CTILogOff || r.sources.follower.Load() != nil && path == "" {
		t.Errorf("it is looked for again: path %q, followed %v", path, r.sources.follower.Load() != nil)
	}
}
