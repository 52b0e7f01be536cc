package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"fsban/internal/testenv"
)

const fullDisk = "FSBAN_TEST_FULL_DISK"

// On a full disk bans stay in memory, a start succeeds, also of a damaged file, and everything is written once there is room.
func TestAFullDisk(t *testing.T) {
	if dir := os.Getenv(fullDisk); dir != "" {
		onFullDisk(t, dir)
		return
	}
	testenv.System(t, "unshare", "mount")
	cmd := exec.CommandContext(t.Context(), "unshare", "-rm", "sh", "-c",
		`mount -t tmpfs -o size=256k none "$1" && exec "$0" -test.run '^TestAFullDisk$' -test.v`, os.Args[0], t.TempDir())
	cmd.Env = append(os.Environ(), fullDisk+"="+cmd.Args[len(cmd.Args)-1])
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestAFullDisk")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func onFullDisk(t *testing.T, dir string) {
	path, filler := filepath.Join(dir, "fsban.db"), filepath.Join(dir, "filler")
	l := open(t, path, start)
	for i := range 300 {
		l.Add(ban(fmt.Sprintf("10.0.%d.%d/32", i/256, i%256), time.Hour))
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	fill(t, filler)
	for i := range 100 {
		l.Add(ban(fmt.Sprintf("192.0.2.%d/32", i), time.Hour))
	}
	if err := l.Flush(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("written to a full disk: %v", err)
	}
	if len(l.List()) != 400 {
		t.Errorf("%d bans in memory", len(l.List()))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	change(t, path, "pbx.example", "pbx.exampla") // each ban: the file has nothing to save
	l = open(t, path, start)
	if l.SetAside() == "" || len(l.List()) != 0 {
		t.Errorf("%d bans, set aside as %q", len(l.List()), l.SetAside())
	}
	if _, err := l.Failures(); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	for i := range 300 {
		l.Add(ban(fmt.Sprintf("10.0.%d.%d/32", i/256, i%256), time.Hour))
	}
	if err := l.Flush(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("written to a full disk: %v", err)
	}
	l.notBefore = time.Time{} // a minute later
	if err := errors.Join(os.Remove(filler), os.Remove(l.SetAside()), l.Flush(), l.Close()); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, start)
	if len(l.List()) != 300 || l.SetAside() != "" {
		t.Errorf("%d bans, set aside as %q", len(l.List()), l.SetAside())
	}
	// One damaged record of many: the rest does not fit a second time, and is used where it is.
	fill(t, filler)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{data[100] ^ 1}, 100)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, start)
	if _, err := l.Failures(); !errors.Is(err, syscall.ENOSPC) || len(l.List()) != 299 || l.SetAside() == "" {
		t.Errorf("%v; %d bans, set aside as %q", err, len(l.List()), l.SetAside())
	}
	l.Add(ban("192.0.2.1/32", time.Hour))
	l.notBefore = time.Time{}
	if err := errors.Join(os.Remove(filler), l.Flush()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Failures(); err != nil {
		t.Error(err)
	}
	flush(t, l)
	l = open(t, path, start)
	if _, err := l.Load(netip.MustParsePrefix("192.0.2.1/32")); err != nil || len(l.List()) != 300 || l.SetAside() != "" {
		t.Errorf("%v; %d bans, set aside as %q", err, len(l.List()), l.SetAside())
	}
}

// fill leaves no room on the disk of path.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
