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

// begin finds the start position. cur is the file at the path, or nil; then rotated files may exist.
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
	case cur != nil && f.opts.FromEnd && !f.late && from.File == (Mark{}):
		cur.seek(cur.size)
		files = append(files, cur)
	case f.opts.Time != nil && f.opts.Since != nil:
		files = f.reaching(list, cur)
	case cur != nil:
		files = append(files, cur)
	}
	for len(files) > maxOpen {
		files[0].close(nil)
		files = files[1:]
		f.now.Gap = fmt.Errorf("%s: more than %d rotated files since it was last read", f.path, maxOpen)
	}
	for _, x := range files {
		f.skipOld(x)
		f.follow(x)
	}
}

func gap(path string, compressed int) error {
	if compressed > 0 {
		return fmt.Errorf("%s: the file that was last read is gone, or compressed (%d are): delaycompress in logrotate's configuration keeps "+
			"the newest readable", path, compressed)
	}
	return fmt.Errorf("%s: the file that was last read is gone", path)
}

// resume opens the files from the position where an earlier run stopped up to cur. If the file itself has other content now, it
// was copied and truncated, and the copy has the rest.
func resume(list []sibling, cur *file, from Position) (files []*file, ok bool) {
	if cur != nil && cur.is(from.File) {
		cur.resume(from.File)
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
	first.resume(from.File)
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

// resumeAt opens the file of m at its offset, if it still exists.
func resumeAt(list []sibling, m Mark) []*file {
	for _, s := range list {
		if m == (Mark{}) || !s.holds(m, true) {
			continue
		}
		if x, err := s.open(); err == nil {
			x.resume(m)
			return []*file{x}
		}
	}
	return nil
}

// resume continues at m, in the reading of an earlier run.
func (x *file) resume(m Mark) {
	x.seek(m.Offset)
	x.reading = 0
}

// is reports whether m is an offset in x.
func (x *file) is(m Mark) bool { return x.id == id{m.Dev, m.Ino} && x.matches(m) }

// holds reports whether a sibling is the file of m or has its content.
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

// reaching opens the newest files, as many as reach back to Since, newest last.
func (f *Follower) reaching(list []sibling, cur *file) (files []*file) {
	since := f.opts.Since()
	if cur != nil {
		files = append(files, cur)
	}
	for _, s := range slices.Backward(list) {
		if len(files) > 0 {
			if _, at, ok := f.firstTimed(files[0], 0); ok && at.Before(since) || len(files) == maxOpen {
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

// searchWindow is the number of bytes searched for a line with a time, and the precision of the binary search.
const searchWindow = 64 << 10

// skipOld skips lines of x older than Since, in about log2 of its size reads. Content of up to 2*searchWindow is read whole.
func (f *Follower) skipOld(x *file) {
	if f.opts.Time == nil || f.opts.Since == nil {
		return
	}
	since := f.opts.Since()
	low, high := x.offset, x.size
	for high-low > 2*searchWindow {
		middle := low + (high-low)/2
		begin, at, ok := f.firstTimed(x, middle)
		if ok && at.Before(since) {
			low = begin
		} else {
			high = middle
		}
	}
	if low > x.offset {
		x.seek(low)
	}
}

// firstTimed returns the offset and the time of the first line with a time that begins behind offset, or at it if that is 0. It
// searches at most searchWindow bytes.
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
