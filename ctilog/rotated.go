package ctilog

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A sibling is a file whose name extends that of the followed file: it may be a rotated one.
type sibling struct {
	path    string
	id      id
	born    time.Time // time of creation; of the last write if the file system does not record it
	number  int       // 1 for name.1, the newest; -1 for a name without a plain number
	rotated bool      // has a numeric suffix, as rotation tools append
}

// siblings lists the siblings of the file at path, oldest first, and counts the compressed ones.
func siblings(path string) (list []sibling, compressed int, err error) {
	dir, base := filepath.Split(resolve(path))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		suffix, ok := suffixOf(e.Name(), base)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		switch filepath.Ext(suffix) {
		case ".gz", ".bz2", ".xz", ".zst", ".Z":
			compressed++
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // deleted since the listing
		}
		s := sibling{path: filepath.Join(dir, e.Name()), id: idOf(info), number: -1}
		s.born = birth(s.path, info.ModTime())
		s.rotated = strings.ContainsAny(suffix, "0123456789") && strings.Trim(suffix, "0123456789.-_T:") == ""
		if n, err := strconv.Atoi(strings.TrimPrefix(suffix, ".")); err == nil && len(suffix) <= len(".9999") {
			s.number = n
		}
		list = append(list, s)
	}
	slices.SortFunc(list, sibling.compare)
	return list, compressed, nil
}

// suffixOf returns the part of name that is not in base: ".1" of cti.log.1, "-20261122" of cti.log-20261122 and of
// cti-20261122.log.
func suffixOf(name, base string) (string, bool) {
	if suffix, ok := strings.CutPrefix(name, base); ok {
		return suffix, suffix != ""
	}
	ext := filepath.Ext(base)
	suffix, ok := strings.CutPrefix(name, strings.TrimSuffix(base, ext))
	if !ok {
		return "", false
	}
	inner, ok := strings.CutSuffix(suffix, ext)
	if !ok { // cti-20261122.log.gz
		return suffix, strings.Contains(suffix, ext+".")
	}
	return inner, inner != ""
}

// resolve resolves the symbolic links in the existing part of path.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}

func birth(path string, or time.Time) time.Time {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return or
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
}

// compare orders by age, the oldest first. Numbers increase with age, and are more reliable than times.
func (a sibling) compare(b sibling) int {
	if a.number >= 0 && b.number >= 0 {
		return b.number - a.number
	}
	return cmp.Or(a.born.Compare(b.born), strings.Compare(a.path, b.path))
}

// clockGrain is the most that file times may lag behind the clock.
const clockGrain = time.Second

// open opens the sibling, unless its name refers to another file by now.
func (s sibling) open() (*file, error) {
	x, err := openFile(s.path)
	if err == nil && x.id != s.id {
		x.close(nil)
		return nil, errRenamed
	}
	return x, err
}

var errRenamed = errors.New("renamed meanwhile")

// between opens the files that were at the path after last and before next, oldest first: several rotations may happen between
// two looks. If files are being renamed, the directory is listed again.
func (f *Follower) between(last, next *file) (files []*file) {
	const tries = 20
	var list []sibling
	for range tries {
		var err error
		if list, _, err = siblings(f.path); err != nil {
			return files // the directory can be traversed, but not listed
		}
		for _, s := range f.successors(list, last, next) {
			if slices.ContainsFunc(files, func(x *file) bool { return x.id == s.id }) {
				continue
			}
			x, err := s.open()
			if err != nil {
				continue // compressed or deleted since the listing
			}
			if x.begins(last) {
				x.close(nil)
				continue
			}
			files = append(files, x)
		}
		again, _, err := siblings(f.path)
		if err != nil || slices.EqualFunc(list, again, func(a, b sibling) bool { return a.path == b.path && a.id == b.id }) {
			break
		}
	}
	place := func(x *file) int { return slices.IndexFunc(list, func(s sibling) bool { return s.id == x.id }) }
	slices.SortStableFunc(files, func(a, b *file) int { return place(a) - place(b) })
	return files
}

// successors returns the siblings in list after last and before next.
func (f *Follower) successors(list []sibling, last, next *file) []sibling {
	after, before := -1, len(list)
	for i, s := range list {
		switch s.id {
		case last.id:
			after = i
		case next.id:
			before = i
		}
	}
	return slices.DeleteFunc(slices.Clone(list[after+1:max(before, after+1)]), func(s sibling) bool {
		return !s.rotated || f.knows(s.id) || s.born.Before(f.confirmed.Add(-clockGrain))
	})
}

// knows reports whether a file is open, or was until recently.
func (f *Follower) knows(i id) bool {
	return slices.ContainsFunc(f.files, func(x *file) bool { return x.id == i }) ||
		slices.ContainsFunc(f.done, func(m Mark) bool { return m.Dev == i.dev && m.Ino == i.ino })
}

// minHead is the length of the common beginning from which two files are considered copies. A record with its time is longer.
const minHead = 64

// begins reports whether x and y have the same beginning, so that one is a copy of the other.
func (x *file) begins(y *file) bool {
	n, err := x.f.ReadAt(x.again[:], 0)
	m, yErr := y.f.ReadAt(y.again[:], 0)
	if err != nil && err != io.EOF || yErr != nil && yErr != io.EOF {
		return false
	}
	n = min(n, m)
	return n >= minHead && bytes.Equal(x.again[:n], y.again[:n])
}

// copies reports whether x holds the content of y that was read before its truncation.
func (x *file) copies(y *file) bool {
	head, err := x.holds(y.head, 0)
	tail, tailErr := x.holds(y.tail, y.offset-int64(len(y.tail)))
	return len(y.head) >= minHead && head && tail && err == nil && tailErr == nil
}

// recover opens the copy made of x before its truncation, if one exists with unread bytes.
func (f *Follower) recover(x *file) {
	list, _, err := siblings(f.path)
	if err != nil {
		return
	}
	for _, s := range slices.Backward(list) {
		if !s.rotated || f.knows(s.id) {
			continue
		}
		old, err := s.open()
		if err != nil {
			continue
		}
		if !old.copies(x) || old.size <= x.offset {
			old.close(nil)
			continue
		}
		old.seek(x.offset)
		old.reading, old.skipping, old.changed = x.reading, x.skipping, time.Now()
		f.files = slices.Insert(f.files, slices.Index(f.files, x), old)
		return
	}
}
