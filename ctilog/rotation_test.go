package ctilog

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const total = 22_000

var seed = flag.Uint64("seed", 1, "seed of the pieces in which the writers of rotation tests write")

func numbered(i int) string {
	return fmt.Sprintf("ip[10.%d.%d.%d] user[%d] at[2026-11-22T18:04:03.%06d+0800] Registration failed", i>>16, i>>8&255, i&255, i, i)
}

func numberedLines(from, to int) []string {
	list := make([]string, 0, to-from)
	for i := range to - from {
		list = append(list, numbered(from+i))
	}
	return list
}

// A writer writes numbered lines in ragged pieces.
type writer struct {
	t       *testing.T
	rand    *rand.Rand
	path    string
	flags   int
	f       *os.File
	next    int    // line
	rest    []byte // of lines that were begun
	rotated int    // number of rotations
	await   func() // called before content becomes unreachable except through an open file

	// mu is held while a piece is written, and while the content of the file is inspected.
	mu sync.Mutex
}

func newWriter(t *testing.T, path string, flags int) *writer {
	w := &writer{t: t, rand: rand.New(rand.NewPCG(*seed, 0)), path: path, flags: flags}
	w.open()
	t.Cleanup(func() {
		_ = w.f.Close()
		if t.Failed() {
			t.Logf("-seed %d", *seed)
		}
	})
	return w
}

func (w *writer) open() {
	if w.f != nil {
		do(w.t, w.f.Close())
	}
	w.f = must(os.OpenFile(w.path, os.O_WRONLY|os.O_CREATE|w.flags, 0o644))
}

// piece writes a part of one line, or several.
func (w *writer) piece() {
	for range 1 + w.rand.IntN(8) {
		if w.next < total {
			w.rest = append(w.rest, numbered(w.next)+"\n"...)
			w.next++
		}
	}
	w.flush(1 + w.rand.IntN(len(w.rest)))
}

// endLine completes the line that was begun.
func (w *writer) endLine() {
	for len(w.rest) > 0 {
		w.flush(1 + w.rand.IntN(len(w.rest)))
	}
}

func (w *writer) flush(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.f.Write(w.rest[:n])
	do(w.t, err)
	w.rest = append(w.rest[:0], w.rest[n:]...)
}

// all writes all lines, and calls rotate now and then, mostly in the middle of a line.
func (w *writer) all(rotate func(*writer)) {
	for w.next < total {
		w.piece()
		if rotate != nil && w.next > (w.rotated+1)*total/10 {
			w.rotated++
			rotate(w)
		}
	}
	w.endLine()
}

// shift renames path.1 to path.2 and so on, and path to path.1.
func (w *writer) shift() {
	for i := w.rotated; i > 0; i-- {
		from := fmt.Sprintf("%s.%d", w.path, i)
		if _, err := os.Stat(from); err == nil {
			do(w.t, os.Rename(from, fmt.Sprintf("%s.%d", w.path, i+1)))
		}
	}
	do(w.t, os.Rename(w.path, w.path+".1"))
}

// late continues to write to the renamed file.
func (w *writer) late() {
	for range w.rand.IntN(40) {
		w.piece()
	}
	w.endLine()
}

// copyTo copies the current content of the file.
func (w *writer) copyTo(path string) (size int64) {
	from, to := must(os.Open(w.path)), must(os.Create(path))
	size, err := io.Copy(to, from)
	do(w.t, err, from.Close(), to.Close())
	return size
}

