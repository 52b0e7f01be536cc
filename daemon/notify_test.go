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

	"fsban/control"
	"fsban/internal/fakeswitch"
)

// listenToNotify receives systemd notifications. next returns the next one.
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
		_ = conn.SetReadDeadline(time.Now().Add(patience))
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
	// until waits for a message and returns the number of watchdog messages before it.
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
	r.metricIs("fsban_config_reloads_total", "result=failed 1\nresult=ok 1\n")
	until("WATCHDOG=1")
	until("WATCHDOG=1")
	// A blocked loop stops the watchdog messages; they resume afterwards.
	stuck, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- r.loop.Do(context.Background(), func() { close(stuck); <-release }) }()
	<-stuck
	hangup <- syscall.SIGHUP // the file is still invalid: this is reported without the loop
	until("RELOADING=1")
	until("READY=1")
	time.Sleep(300 * time.Millisecond) // six intervals of the watchdog
	hangup <- syscall.SIGHUP
	if n := until("RELOADING=1"); n > 1 { // one may have been sent before
		t.Errorf("%d signs of life of a loop that stands", n)
	}
	until("READY=1")
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	until("WATCHDOG=1")
}

// systemd's readiness means that bans are in force. A boot does not wait for a source; status reports the missing source.
func TestSystemdIsNotifiedOnceBansAreInForce(t *testing.T) {
	next := listenToNotify(t)
	fs := newSwitch(t, fakeswitch.Options{})
	fs.SetFault(fakeswitch.DenyAddress)
	r := start(t, fs, configFor(t, fs))
	ready, denied := false, false
	for !ready || !denied {
		said := next()
		ready, denied = ready || strings.HasPrefix(said, "READY=1\nSTATUS=no source of attempts is alive"), denied || strings.Contains(said, "denied this address")
	}
	r.statusIs("enforcing without a source", func(s control.Status) bool {
		return !s.Ready && s.Firewall.Enforcing && strings.Contains(strings.Join(s.Problems, "\n"), "no source of attempts is alive")
	})
	r.metricIs("fsban_ready", "0\n")
	fs.SetFault(fakeswitch.NoFault)
	for said := next(); said != "STATUS=protecting"; said = next() {
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
