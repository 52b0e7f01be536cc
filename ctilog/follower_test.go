package ctilog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A reading is a running Follower with the lines it has delivered.
type reading struct {
	*Follower
	t    *testing.T
	stop func()

	mu    sync.Mutex
	lines []Line // their texts are copies
}

// patience bounds the wait for anything that should happen at once.
const patience = 2 * time.Minute

// newReading returns a Follower of path that is not yet running.
func newReading(t *testing.T, path string, opts Options) *reading {
	r := &reading{t: t}
	opts.OnLine = func(l Line) {
		l.Text = append([]byte(nil), l.Text...)
		r.mu.Lock()
		r.lines = append(r.lines, l)
		r.mu.Unlock()
	}
	if opts.Quiet == 0 {
		opts.Quiet = 200 * time.Millisecond // tests with so short a time do not write to a renamed file
	}
	r.Follower = NewFollower(path, opts)
	return r
}

// follow runs a new Follower of path until the test ends, or stop is called.
func follow(t *testing.T, path string, opts Options, before ...func(*Follower)) *reading {
	t.Helper()
	r := newReading(t, path, opts)
	for _, f := range before {
		f(r.Follower)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(r.stop)
	return r
}

// tick waits until a file written in dir from now on has a later time than those written before.
func tick(t *testing.T, dir string) {
	t.Helper()
	clock := func() time.Time {
		path := filepath.Join(dir, "clock")
		do(t, os.WriteFile(path, nil, 0o644))
		defer func() { do(t, os.Remove(path)) }()
		return must(os.Stat(path)).ModTime()
	}
	for before := clock(); !clock().After(before); {
		runtime.Gosched()
	}
}

// got returns the lines delivered so far.
func (r *reading) got() []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clip(r.lines)
}

// texts returns the lines delivered so far, with "<" before a torn one, ">" behind an unfinished one and ">>" behind a cut one.
func (r *reading) texts() (list []string) {
	for _, l := range r.got() {
		s := string(l.Text)
		if l.Torn {
			s = "<" + s
		}
		if l.Cut {
			s += ">"
		}
		if l.Unfinished {
			s += ">"
		}
		list = append(list, s)
	}
	return list
}

func (r *reading) eventually(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("not %s; %d lines, status %+v", what, len(r.got()), r.Status())
		}
	}
}

// wants waits until the delivered lines equal lines.
func (r *reading) wants(lines ...string) {
	r.t.Helper()
	want := fmt.Sprintf("%q", lines)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		got := fmt.Sprintf("%q", r.texts())
		if got == want {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("lines %.2000s\nwant %.2000s\nstatus %+v", got, want, r.Status())
		}
	}
}

// settled waits until the status counts every delivered line, and returns it. Lines are delivered before the status is
// published.
func (r *reading) settled() Status {
	r.t.Helper()
	r.eventually("told of", func() bool { return r.Status().Lines == uint64(len(r.got())) })
	return r.Status()
}

func (r *reading) following() {
	r.t.Helper()
	r.eventually("following", func() bool { s := r.Status(); return s.Following && s.Err == nil })
}

// must returns v, and ends the test on an error.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	do(t, os.WriteFile(path, []byte(text), 0o644))
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f := must(os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644))
	_, err := f.WriteString(text)
	do(t, err, f.Close())
}

func logPath(t *testing.T) string { return filepath.Join(t.TempDir(), "cti_fail2ban.log") }

func TestOnlyCompleteLinesAreDelivered(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\ntw")
	r := follow(t, path, Options{})
	r.wants("one")
	appendTo(t, path, "o\n")
	r.wants("one", "two")
	appendTo(t, path, "three\n\nfour\r\nfi")
	r.wants("one", "two", "three", "", "four\r")
	appendTo(t, path, "ve\n")
	r.wants("one", "two", "three", "", "four\r", "five")
	if s := r.settled(); s.Lines != 6 || s.Bytes != uint64(len("one\ntwo\nthree\n\nfour\r\nfive\n")) || s.Polling != nil || s.Files != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestALineTooLongIsCutAndNeverBecomesTwo(t *testing.T) {
	for _, tc := range []struct {
		name string
		size int
		cut  bool
	}{{"just not", 100, false}, {"by one", 101, true}, {"longer than the buffer", 3*bufferSize + 5, true}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := logPath(t)
				long := strings.Repeat("x", tc.size)
				want := long
				if tc.cut {
					want = long[:100] + ">>"
				}
				write(t, path, "a\n"+long+"\nb\n")
				r := follow(t, path, Options{MaxLine: 100, Poll: time.Millisecond}, deaf)
				r.wants("a", want, "b")
				for piece := range 10 { // the same in pieces
					appendTo(t, path, long[tc.size*piece/10:tc.size*(piece+1)/10])
					time.Sleep(2 * time.Millisecond) // time for a look, in a bubble
				}
				appendTo(t, path, "\nc\n")
				r.wants("a", want, "b", want, "c")
				if s := r.settled(); (s.Cut == 2) != tc.cut || !tc.cut && s.Cut != 0 {
					t.Errorf("%d lines cut", s.Cut)
				}
			})
		})
	}
}

