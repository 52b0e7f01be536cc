package ctilog

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stoppedAfter follows path until n lines were delivered, and returns the position after them, encoded and decoded as on disk.
func stoppedAfter(t *testing.T, path string, n int, opts Options) Position {
	t.Helper()
	r := follow(t, path, opts)
	r.eventually("read", func() bool { return len(r.got()) >= n })
	r.stop()
	var p Position
	do(t, json.Unmarshal(must(json.Marshal(r.got()[n-1].Next)), &p))
	return p
}

func TestAfterARestartReadingContinuesAtThePosition(t *testing.T) {
	lines := func(from, to int) string { return strings.Join(numberedLines(from, to), "\n") + "\n" }
	for _, tc := range []struct {
		name string
		down func(t *testing.T, path string) // happens while no follower runs; lines from 100 on are written
		want []string
		gap  string
	}{
		{"nothing", func(*testing.T, string) {}, numberedLines(50, 100), ""},
		{"more lines", func(t *testing.T, path string) { appendTo(t, path, lines(100, 200)) }, numberedLines(50, 200), ""},
		{"a rotation", func(t *testing.T, path string) {
			do(t, os.Rename(path, path+".1"))
			write(t, path, lines(100, 200))
		}, numberedLines(50, 200), ""},
		{"a rotation, and nothing new yet", func(t *testing.T, path string) {
			do(t, os.Rename(path, path+".1"))
		}, numberedLines(50, 100), ""},
		{"a rotation to a name of somebody's own", func(t *testing.T, path string) {
			do(t, os.Rename(path, path+".old"))
			write(t, path, lines(100, 200))
		}, numberedLines(50, 200), ""},
		{"three rotations", func(t *testing.T, path string) {
			do(t, os.Rename(path, path+".3"))
			write(t, path+".2", lines(100, 200))
			write(t, path+".1", lines(200, 300))
			write(t, path, lines(300, 400))
			write(t, path+".4", "older\n")
		}, numberedLines(50, 400), ""},
		{"two rotations to dates", func(t *testing.T, path string) {
			do(t, os.Rename(path, path+"-20261121"))
			tick(t, filepath.Dir(path))
			write(t, path+"-20261122", lines(100, 200))
			tick(t, filepath.Dir(path))
			write(t, path, lines(200, 300))
		}, numberedLines(50, 300), ""},
		{"a rotation and a copy", func(t *testing.T, path string) {
			do(t, os.Rename(path, path+"-20261121"))
			do(t, os.WriteFile(path+"-20261122", must(os.ReadFile(path+"-20261121")), 0o644))
			write(t, path, lines(100, 200))
		}, numberedLines(50, 200), ""},
		{"copytruncate", func(t *testing.T, path string) {
			do(t, os.WriteFile(path+".1", must(os.ReadFile(path)), 0o644), os.Truncate(path, 0))
			appendTo(t, path, lines(100, 300))
		}, numberedLines(50, 300), ""},
		{"truncated, without a copy", func(t *testing.T, path string) {
			do(t, os.Truncate(path, 0))
			appendTo(t, path, lines(100, 300))
		}, numberedLines(100, 300), "is gone"},
		{"removed", func(t *testing.T, path string) {
			do(t, os.Remove(path))
			write(t, path, lines(100, 200)) // perhaps with the same inode number
		}, numberedLines(100, 200), "is gone"},
		{"compressed", func(t *testing.T, path string) {
			do(t, os.Remove(path))
			write(t, path+".1.gz", "\x1f\x8b")
			write(t, path, lines(100, 200))
		}, numberedLines(100, 200), "compressed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := logPath(t)
			write(t, path, lines(0, 100))
			p := stoppedAfter(t, path, 50, Options{})
			tc.down(t, path)
			r := follow(t, path, Options{From: p})
			r.wants(tc.want...)
			r.eventually("let go", func() bool { return r.Status().Files <= 1 })
			gap := r.settled().Gap
			if anew := r.got()[0].Reading != 0; anew != (gap != nil) {
				t.Errorf("the first line belongs to a new reading: %v", anew)
			}
			if (gap != nil) != (tc.gap != "") || gap != nil && !strings.Contains(gap.Error(), tc.gap) {
				t.Errorf("gap %v", gap)
			}
			// Later lines follow.
			appendTo(t, path, "more\n")
			r.wants(append(tc.want, "more")...)
		})
	}
}

