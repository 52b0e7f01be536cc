package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsban/internal/fakeswitch"
)

func TestSystemdIsToldOnceFsbanProtects(t *testing.T) {
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
	defer func() { _ = conn.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	next := func() string {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}

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