func TestTheFileMayAppearLater(t *testing.T) {
	path := logPath(t)
	r := follow(t, path, Options{FromEnd: true})
	r.eventually("missing", func() bool { return errors.Is(r.Status().Err, fs.ErrNotExist) })
	if s := r.Status(); s.Following || !strings.Contains(s.Err.Error(), path) || !strings.Contains(s.Err.Error(), "cti.json") {
		t.Errorf("status %+v", s)
	}
	write(t, path, "one\n")
	r.wants("one")
	r.following()
}

func TestTheDirectoryMayAppearLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ddt", "fs", "log")
	path := filepath.Join(dir, "cti_fail2ban.log")
	r := follow(t, path, Options{FromEnd: true, Poll: 20 * time.Millisecond})
	r.eventually("missing", func() bool { return errors.Is(r.Status().Err, fs.ErrNotExist) })
	if err := r.Status().Err; !strings.Contains(err.Error(), "there is no directory "+dir) {
		t.Errorf("error %q", err)
	}
	do(t, os.MkdirAll(dir, 0o755))
	write(t, path, "one\n")
	r.wants("one")
	r.following()

	// The directory may disappear and return.
	do(t, os.RemoveAll(dir), os.MkdirAll(dir, 0o755))
	write(t, path, "two\n")
	r.wants("one", "two")
	appendTo(t, path, "three\n")
	r.wants("one", "two", "three")
}

func TestOnlyRegularFilesAreRead(t *testing.T) {
	path := logPath(t)
	do(t, os.Mkdir(path, 0o755))
	r := follow(t, path, Options{})
	r.eventually("refused", func() bool { err := r.Status().Err; return err != nil })
	if s := r.Status(); s.Following || !strings.Contains(s.Err.Error(), "not a regular file") {
		t.Errorf("status %+v", s)
	}
	do(t, os.Remove(path))
	write(t, path, "one\n")
	r.wants("one")
}

func TestAnErrorIsReportedOnceWithItsRemedy(t *testing.T) {
	synctest.Test(t, testAnErrorSaysWhatToDoOnce)
}

func testAnErrorSaysWhatToDoOnce(t *testing.T) {
	path := logPath(t)
	var told []string
	r := follow(t, path, Options{Poll: time.Millisecond, OnStatus: func(s Status) {
		told = append(told, fmt.Sprintf("%t %v", s.Following, s.Err))
	}}, deaf)
	r.eventually("missing", func() bool { return errors.Is(r.Status().Err, fs.ErrNotExist) })
	time.Sleep(20 * time.Millisecond) // time for a second call
	write(t, path, "one\n")
	r.wants("one")
	r.following()
	r.stop()
	want := fmt.Sprintf("%q", []string{
		"false follow " + path + ": no such file or directory: mod_cti makes it with the first record that it writes (fail2ban.filename in cti.json says where)",
		"true <nil>", "false <nil>",
	})
	if got := fmt.Sprintf("%q", told); got != want {
		t.Errorf("told %s\nwant %s", got, want)
	}
}

// deaf makes inotify unavailable to f.
func deaf(f *Follower) {
	f.newWatch = func() (*watch, error) { return nil, errors.New("no inotify here") }
}

func TestWithoutTheKernelsHelpTheFileIsPolled(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\n")
	r := follow(t, path, Options{Poll: 5 * time.Millisecond}, deaf)
	r.wants("one")
	if s := r.settled(); !s.Following || s.Polling == nil {
		t.Errorf("status %+v", s)
	}
	appendTo(t, path, "two\n")
	r.wants("one", "two")
	do(t, os.Rename(path, path+".1"))
	write(t, path, "three\n")
	r.wants("one", "two", "three")
	r.stop()
}

func TestABusyNeighbourChangesNothing(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\n")
	r := follow(t, path, Options{Poll: time.Hour})
	r.wants("one")
	before := r.settled()
	for i := range 1000 {
		appendTo(t, filepath.Join(filepath.Dir(path), "freeswitch.log"), fmt.Sprintln(i))
	}
	if s := r.Status(); s != before {
		t.Errorf("status %+v, was %+v", s, before)
	}
	appendTo(t, path, "two\n")
	r.wants("one", "two")
}

func TestTheEndOfTheContextEndsAWait(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\n")
	for i := range 50 {
		r := follow(t, path, Options{Poll: time.Hour})
		if i%2 == 0 {
			r.wants("one")
		}
		r.stop()
		if s := r.Status(); s.Following || s.Files != 0 {
			t.Fatalf("status %+v", s)
		}
	}
}
