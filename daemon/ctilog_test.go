package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/ctilog"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/policy"
)

// writeLine has mod_cti tell of a failure of user 1000.
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
	fs := newSwitch(t, fakeswitch.Options{})
	addr := fs.Addr()
	cfg := configFor(t, fs)
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
	writeLine(t, cfg.CTILog.Path, "203.0.113.9", time.Now()) // before the start
	r := start(t, fs, cfg)
	r.ready()
	r.eventually("the log is followed", r.followsLog)
	r.eventually("it is read back", func() bool { return r.counts[policy.AuthFailure].Load() == 1 })
	r.eventually("the socket is up", func() bool { return r.Daemon.client.State().Up })
	lines := uint64(1)
	both := func(who string) {
		at := time.Now()
		fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr(who), User: "1000"}, at)
		writeLine(t, cfg.CTILog.Path, who, at)
		lines++
	}
	read := func() {
		t.Helper()
		r.eventually("every line is read", func() bool { return r.ctilog.Load().Status().Lines >= lines })
		r.settled()
	}

	// Told twice, counted once.
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
	if got := r.counts[policy.AuthFailure].Load(); got != 6 {
		t.Errorf("%d failures counted, want 6", got)
	}

	// The socket is gone: the log speaks.
	fs.CloseListener()
	fs.End(fakeswitch.Kill)
	r.eventually("the socket is down", func() bool { return !r.Daemon.client.State().Up })
	for range 5 {
		writeLine(t, cfg.CTILog.Path, "203.0.113.2", time.Now())
	}
	r.eventually("the second ban", func() bool { return len(r.banned()) == 2 })
	s := r.status()
	if p := strings.Join(s.Problems, "\n"); !s.Ready || !strings.Contains(p, "only mod_cti's log speaks: ") {
		t.Errorf("ready %v, problems %s", s.Ready, p)
	}
	if got := r.metric("fsban_cti_log_following"); got != "1\n" {
		t.Errorf("fsban_cti_log_following %s", got)
	}

	// The socket is back, and speaks again.
	if err := fs.Listen(addr); err != nil {
		t.Fatal(err)
	}
	r.eventually("the socket is up", func() bool { return r.Daemon.client.State().Up })
	lines += 5
	for range 4 {
		both("203.0.113.3")
	}
	read()
	if got := r.counts[policy.AuthFailure].Load(); got != 15 {
		t.Errorf("%d failures counted, want 15", got)
	}
	// A line of a failure from before the socket came back may wait a moment for its event.
	if err := r.do(t.Context(), func(l *loop) { l.countDue(time.Now().Add(time.Minute)) }); err != nil {
		t.Fatal(err)
	}
	if got := r.counts[policy.AuthFailure].Load(); got != 15 {
		t.Errorf("%d failures counted after the wait, want 15", got)
	}
	if got := len(r.banned()); got != 2 {
		t.Errorf("%d banned", got)
	}
}

func TestWhatModCTIAloneFindsCounts(t *testing.T) {
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
	r.eventually("the ban", func() bool { return len(r.banned()) == 1 })
	bans, err := r.client.Bans(t.Context(), control.Pick{Evidence: control.All})
	if err != nil {
		t.Fatal(err)
	}
	if b := bans[0]; b.Source != "cti_log" || len(b.Evidence) != 5 || b.Evidence[0].Kind != "violation" {
		t.Errorf("ban %+v", b)
	}
}

// Where others have used up the kernel's watches, what mod_cti writes still counts, and the log says why that takes longer.
func TestWithoutInotifyTheLogIsPolledAndThatIsSaid(t *testing.T) {
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
		r.eventually("the line is read", func() bool { return r.ctilog.Load().Status().Lines == 1 })
	})
}

func TestTheLogIsLookedForOnce(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.CTILog.Path = "" // the known places: their directories may come and go while fsban runs
	r := start(t, fs, cfg)
	r.ready()
	if path := r.cfg().CTILog.Path; r.ctilog.Load() == nil && path != config.CTILogOff || r.ctilog.Load() != nil && path == "" {
		t.Errorf("it is looked for again: path %q, followed %v", path, r.ctilog.Load() != nil)
	}
}

// FreeSWITCH's clock is put back by half a minute. Should mod_cti's log be gone at the next start, what was read of it before
// that still counts as read.
func TestAClockThatIsPutBackTakesNothingReadAway(t *testing.T) {
	cfg := configFor(t, newSwitch(t, fakeswitch.Options{}))
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
	now := time.Now()
	for range 2 { // and over a restart
		d, err := open(cfg, Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range []time.Time{now, now.Add(-30 * time.Second)} {
			a := policy.Attempt{Addr: netip.MustParseAddr("203.0.113.5"), At: at, Source: policy.CTILog}
			d.loop.decide(&sighting{Attempt: a, read: now, next: ctilog.Position{File: ctilog.Mark{Ino: 1, Offset: int64(100 * i)}}})
		}
		if p := d.loop.place; !p.At.Equal(now) || !p.Clock.Equal(now) || p.File.Offset != 100 {
			t.Errorf("the log counts up to %+v, want %v and offset 100", p, now)
		}
		d.loop.seal(now)
		if err := errors.Join(d.ledger.Close(), d.backend.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