var rotations = []struct {
	name   string
	flags  int
	rotate func(w *writer)
}{
	{"none", os.O_APPEND, nil},
	{"rename and create", os.O_APPEND, func(w *writer) {
		w.shift()
		write(w.t, w.path, "")
		w.endLine()
		w.open()
	}},
	{"rename and create, late writer", os.O_APPEND, func(w *writer) {
		w.shift()
		write(w.t, w.path, "")
		w.late()
		w.open()
	}},
	{"rename, and the writer creates", 0, func(w *writer) {
		w.shift()
		w.late()
		w.open()
	}},
	{"rename to a name with a date", os.O_APPEND, func(w *writer) {
		do(w.t, os.Rename(w.path, fmt.Sprintf("%s-202611%02d", w.path, w.rotated)))
		w.late()
		w.open()
	}},
	{"remove and create", os.O_APPEND, func(w *writer) {
		w.await()
		do(w.t, os.Remove(w.path))
		w.late()
		w.open()
	}},
	{"another file is renamed over it", os.O_APPEND, func(w *writer) {
		w.await()
		write(w.t, w.path+".new", "")
		do(w.t, os.Rename(w.path+".new", w.path))
		w.late()
		w.open()
	}},
	{"a symbolic link gets another target", os.O_APPEND, func(w *writer) {
		w.await()
		target := filepath.Join(w.t.TempDir(), fmt.Sprintf("log-%d", w.rotated))
		write(w.t, target, "")
		do(w.t, os.Symlink(target, w.path+".tmp"), os.Rename(w.path+".tmp", w.path))
		w.late()
		w.open()
	}},
}

func TestNoRotationLosesOrTearsALine(t *testing.T) {
	for _, tc := range rotations {
		for name, before := range map[string]func(*Follower){"told by the kernel": func(*Follower) {}, "polling": deaf} {
			t.Run(tc.name+", "+name, func(t *testing.T) {
				t.Parallel()
				path := logPath(t)
				w := newWriter(t, path, tc.flags)
				r := follow(t, path, Options{Quiet: time.Minute, Poll: 10 * time.Millisecond}, before) // a writer may be delayed by other load
				r.following()
				w.await = func() {
					r.eventually("open", func() bool { s := r.Status(); return s.Following && s.Rotations == uint64(w.rotated-1) })
				}
				w.all(tc.rotate)
				r.eventually("all read", func() bool { return len(r.got()) >= total })
				sameLines(t, r.texts(), numberedLines(0, total))
				if s := r.settled(); s.Truncations != 0 || s.Cut != 0 || s.NULs != 0 || s.Rotations > uint64(w.rotated) || tc.rotate != nil && s.Rotations == 0 {
					t.Errorf("%d rotations, status %+v", w.rotated, s)
				}
			})
		}
	}
}

func sameLines(t *testing.T, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("line %d is %q, want %q", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d", len(got), len(want))
	}
}

