package ctilog

import (
	"bytes"
	"context"
	"hash/crc32"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// read reads from the oldest file to the newest, each to where it ended before any was read: so nothing is read that was
// written after something in an older file that is still unread.
func (f *Follower) read(ctx context.Context, now time.Time) (more bool) {
	for i := len(f.files) - 1; i >= 0; i-- {
		x := f.files[i]
		size, err := x.grown(now)
		if err == nil && size < x.offset {
			f.truncated(x, size)
		}
		if err != nil {
			f.now.Err = err
		}
	}
	budget := roundBuffers
	for i := 0; i < len(f.files); i++ {
		f.locate(i)
		x := f.files[i]
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

// locate makes place say where to go on after lines of file i.
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

// readOnce gives out the lines of as many bytes as fit into the buffer. It returns true when the file is another one now
// than it was, and everything has to be looked at again.
func (f *Follower) readOnce(x *file) (again bool, err error) {
	n, err := x.f.ReadAt(f.buf[:min(int64(len(f.buf)), x.size-x.offset)], x.offset)
	if err != nil && err != io.EOF {
		return false, x.failed(err)
	}
	// Only now: whatever was read belongs to the old content if that is still there.
	same, headErr := x.unchanged()
	if headErr != nil {
		return false, headErr
	}
	if !same {
		f.truncated(x, 0)
		return true, nil
	}
	f.split(x, f.buf[:n])
	if n < len(f.buf) {
		x.ended = x.size
	}
	return false, nil
}

// split gives out the whole lines of data, which lies at x.offset, and goes over what is to be skipped.
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

// nulls goes over the NUL bytes that data begins with. They are what a truncation leaves of a file whose writer goes on
// at its old place. NUL bytes at the end wait, because a network file system may show what is being written like that.
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
	if used == len(data) { // a hole need not be read to its end
		if next, err := unix.Seek(x.fd, x.offset, unix.SEEK_DATA); err == nil && next > x.offset {
			x.offset = min(next, x.size)
		}
	}
	f.now.NULs += uint64(x.offset - begin)
	return used
}

// line gives out the line that data begins with, if it is whole, or too long.
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
	x.advance(data[:used])
	skipped := x.skipping
	x.skipping = !whole
	if !skipped {
		f.give(x, data[:n], !whole)
	}
	return used
}

// give gives out a line, which ends at x.offset.
func (f *Follower) give(x *file, text []byte, unfinished bool) {
	if len(text) > f.opts.MaxLine {
		text, unfinished = text[:f.opts.MaxLine], true
		f.now.Cut++
	}
	*f.slot = x.mark()
	f.now.Lines++
	f.now.Position = f.place
	backlog := x.offset <= x.backlog
	f.opts.OnLine(Line{Text: text, Next: f.place, Torn: x.torn, Backlog: backlog, Again: backlog && f.now.Gap != nil, Unfinished: unfinished})
	x.torn = false
}

// finish gives out what is left of a file, a line without its newline.
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

// truncated notes that x was cut to size, or written anew. What it holds now is read from its beginning, unless that is
// known; and what a copy still holds of the old content is read before.
func (f *Follower) truncated(x *file, size int64) {
	f.now.Truncations++
	n, _ := x.f.ReadAt(x.again[:len(x.head)], 0) // what cannot be read is not known
	if n > 0 && size > 0 && bytes.Equal(x.again[:n], x.head[:n]) {
		x.head = x.head[:n]
		x.offset = size
		x.sum = crc32.Checksum(x.head, castagnoli)
	} else {
		f.recover(x)
		x.head, x.sum, x.offset = x.head[:0], 0, 0
	}
	x.ended, x.backlog, x.skipping, x.torn, x.changed = 0, 0, false, true, time.Now()
}
