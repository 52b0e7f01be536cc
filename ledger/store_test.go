package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// withoutLinks has the file system hold one name of a file, as FAT does.
func withoutLinks(t *testing.T) {
	t.Helper()
	link = func(from, to string) error { return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EPERM} }
	t.Cleanup(func() { link = os.Link })
}

// A damaged file that cannot be kept under a second name, nor be replaced, stays in use under its own name: the next start finds
// every ban, also those made since.
func TestADamagedFileThatCannotBeReplacedStaysInUse(t *testing.T) {
	withoutLinks(t)
	path := statePath(t)
	l := open(t, path, start)
	for i := range 10 {
		l.Add(ban(fmt.Sprintf("192.0.2.%d/32", i), time.Hour))
	}
	flush(t, l)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[100] ^= 1
	inTheWay := filepath.Join(path+temporary, "file") // nothing can replace the file
	if err := errors.Join(os.WriteFile(path, data, 0o600), os.MkdirAll(inTheWay, 0o700)); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		l = open(t, path, start)
		if n := len(l.List()); n != 9+round || l.SetAside() != "" || l.Skipped() != 1 {
			t.Fatalf("start %d: %d bans, set aside as %q, %d skipped", round, n, l.SetAside(), l.Skipped())
		}
		if _, err := l.Failures(); err == nil {
			t.Error("no problem is shown")
		}
		l.Add(ban(fmt.Sprintf("198.51.100.%d/32", round), time.Hour))
		flush(t, l)
	}
	if err := os.RemoveAll(path + temporary); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, start)
	kept, err := os.ReadFile(l.SetAside())
	if err != nil || len(l.List()) != 12 || len(kept) < len(data) {
		t.Errorf("%d bans, set aside as %q, %d bytes: %v", len(l.List()), l.SetAside(), len(kept), err)
	}
	if again := open(t, reopen(t, l, path), start); len(again.List()) != 12 || again.SetAside() != "" {
		t.Errorf("%d bans, set aside as %q", len(again.List()), again.SetAside())
	}
}

func reopen(t *testing.T, l *Ledger, path string) string {
	t.Helper()
	flush(t, l)
	return path
}

// A state file that has lost its name is written again, with all bans: renamed, deleted with a second link left, truncated and
// deleted.
func TestAFileWithoutItsNameIsWrittenAnew(t *testing.T) {
	for name, lose := range map[string]func(path string) error{
		"renamed":            func(path string) error { return os.Rename(path, path+".bak") },
		"linked and deleted": func(path string) error { return errors.Join(os.Link(path, path+".bak"), os.Remove(path)) },
		"cut and deleted":    func(path string) error { return errors.Join(os.Truncate(path, 50), os.Remove(path)) },
		"cut":                func(path string) error { return os.Truncate(path, 50) },
	} {
		t.Run(name, func(t *testing.T) {
			path := statePath(t)
			l := open(t, path, start)
			l.Add(ban("192.0.2.1/32", time.Hour))
			if err := errors.Join(l.Flush(), lose(path)); err != nil {
				t.Fatal(err)
			}
			l.Add(ban("192.0.2.2/32", time.Hour))
			if err := errors.Join(l.Flush(), l.Flush()); err != nil {
				t.Fatal(err)
			}
			flush(t, l)
			if got := prefixes(open(t, path, start)); got != "192.0.2.1/32 192.0.2.2/32" {
				t.Errorf("after a restart: %s", got)
			}
		})
	}
}

// Root may run fsban by hand on the state of the service: every file stays the service's own.
func TestRootLeavesTheFileToItsOwner(t *testing.T) {
	path := statePath(t)
	const service = 54321
	want := os.Geteuid()
	if os.Geteuid() == 0 {
		want = service
		if err := os.Chown(filepath.Dir(path), service, service); err != nil {
			t.Fatal(err)
		}
	}
	l := open(t, path, start)
	owned(t, path, want)
	l.Add(ban("192.0.2.1/32", time.Hour))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if l.tryCompact(); l.compact != nil {
		t.Fatal(l.compact)
	}
	owned(t, path, want)
	if _, banned := l.Get(netip.MustParsePrefix("192.0.2.1/32")); !banned {
		t.Error("the ban is gone")
	}
}

func owned(t *testing.T, path string, uid int) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || int(st.Uid) != uid || fs.FileMode(st.Mode).Perm() != 0o600 {
		t.Errorf("owner %d, mode %o, want owner %d: %v", st.Uid, st.Mode, uid, err)
	}
}

// A file in the place of a replacement that another process has left, even a link to a third file, is not written to.
func TestAReplacementIsANewFile(t *testing.T) {
	path := statePath(t)
	other := path + ".other"
	l := open(t, path, start)
	if err := errors.Join(os.WriteFile(other, []byte("other"), 0o600), os.Symlink(other, path+temporary)); err != nil {
		t.Fatal(err)
	}
	l.Add(ban("192.0.2.1/32", time.Hour))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	l.tryCompact()
	got, err := os.ReadFile(other)
	if err != nil || !slices.Equal(got, []byte("other")) || l.compact != nil {
		t.Errorf("the other file holds %q: %v, %v", got, err, l.compact)
	}
}