func TestSeveralRotationsBetweenTwoLooks(t *testing.T) {
	for name, archive := range map[string]func(t *testing.T, path string, i int){
		"numbers": func(t *testing.T, path string, i int) {
			for ; i > 0; i-- {
				do(t, os.Rename(fmt.Sprintf("%s.%d", path, i), fmt.Sprintf("%s.%d", path, i+1)))
			}
			do(t, os.Rename(path, path+".1"))
		},
		"dates": func(t *testing.T, path string, i int) {
			do(t, os.Rename(path, fmt.Sprintf("%s-202611%02d", path, i)))
			tick(t, filepath.Dir(path))
		},
		"dates before the extension": func(t *testing.T, path string, i int) {
			do(t, os.Rename(path, fmt.Sprintf("%s-202611%02d.log", strings.TrimSuffix(path, ".log"), i)))
			tick(t, filepath.Dir(path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := logPath(t)
			first := "first" + strings.Repeat(".", minHead)
			write(t, path, first+"\n")
			write(t, path+".old", "not ours\n")
			gate := make(chan struct{})
			r := follow(t, path, Options{}, func(f *Follower) {
				record := f.opts.OnLine
				f.opts.OnLine = func(l Line) { // the first line blocks the follower
					record(l)
					if string(l.Text) == first {
						<-gate
					}
				}
			})
			r.wants(first)
			want := []string{first}
			for i := range 12 {
				appendTo(t, path, fmt.Sprintf("%s\n%d\n", strings.Repeat("x", minHead), i))
				want = append(want, strings.Repeat("x", minHead), fmt.Sprint(i))
				archive(t, path, i)
				if i == 3 { // an unrelated copy, with a name that a rotation might choose
					do(t, os.WriteFile(path+".20260101", must(os.ReadFile(newestOf(t, path))), 0o644))
				}
			}
			write(t, path, "last\n")
			close(gate)
			r.wants(append(want, "last")...)
			r.eventually("let go", func() bool { return r.Status().Files == 1 })
		})
	}
}

// newestOf returns the file with the first line, under its current name.
func newestOf(t *testing.T, path string) string {
	t.Helper()
	for _, name := range must(filepath.Glob(strings.TrimSuffix(path, ".log") + "*")) {
		if bytes.HasPrefix(must(os.ReadFile(name)), []byte("first")) {
			return name
		}
	}
	t.Fatal("gone")
	return ""
}

func TestALateWriterIsReadForAsLongAsItWrites(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\n")
	const quiet = time.Minute
	r, now := newReading(t, path, Options{Quiet: quiet}), time.Now()
	defer r.close()
	looks := func(later time.Duration, want ...string) {
		t.Helper()
		now, r.dirty = now.Add(later), true
		for r.look(t.Context(), now) {
		}
		if got := r.texts(); !slices.Equal(got, want) {
			t.Fatalf("lines %q, want %q", got, want)
		}
	}
	looks(0, "one")
	late := must(os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0))
	do(t, os.Rename(path, path+".1"))
	write(t, path, "")
	want := []string{"one"}
	for i := range 8 {
		_, err := fmt.Fprintf(late, "old %d\n", i)
		do(t, err)
		appendTo(t, path, fmt.Sprintf("new %d\n", i))
		want = append(want, fmt.Sprintf("old %d", i), fmt.Sprintf("new %d", i))
		looks(quiet-time.Second, want...) // in the order of writing
	}
	if s := r.Status(); s.Files != 2 || s.Rotations != 1 {
		t.Errorf("status %+v", s)
	}
	_, err := late.WriteString("unfinish")
	do(t, err, late.Close())
	looks(quiet-time.Second, want...)
	looks(quiet, append(want, "unfinish>")...)
	if s := r.Status(); s.Files != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestARenamedFileWithoutASuccessorIsReadOn(t *testing.T) {
	synctest.Test(t, testARenamedFileWithoutASuccessorIsReadOn)
}

func testARenamedFileWithoutASuccessorIsReadOn(t *testing.T) {
	path := logPath(t)
	w := must(os.Create(path))
	r := follow(t, path, Options{Quiet: time.Millisecond, Poll: time.Millisecond}, deaf)
	r.following()
	do(t, os.Rename(path, path+".1"))
	r.eventually("missing", func() bool { return r.Status().Err != nil })
	time.Sleep(20 * time.Millisecond)
	_, err := w.WriteString("late\n")
	do(t, err, w.Close())
	r.wants("late")
	if s := r.Status(); !s.Following {
		t.Errorf("status %+v", s)
	}
	// And back: nothing changes.
	do(t, os.Rename(path+".1", path))
	r.following()
	appendTo(t, path, "again\n")
	r.wants("late", "again")
	if s := r.settled(); s.Rotations != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestAReappearingFileIsNotReadTwice(t *testing.T) {
	for name, quiet := range map[string]time.Duration{"while it is still open": time.Hour, "after it was let go": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			path := logPath(t)
			write(t, path, "one\n")
			r := follow(t, path, Options{Quiet: quiet, Poll: 5 * time.Millisecond})
			r.wants("one")
			do(t, os.Rename(path, path+".1"))
			write(t, path, "two\n")
			r.wants("one", "two")
			if quiet < time.Second {
				r.eventually("let go", func() bool { return r.Status().Files == 1 })
			}
			do(t, os.Rename(path+".1", path))
			appendTo(t, path, "three\n")
			r.wants("one", "two", "three")
		})
	}
}