func TestARestartWhileTwoFilesAreReadLosesAndRepeatsNothing(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\n")
	r := follow(t, path, Options{Quiet: time.Hour})
	r.wants("one")
	do(t, os.Rename(path, path+".1"))
	write(t, path, "new\n")
	r.wants("one", "new")
	appendTo(t, path+".1", "late\n")
	r.wants("one", "new", "late")
	r.stop()
	appendTo(t, path+".1", "later\n")
	appendTo(t, path, "newer\n")
	again := follow(t, path, Options{From: r.Status().Position})
	again.wants("later", "newer")
}

func TestAnyPositionContinuesWithTheNextLine(t *testing.T) {
	path := logPath(t)
	w := newWriter(t, path, os.O_APPEND)
	w.next = total - 1000
	r := follow(t, path, Options{Quiet: time.Hour})
	for range 4 {
		for range 20 {
			w.piece()
		}
		w.rotated++
		w.shift()
		write(t, path, "")
		w.late()
		w.open()
	}
	w.next = total
	w.endLine()
	want := r.wantsLast(t, path)
	for i := 0; i < len(want); i += 37 {
		again := follow(t, path, Options{From: r.got()[i].Next, Quiet: time.Hour})
		again.eventually("read", func() bool { return len(again.got()) >= len(want)-i-1 })
		again.stop()
		sameLines(t, again.texts(), want[i+1:])
	}
}

// wantsLast appends a line, waits until it is delivered, and returns all lines.
func (r *reading) wantsLast(t *testing.T, path string) []string {
	appendTo(t, path, "last\n")
	r.eventually("read", func() bool {
		got := r.got()
		return len(got) > 0 && string(got[len(got)-1].Text) == "last"
	})
	return r.texts()
}

func TestAPositionInTheMiddleOfALineIsNoLine(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\ntwo\nthree\n")
	p := stoppedAfter(t, path, 1, Options{MaxLine: 10})
	x := must(openFile(path))
	x.seek(6)
	p.File = x.mark()
	x.close(nil)
	follow(t, path, Options{From: p}).wants("three")
}

func TestFromEndSkipsExistingLines(t *testing.T) {
	path := logPath(t)
	write(t, path, "one\ntw")
	r := follow(t, path, Options{FromEnd: true})
	r.following()
	appendTo(t, path, "o\nthree\n")
	r.wants("three")
	do(t, os.Rename(path, path+".1"))
	write(t, path, "four\n")
	r.wants("three", "four")
}

var start = time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)

// timed returns n lines, one a second, beginning at second from.
func timed(from, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s %s\n", start.Add(time.Duration(from+i)*time.Second).Format(time.RFC3339), strings.Repeat("x", 60))
	}
	return b.String()
}

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func timeOf(line []byte) (time.Time, bool) {
	at, err := time.Parse(time.RFC3339, string(line[:min(len(line), 20)]))
	return at, err == nil
}

func TestSinceSkipsOldLinesWithoutReadingThem(t *testing.T) {
	path := logPath(t)
	const lines = 100_000
	write(t, path, timed(0, lines))
	size := must(os.Stat(path)).Size()
	for _, second := range []int{0, 1, 12_345, 50_000, lines - 1, lines + 1000, -5} {
		since := start.Add(time.Duration(second) * time.Second)
		r := follow(t, path, Options{Since: at(since), Time: timeOf})
		last := start.Add((lines - 1) * time.Second)
		r.eventually("read", func() bool {
			got := r.got()
			return len(got) > 0 && strings.HasPrefix(string(got[len(got)-1].Text), last.Format(time.RFC3339))
		})
		r.stop()
		first, _ := timeOf(r.got()[0].Text)
		if second > 0 && first.After(since) {
			t.Errorf("since %v: first line is of %v", since, first)
		}
		needed := size * int64(lines-max(0, min(second, lines))) / lines
		if read := int64(r.Status().Bytes); read > needed+3*searchWindow {
			t.Errorf("since second %d: %d bytes read, %d needed", second, read, needed)
		}
	}
}

