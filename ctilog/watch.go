package ctilog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A watch receives changes from inotify. A nil watch receives none.
type watch struct {
	f     *os.File
	fd    int            // of f; calling f.Fd would make f blocking
	files map[int]int    // number of watches per descriptor
	dirs  map[string]int // descriptor by path
	buf   [16 << 10]byte
}

func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch files with inotify (sysctl fs.inotify.max_user_instances limits it): %w", err)
	}
	return &watch{fd: fd, f: os.NewFile(uintptr(fd), "inotify"), files: make(map[int]int), dirs: make(map[string]int)}, nil
}

func (w *watch) close() {
	if w != nil {
		_ = w.f.Close() // opened for reading only
	}
}

// interrupt ends the current wait. Any goroutine may call it.
func (w *watch) interrupt() {
	if w != nil {
		_ = w.f.SetReadDeadline(time.Unix(1, 0)) // fails only if closed: then no wait is in progress
	}
}

const dirEvents = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ATTRIB |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// directories watches the directory of path, and the directory that a symbolic link at path leads to. Only names in them are
// watched: writes to other files there must not wake the follower.
func (w *watch) directories(path string) error {
	want := map[string]bool{filepath.Dir(path): true, filepath.Dir(resolve(path)): true}
	var failed error
	for dir := range want {
		wd, err := unix.InotifyAddWatch(w.fd, dir, dirEvents)
		if err != nil {
			if !errors.Is(err, unix.ENOENT) {
				failed = fmt.Errorf("watch directory %s: %w", dir, err)
			}
			continue
		}
		if old, ok := w.dirs[dir]; !ok || old != wd {
			w.unwatch(dir)
			w.dirs[dir] = wd
		}
	}
	for dir := range w.dirs {
		if !want[dir] {
			w.unwatch(dir)
		}
	}
	return failed
}

// unwatch ends the watch of dir, unless dir has a second name.
func (w *watch) unwatch(dir string) {
	wd, ok := w.dirs[dir]
	if !ok {
		return
	}
	delete(w.dirs, dir)
	for _, other := range w.dirs {
		if other == wd {
			return
		}
	}
	_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // may have ended with the directory
}

// file watches writes to an open file, independently of its name.
func (w *watch) file(fd int, name string) (wd int, err error) {
	if w == nil {
		return -1, nil
	}
	wd, err = unix.InotifyAddWatch(w.fd, fmt.Sprintf("/proc/self/fd/%d", fd), unix.IN_MODIFY)
	if err != nil {
		return -1, fmt.Errorf("watch %s: %w", name, err)
	}
	w.files[wd]++
	return wd, nil
}

// forget ends the watch of a file.
func (w *watch) forget(wd int) {
	if w == nil || wd < 0 {
		return
	}
	if w.files[wd]--; w.files[wd] <= 0 {
		delete(w.files, wd)
		_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // may have ended with the file
	}
}

// wait waits for a change, for d, or for ctx. It reports whether anything but the content of a file changed.
func (w *watch) wait(ctx context.Context, d time.Duration) (directory bool) {
	if w == nil {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		return true
	}
	// The end of ctx interrupts the wait through interrupt: if ctx ends after this check, interrupt sees the new deadline and
	// shortens it.
	if err := w.f.SetReadDeadline(time.Now().Add(d)); err != nil || ctx.Err() != nil {
		return true
	}
	n, err := w.f.Read(w.buf[:])
	if err != nil {
		return true
	}
	for events := w.buf[:n]; len(events) >= unix.SizeofInotifyEvent; {
		wd := int(int32(binary.NativeEndian.Uint32(events)))
		length := int(binary.NativeEndian.Uint32(events[12:]))
		if w.files[wd] == 0 {
			directory = true
		}
		events = events[min(len(events), unix.SizeofInotifyEvent+length):]
	}
	return directory
}