func TestCopyTruncateLosesNoMoreThanWasDiscarded(t *testing.T) {
	for name, flags := range map[string]int{"writer appends": os.O_APPEND, "writer keeps its offset": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := logPath(t)
			w := newWriter(t, path, flags)
			r := follow(t, path, Options{Quiet: time.Hour, Poll: 10 * time.Millisecond})
			r.following()
			// discarded counts the bytes that truncations discard: for a file that starts anew, those not in its copy; for a
			// file with NUL bytes at its beginning, all unread bytes, because no copy can be identified.
			var discarded int64
			done := make(chan struct{})
			go func() {
				defer close(done)
				read := uint64(0)
				for i := range 10 {
					// Content that appears and disappears between two looks is lost: wait for a look.
					for w.lines() < (i+1)*total/12 || r.Status().Lines == read {
						if w.lines() == total {
							return // the writer was faster: there is no content left for a truncation to discard
						}
						time.Sleep(100 * time.Microsecond)
					}
					copied := w.copyTo(fmt.Sprintf("%s-%d", path, i)) // concurrently with the writer
					w.mu.Lock()                                       // until the truncation is seen: a file that outgrows the old position before loses its beginning
					if flags == 0 {
						copied = r.Status().Position.File.Offset
					}
					discarded += max(0, must(os.Stat(path)).Size()-copied)
					do(t, os.Truncate(path, 0))
					for end := time.Now().Add(patience); flags != 0 && r.Status().Truncations <= uint64(i) && time.Now().Before(end); {
						time.Sleep(100 * time.Microsecond)
					}
					w.mu.Unlock()
					read = r.Status().Lines
				}
			}()
			w.slowly()
			<-done
			last := numbered(total - 1)
			r.eventually("read to the end", func() bool {
				got := r.got()
				return len(got) > 0 && string(got[len(got)-1].Text) == last
			})
			next, missing, torn, lost := 0, 0, 0, int64(0)
			for _, l := range r.got() {
				if l.Torn {
					torn++
				}
				if l.Unfinished || l.Torn && !strings.HasPrefix(string(l.Text), "ip[10.") {
					continue
				}
				n := -1
				if _, err := fmt.Sscanf(strings.ReplaceAll(string(l.Text), ".", " "), "ip[10 %d %d %d] user[%d]", new(int), new(int), new(int), &n); err != nil || string(l.Text) != numbered(n) {
					if l.Torn {
						continue
					}
					t.Fatalf("a line that nobody wrote, not flagged: %q (%v)", l.Text, err)
				}
				if n < next {
					t.Fatalf("line %d after line %d", n, next-1)
				}
				for ; next < n; next++ {
					missing++
					lost += int64(len(numbered(next)) + 1)
				}
				next = n + 1
			}
			s := r.settled()
			t.Logf("%d truncations seen, %d bytes discarded by them, %d lines missing, %d flagged as torn, %d NUL bytes", s.Truncations, discarded, missing, torn, s.NULs)
			// Besides the discarded bytes, the copy may end within a line, and the file start within one.
			if limit := discarded + 2*10*int64(len(last)+1); lost > limit {
				t.Errorf("%d bytes of lines are missing, %d were discarded", lost, discarded)
			}
			if s.Truncations == 0 || s.Truncations > 10 || torn > 10 || (s.NULs > 0) != (flags == 0) {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// lines returns the number of lines begun.
func (w *writer) lines() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// slowly writes all lines, with pauses for concurrent operations.
func (w *writer) slowly() {
	for i := 0; w.lines() < total; i++ {
		w.mu.Lock()
		for range 8 {
			if w.next < total {
				w.rest = append(w.rest, numbered(w.next)+"\n"...)
				w.next++
			}
		}
		w.mu.Unlock()
		w.flush(1 + w.rand.IntN(len(w.rest)))
		if i%10 == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	w.endLine()
}

func TestATruncatedFileThatGrewBackIsReadFromItsBeginning(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\ntwo\n")
	gate := make(chan struct{})
	r := follow(t, path, Options{}, func(f *Follower) {
		record := f.opts.OnLine
		f.opts.OnLine = func(l Line) {
			record(l)
			if string(l.Text) == "two" {
				<-gate
			}
		}
	})
	r.wants("one", "two")
	f := must(os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0))
	_, err := f.WriteString("three\nfour\nfive, so that it is longer than before\n")
	do(t, err, f.Close())
	close(gate)
	r.wants("one", "two", "<three", "four", "five, so that it is longer than before")
	if s := r.settled(); s.Truncations != 1 || s.Rotations != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestUnreadLinesOfACopyAreReadBeforeTheNewContent(t *testing.T) {
	path := logPath(t)
	first := strings.Repeat("1", minHead)
	write(t, path, first+"\n")
	gate := make(chan struct{})
	r := follow(t, path, Options{}, func(f *Follower) {
		record := f.opts.OnLine
		f.opts.OnLine = func(l Line) {
			record(l)
			if string(l.Text) == first {
				<-gate
			}
		}
	})
	r.wants(first)
	appendTo(t, path, "two\nthr")
	do(t, os.WriteFile(path+".1", must(os.ReadFile(path)), 0o644), os.Truncate(path, 0))
	appendTo(t, path, "ee\nfour\n")
	close(gate)
	r.wants(first, "two", "<ee", "four", "thr>")
}

// The remaining content is read again; a line that consists of two parts is torn.
func TestAFileCutInTheMiddleIsReadFromItsBeginning(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\ntwo\nthree\n")
	r := follow(t, path, Options{})
	r.wants("one", "two", "three")
	do(t, os.Truncate(path, int64(len("one\ntw"))))
	r.wants("one", "two", "three", "one")
	appendTo(t, path, "x\nfour\n")
	r.wants("one", "two", "three", "one", "<twx", "four")
}

func TestHolesAreSkipped(t *testing.T) {
	path := logPath(t)
	w := must(os.Create(path))
	_, err := w.WriteString("one\ntwo\n")
	do(t, err)
	r := follow(t, path, Options{})
	r.wants("one", "two")
	// The writer continues at its old offset, here 10 GB further: the hole is not read.
	do(t, w.Truncate(0))
	r.eventually("noticed", func() bool { return r.Status().Truncations == 1 })
	const far = 10 << 30
	_, err = w.WriteAt([]byte("three\nfour\n"), far)
	do(t, err)
	r.wants("one", "two", "<three", "four")
	if s := r.settled(); s.NULs != far {
		t.Errorf("%d NUL bytes", s.NULs)
	}
	// A hole at the end waits for the bytes after it.
	do(t, w.Truncate(far+100))
	_, err = w.WriteAt([]byte("five\nsix"), far+100)
	do(t, err)
	r.wants("one", "two", "<three", "four", "<five")
	do(t, w.Close())
}

func TestPermissionMayBeLostAndRegained(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log", "cti_fail2ban.log")
	do(t, os.Mkdir(filepath.Dir(path), 0o755), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755))
	write(t, path, "one\n")
	r := follow(t, path, Options{Poll: 5 * time.Millisecond, Quiet: time.Hour}, unprivileged(t))
	r.wants("one")

	// The open file stays open; the next one is not readable.
	do(t, os.Rename(path, path+".1"))
	closed := must(os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0))
	_, err := closed.WriteString("two\n")
	do(t, err, closed.Close())
	r.eventually("refused", func() bool { return isPermission(r.Status().Err) })
	if err := r.Status().Err.Error(); !strings.Contains(err, "chmod o+r "+path) || strings.Contains(err, "SELinux") != hasSELinux() {
		t.Errorf("error %q", err)
	}
	appendTo(t, path+".1", "late\n")
	r.wants("one", "late")
	do(t, os.Chmod(path, 0o644))
	r.wants("one", "late", "two")
	r.following()

	// The directory cannot be traversed, while the file continues to grow.
	do(t, os.Chmod(filepath.Dir(path), 0o600))
	r.eventually("shut out", func() bool { return isPermission(r.Status().Err) })
	if err := r.Status().Err.Error(); !strings.Contains(err, "directory "+filepath.Dir(path)+" may not be passed: chmod o+x") {
		t.Errorf("error %q", err)
	}
	do(t, os.Chmod(filepath.Dir(path), 0o700))
	if os.Geteuid() == 0 { // for root the follower runs as another user, without access
		appendTo(t, path, "three\n")
		r.wants("one", "late", "two", "three")
	}
	do(t, os.Chmod(filepath.Dir(path), 0o755))
	r.following()
}