func TestSinceReachesBackIntoRotatedFiles(t *testing.T) {
	path := logPath(t)
	write(t, path+".3", timed(0, 100))
	write(t, path+".2", timed(100, 100))
	write(t, path+".1", timed(200, 100))
	write(t, path+".4.gz", "\x1f\x8b")
	write(t, path+"-copy", timed(200, 100))
	write(t, path, timed(300, 100))
	r := follow(t, path, Options{Since: at(start.Add(150 * time.Second)), Time: timeOf})
	want := strings.Split(strings.TrimSpace(timed(100, 300)), "\n") // the search is no finer than its window
	r.wants(want...)
	if s := r.settled(); s.Gap != nil {
		t.Errorf("gap %v", s.Gap)
	}
}

func TestSinceHoldsForAPositionToo(t *testing.T) {
	path := logPath(t)
	write(t, path, timed(0, 100))
	p := stoppedAfter(t, path, 50, Options{})
	appendTo(t, path, timed(100, 50_000))
	r := follow(t, path, Options{From: p, Since: at(start.Add(50_000 * time.Second)), Time: timeOf})
	want := strings.TrimSpace(timed(50_099, 1))
	r.eventually("read", func() bool {
		got := r.got()
		return len(got) > 0 && string(got[len(got)-1].Text) == want
	})
	if read := r.settled().Bytes; read > 3*searchWindow {
		t.Errorf("%d bytes read", read)
	}
}

func TestALineWithoutATimeDoesNotMisleadTheSearch(t *testing.T) {
	path := logPath(t)
	write(t, path, strings.Repeat("no time\n", 50_000)+timed(0, 1000)+strings.Repeat("no time\n", 50_000)+timed(1000, 1000))
	r := follow(t, path, Options{Since: at(start.Add(500 * time.Second)), Time: timeOf})
	r.eventually("read", func() bool {
		got := r.got()
		return len(got) > 0 && string(got[len(got)-1].Text) == strings.TrimSpace(timed(1999, 1))
	})
	found := false
	for _, l := range r.got() {
		found = found || string(l.Text) == strings.TrimSpace(timed(500, 1))
	}
	if !found {
		t.Error("a line that is young enough was skipped")
	}
}

func TestNamesOfRotatedFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"cti.log", "cti.log.1", "cti.log.10", "cti.log-20261122", "cti.log-20261122-1795363923", "cti-20261122.log", "cti.log.2026-11-22_18:04",
		"cti.log.old", "cti.log.bak", "cti.log.2.gz", "cti-20261121.log.xz", "other.log", "ctix.log", "cti.logx", "freeswitch.log.1",
	} {
		write(t, filepath.Join(dir, name), "")
	}
	do(t, os.Mkdir(filepath.Join(dir, "cti.log.3"), 0o755))
	list, compressed, err := siblings(filepath.Join(dir, "cti.log"))
	do(t, err)
	var rotated, others []string
	for _, s := range list {
		if s.rotated {
			rotated = append(rotated, filepath.Base(s.path))
		} else {
			others = append(others, filepath.Base(s.path))
		}
	}
	if len(rotated) != 6 || compressed != 2 {
		t.Errorf("rotated %q, others %q, %d compressed", rotated, others, compressed)
	}
}

// A live line was written after the file was seen without it. Content of a file seen for the first time has no such time.
func TestLinesCarryTheTimeWhenWatchingBegan(t *testing.T) {
	path := logPath(t)
	write(t, path+".1", "rotated\n")
	write(t, path, "before\n")
	began := time.Now()
	r := follow(t, path, Options{Since: at(time.Unix(1, 0)), Time: func([]byte) (time.Time, bool) { return time.Unix(2, 0), true }})
	r.wants("rotated", "before")
	r.eventually("watched", func() bool { return r.Status().Files == 2 })
	appendTo(t, path, "after\n")
	r.wants("rotated", "before", "after")
	do(t, os.Rename(path, path+".2"))
	write(t, path, "next\n")
	r.wants("rotated", "before", "after", "next")
	lines := r.got()
	for i, live := range []bool{false, false, true} {
		if since := lines[i].Since; since.IsZero() == live || live && (since.Before(began) || since.After(time.Now())) {
			t.Errorf("line %d: since %v", i, since)
		}
	}
	if lines[0].Reading == lines[1].Reading || lines[1].Reading != lines[2].Reading || lines[3].Reading == lines[2].Reading {
		t.Errorf("readings %d, %d, %d, %d", lines[0].Reading, lines[1].Reading, lines[2].Reading, lines[3].Reading)
	}
}
