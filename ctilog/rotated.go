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

// A sibling is a file whose name is that of the followed one and something more: it may be a rotated one.
type sibling struct {
	path    string
	id      id
	born    time.Time // when it was made; where the file system does not know, when it was last written
	number  int       // 1 for name.1, the newest; -1 for a name without a plain number
	rotated bool      // named as rotation names files: by numbers
}

// siblings lists the siblings of the file at path, oldest first, and how many more are compressed.
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
			continue // deleted meanwhile
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

// suffixOf returns what name has that base has not: ".1" of cti.log.1, "-20261122" of cti.log-20261122 and of
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

// resolve returns what path means, without symbolic links as far as they lead somewhere.
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

// compare orders by age, the oldest first. Numbers count upwards with age, and say more than a clock.
func (a sibling) compare(b sibling) int {
	if a.number >= 0 && b.number >= 0 {
		return b.number - a.number
	}
	return cmp.Or(a.born.Compare(b.born), strings.Compare(a.path, b.path))
}

// clockGrain is how far the times of a file system may be behind the clock.
const clockGrain = time.Second

// open opens the sibling, unless its name means another file by now.
func (s sibling) open() (*file, error) {
	x, err := openFile(s.path)
	if err == nil && x.id != s.id {
		x.close(nil)
		return nil, errRenamed
	}
	return x, err
}

var errRenamed = errors.New("renamed meanwhile")

// between opens the files that were at the path after last and before next, oldest first: several rotations may come
// between two looks. While files are being renamed, the directory is listed again.
func (f *Follower) between(last, next *file) (files []*file) {
	const tries = 20
	var list []sibling
	for range tries {
		var err error
		if list, _, err = siblings(f.path); err != nil {
			return files // it cannot be listed, only passed through
		}
		for _, s := range f.successors(list, last, next) {
			if slices.ContainsFunc(files, func(x *file) bool { return x.id == s.id }) {
				continue
			}
			x, err := s.open()
			if err != nil {
				continue // compressed or deleted meanwhile
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

// successors returns what in list came after last and before next.
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

// knows tells whether a file is open, or was until lately.
func (f *Follower) knows(i id) bool {
	return slices.ContainsFunc(f.files, func(x *file) bool { return x.id == i }) ||
		slices.ContainsFunc(f.done, func(m Mark) bool { return m.Dev == i.dev && m.Ino == i.ino })
}

// minHead is how many first bytes two files must have in common to be taken for copies.
// A record with its time is longer.
const minHead = 64

// begins tells whether x and y begin alike: then one is a copy of the other.
func (x *file) begins(y *file) bool {
	n, err := x.f.ReadAt(x.again[:], 0)
	m, yErr := y.f.ReadAt(y.again[:], 0)
	if err != nil && err != io.EOF || yErr != nil && yErr != io.EOF {
		return false
	}
	n = min(n, m)
	return n >= minHead && bytes.Equal(x.again[:n], y.again[:n])
}

// copies tells whether x begins as y began before it was truncated.
func (x *file) copies(y *file) bool {
	n, err := x.f.ReadAt(x.again[:len(y.head)], 0)
	return len(y.head) >= minHead && (err == nil || err == io.EOF) && bytes.Equal(x.again[:n], y.head)
}

// recover opens the copy that was made of x before it was truncated, if there is one with bytes that were not read.
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
		old.skipping, old.changed = x.skipping, time.Now()
		f.files = slices.Insert(f.files, slices.Index(f.files, x), old)
		return
	}
}
