package ctilog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"
)

// begin finds the place to begin at. cur is the file at the path, or nil; then there may be rotated ones.
func (f *Follower) begin(cur *file) {
	if cur == nil && !errors.Is(f.now.Err, fs.ErrNotExist) {
		return // no permission yet
	}
	list, compressed, err := siblings(f.path)
	if cur == nil && err != nil {
		f.late = true // no directory yet
		return
	}
	f.begun = true
	list = slices.DeleteFunc(list, func(s sibling) bool { return cur != nil && s.id == cur.id })
	var files []*file
	from := f.opts.From
	resumed := false
	if from.File != (Mark{}) {
		if files, resumed = resume(list, cur, from); !resumed {
			f.now.Gap = gap(f.path, compressed)
		}
	}
	switch {
	case resumed:
	case f.opts.Time != nil && !f.opts.Since.IsZero():
		files = f.reaching(list, cur)
	case cur != nil:
		files = append(files, cur)
		if f.opts.FromEnd && !f.late && from.File == (Mark{}) {
			cur.seek(cur.size)
		}
	}
	for len(files) > maxOpen {
		files[0].close(nil)
		files = files[1:]
		f.now.Gap = fmt.Errorf("%s: more than %d rotated files since it was last read", f.path, maxOpen)
	}
	for _, x := range files {
		x.backlog = x.size
		f.skipOld(x)
		f.follow(x)
	}
}

func gap(path string, compressed int) error {
	if compressed > 0 {
		return fmt.Errorf("%s: the file that was last read is gone, or compressed (%d are): delaycompress in logrotate's configuration keeps the newest readable", path, compressed)
	}
	return fmt.Errorf("%s: the file that was last read is gone", path)
}

// resume opens the files from where an earlier run stopped up to cur. If the file itself has other content now, it was
// copied and truncated, and the copy has the rest.
func resume(list []sibling, cur *file, from Position) (files []*file, ok bool) {
	if cur != nil && cur.is(from.File) {
		cur.seek(from.File.Offset)
		return append(resumeAt(list, from.Older), cur), true
	}
	i := slices.IndexFunc(list, func(s sibling) bool { return s.holds(from.File, true) })
	if i < 0 && from.File.Offset >= minHead {
		i = slices.IndexFunc(list, func(s sibling) bool { return s.rotated && s.holds(from.File, false) })
	}
	if i < 0 {
		return nil, false
	}
	first, err := list[i].open()
	if err != nil {
		return nil, false
	}
	first.seek(from.File.Offset)
	files = append(resumeAt(list, from.Older), first)
	for _, s := range list[i+1:] {
		if !s.rotated {
			continue
		}
		x, err := s.open()
		if err != nil {
			continue
		}
		if x.begins(first) {
			x.close(nil)
			continue
		}
		files = append(files, x)
	}
	if cur != nil {
		files = append(files, cur)
	}
	return files, true
}

// resumeAt opens the file of m at its place, if it is still there.
func resumeAt(list []sibling, m Mark) []*file {
	for _, s := range list {
		if m == (Mark{}) || !s.holds(m, true) {
			continue
		}
		if x, err := s.open(); err == nil {
			x.seek(m.Offset)
			return []*file{x}
		}
	}
	return nil
}

// is tells whether m is a place in x.
func (x *file) is(m Mark) bool { return x.id == id{m.Dev, m.Ino} && x.matches(m) }

// holds tells whether a sibling is the file of m, or else has its content.
func (s sibling) holds(m Mark, same bool) bool {
	if same != (s.id == id{m.Dev, m.Ino}) {
		return false
	}
	x, err := s.open()
	if err != nil {
		return false
	}
	defer x.close(nil)
	return x.matches(m)
}

// reaching opens as many files, newest last, as reach back to Since.
func (f *Follower) reaching(list []sibling, cur *file) (files []*file) {
	if cur != nil {
		files = append(files, cur)
	}
	for _, s := range slices.Backward(list) {
		if len(files) > 0 {
			if _, at, ok := f.firstTimed(files[0], 0); ok && at.Before(f.opts.Since) || len(files) == maxOpen {
				break
			}
		}
		if !s.rotated {
			continue
		}
		x, err := s.open()
		if err != nil {
			continue
		}
		if slices.ContainsFunc(files, x.begins) {
			x.close(nil)
			continue
		}
		files = slices.Insert(files, 0, x)
	}
	return files
}

// searchWindow is how much is read to find a line with a time, and how near a search comes.
const searchWindow = 64 << 10

// skipOld goes over lines of x older than Since, in about log2 of its size reads.
func (f *Follower) skipOld(x *file) {
	if f.opts.Time == nil || f.opts.Since.IsZero() {
		return
	}
	low, high := x.offset, x.size
	for high-low > 2*searchWindow {
		middle := low + (high-low)/2
		begin, at, ok := f.firstTimed(x, middle)
		if ok && at.Before(f.opts.Since) {
			low = begin
		} else {
			high = middle
		}
	}
	if low > x.offset {
		x.seek(low)
	}
}

// firstTimed returns the place and the time of the first line that begins behind offset, or at it when that is 0, and has
// a time. It looks no further than searchWindow.
func (f *Follower) firstTimed(x *file, offset int64) (begin int64, at time.Time, ok bool) {
	n, err := x.f.ReadAt(f.buf[:searchWindow], offset)
	if err != nil && err != io.EOF {
		return 0, at, false
	}
	data := f.buf[:n]
	for whole := offset == 0; ; whole = true {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			return 0, at, false
		}
		if whole {
			if at, ok = f.opts.Time(data[:i]); ok {
				return offset + int64(n-len(data)), at, true
			}
		}
		data = data[i+1:]
	}
}
