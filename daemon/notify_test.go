package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fsban/internal/fakeswitch"
)

// listenToNotify returns what next says that systemd was told.
func listenToNotify(t *testing.T) (next func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fsban")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestSystemdIsToldOfReloadsAndThatDecisionsAreMade(t *testing.T) {
	next := listenToNotify(t)
	t.Setenv("WATCHDOG_USEC", "100000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	fs := newSwitch(t, fakeswitch.Options{})
	f := &file{cfg: configFor(t, fs)}
	opts, hangup := f.options(), make(chan os.Signal, 1)
	opts.Hangup = hangup
	r := startWith(t, fs, f.cfg, opts, nil)
	// until waits for a message, and returns how often a sign of life came before it.
	until := func(what string) (alive int) {
		t.Helper()
		for said := next(); !strings.Contains(said, what); said = next() {
			if said == "WATCHDOG=1" {
				alive++
			} else if !strings.HasPrefix(said, "STATUS=") {
				t.Fatalf("%q before %s", said, what)
			}
		}
		return alive
	}
	until("READY=1")
	for _, wrong := range []error{nil, errors.New("wrong")} {
		f.mu.Lock()
		f.err = wrong
		f.mu.Unlock()
		hangup <- syscall.SIGHUP
		until("RELOADING=1\nMONOTONIC_USEC=")
		until("READY=1")
	}
	if got := r.metric("fsban_config_reloads_total"); got != "result=failed 1\nresult=ok 1\n" {
		t.Errorf("fsban_config_reloads_total\n%s", got)
	}
	until("WATCHDOG=1")
	until("WATCHDOG=1")
	// While the loop does not answer there is no sign of life, and then there is one again.
	stuck, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- r.do(context.Background(), func(*loop) { close(stuck); <-release }) }()
	<-stuck
	hangup <- syscall.SIGHUP // the file is wrong still: this is told without the loop
	until("RELOADING=1")
	until("READY=1")
	time.Sleep(300 * time.Millisecond) // time for six of them, where it is a mistake
	hangup <- syscall.SIGHUP
	if n := until("RELOADING=1"); n > 1 { // one may have been on its way
		t.Errorf("%d signs of life of a loop that stands", n)
	}
	until("READY=1")
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	until("WATCHDOG=1")
}

func TestSystemdIsToldOnceFsbanProtects(t *testing.T) {
	next := listenToNotify(t)
	fs := newSwitch(t, fakeswitch.Options{})
	fs.SetFault(fakeswitch.DenyAddress)
	r := start(t, fs, configFor(t, fs))
	for said := next(); !strings.Contains(said, "denied this address"); said = next() {
		if strings.Contains(said, "READY=1") {
			t.Fatalf("ready, without a source: %q", said)
		}
	}
	fs.SetFault(fakeswitch.NoFault)
	for said := next(); !strings.Contains(said, "READY=1"); said = next() {
		if !strings.HasPrefix(said, "STATUS=") {
			t.Fatalf("said %q", said)
		}
	}
	fs.SetFault(fakeswitch.DenyAddress)
	fs.End(fakeswitch.Kill)
	for said := next(); !strings.Contains(said, "STATUS=no source of attempts is alive"); said = next() {
		if strings.Contains(said, "READY=1") {
			t.Fatalf("ready twice: %q", said)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	for said := next(); said != "STOPPING=1"; said = next() {
		if !strings.HasPrefix(said, "STATUS=") {
			t.Fatalf("said %q", said)
		}
	}
}
