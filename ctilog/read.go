package ctilog

import (
	"bytes"
	"context"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// read reads from the oldest file to the newest, each to the end it had before any was read: no line is delivered before one
// that was written earlier to an older file.
func (f *Follower) read(ctx context.Context, now time.Time) (more bool) {
	for _, x := range slices.Backward(f.files) {

		err := x.grown(now)
		same := err != nil || x.size >= x.offset
		if same && x.looked.touched {
			same, err = x.unchanged()
		}
		switch {
		case err != nil:
			f.now.Err = err
		case !same:
			f.truncated(x, now)
		}
	}
	budget := roundBuffers
	for i := 0; i < len(f.files); i++ {
		f.locate(i)
		x := f.files[i]
		if now.Before(x.rewrite.calm) {
			continue
		}
		if !x.rewrite.calm.IsZero() {
			x.rewrite.calm = time.Time{}
			f.skipOld(x)
		}
		for !x.drained() {
			if budget--; budget < 0 || ctx.Err() != nil {
				return true
			}
			switch again, err := f.readOnce(x); {
			case err != nil:
				f.now.Err = err
			case again:
				return true
			default:
				continue
			}
			break
		}
	}
	return false
}

// locate sets place and slot for lines of file i.
func (f *Follower) locate(i int) {
	last := i
	for j := len(f.files) - 1; j > i; j-- {
		if f.files[j].offset > 0 {
			last = j
			break
		}
	}
	f.place = Position{File: f.files[last].mark()}
	if last > 0 {
		f.place.Older = f.files[last-1].mark()
	}
	switch i {
	case last:
		f.slot = &f.place.File
	case last - 1:
		f.slot = &f.place.Older
	default:
		f.slot = &f.unplaced
	}
}

// readOnce reads one buffer and delivers its lines. It returns true if the file's content was replaced, so that everything must
// be checked again.
func (f *Follower) readOnce(x *file) (again bool, err error) {
	n, err := x.f.ReadAt(f.buf[:min(int64(len(f.buf)), x.size-x.offset)], x.offset)
	if err != nil && err != io.EOF {
		return false, x.failed(err)
	}
	// Compare only after the read: if the old content is still there now, the bytes read belong to it.
	same, headErr := x.unchanged()
	if headErr != nil {
		return false, headErr
	}
	if !same {
		f.truncated(x, time.Now())
		return true, nil
	}
	f.split(x, f.buf[:n])
	if n < len(f.buf) {
		x.ended = x.size
	}
	return false, nil
}

// split delivers the complete lines of data, which lies at x.offset, and moves past bytes to be skipped.
func (f *Follower) split(x *file, data []byte) {
	begin := x.offset
	for len(data) > 0 {
		used := f.nulls(x, data)
		if used == 0 {
			used = f.line(x, data)
		}
		if used == 0 || used == len(data) {
			break
		}
		data = data[used:]
	}
	f.now.Bytes += uint64(x.offset - begin)
}

// nulls returns the number of NUL bytes at the beginning of data to skip. A truncation leaves NUL bytes if the writer continues
// at its old offset. NUL bytes at the end of the file wait, because a network file system may show a write in progress as NUL
// bytes.
func (f *Follower) nulls(x *file, data []byte) (used int) {
	if data[0] != 0 {
		return 0
	}
	used = len(data) - len(bytes.TrimLeft(data, "\x00"))
	if used == len(data) && used < len(f.buf) {
		return 0
	}
	x.torn = true
	begin := x.offset
	x.advance(data[:used])
	if used == len(data) { // skip the rest of a hole without reading it
		if next, err := unix.Seek(x.fd, x.offset, unix.SEEK_DATA); err == nil && next > x.offset {
			x.offset, x.tail = min(next, x.size), x.tail[:0]
		}
	}
	f.now.NULs += uint64(x.offset - begin)
	return used
}

// line delivers the line at the beginning of data, if it is complete or too long.
func (f *Follower) line(x *file, data []byte) (used int) {
	if data[0] == 0 {
		return 0
	}
	n := bytes.IndexByte(data, '\n')
	whole := n >= 0
	switch {
	case !whole && !x.skipping && len(data) <= f.opts.MaxLine:
		return 0
	case whole:
		used = n + 1
	default:
		n, used = len(data), len(data)
	}
	x.torn = x.torn || x.offset < x.seam && x.offset+int64(used) > x.seam
	x.advance(data[:used])
	skipped := x.skipping
	x.skipping = !whole
	if !skipped {
		f.give(x, data[:n], !whole)
	}
	return used
}

// give delivers a line, which ends at x.offset.
func (f *Follower) give(x *file, text []byte, unfinished bool) {
	cut := len(text) > f.opts.MaxLine
	if cut {
		text, unfinished = text[:f.opts.MaxLine], true
		f.now.Cut++
	}
	*f.slot = x.mark()
	f.now.Lines++
	f.now.Position = f.place
	f.opts.OnLine(Line{Text: text, Next: f.place, Torn: x.torn, Reading: x.reading, Since: x.looked.since, Unfinished: unfinished, Cut: cut})
	x.torn = false
}

// finish delivers the last line of a file that ends without a newline.
func (f *Follower) finish(x *file) {
	if x.skipping || x.gone || x.offset >= x.size {
		return
	}
	n, err := x.f.ReadAt(f.buf[:min(int64(len(f.buf)), x.size-x.offset)], x.offset)
	if err != nil && err != io.EOF {
		return
	}
	if same, err := x.unchanged(); err != nil || !same {
		return
	}
	rest := f.buf[:n]
	text := bytes.TrimLeft(rest, "\x00")
	x.torn = x.torn || len(text) < len(rest)
	x.advance(rest)
	if text = bytes.TrimRight(text, "\x00"); len(text) > 0 {
		f.give(x, text, true)
	}
}

// truncated records that x was cut or rewritten. Its content is read from the beginning, because nothing shows which of its
// lines were read before. The rest of the old content is read first, from a copy if one exists.
func (f *Follower) truncated(x *file, now time.Time) {
	f.now.Truncations++
	same, err := x.holds(x.head[:min(int64(len(x.head)), x.size)], 0)
	x.torn, x.seam = x.size == 0 || !same || err != nil, 0
	switch {
	case x.size >= x.offset:
		x.settle(now)
	case !x.torn: // the remaining content may end within a line
		x.seam = x.size
	}
	f.recover(x)
	x.head, x.tail, x.offset = x.head[:0], x.tail[:0], 0
	x.ended, x.skipping, x.changed = 0, false, now
	x.begin()
	if x.rewrite.calm.IsZero() {
		f.skipOld(x)
	}
}
