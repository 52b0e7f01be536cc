package ctilog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// headSize is the number of leading bytes that identify a file. mod_cti's first line has a time in microseconds.
const headSize = 256

// An id is unique among existing files. The file system may reuse the id of a deleted file.
type id struct{ dev, ino uint64 }

// A file is an open log file. Incomplete lines are not buffered, but read again.
type file struct {
	f        *os.File
	fd       int // of f
	id       id
	offset   int64 // of the first byte that was not delivered
	ended    int64 // up to this offset only the beginning of a line was left
	seam     int64 // offset where a truncation cut the file: a line across it consists of two
	skipping bool  // offset is within a line that was cut, or in whose middle reading began
	torn     bool  // the next line may lack its beginning
	head     []byte
	tail     []byte         // the last bytes before offset, at most headSize; fewer where they are unknown
	again    [headSize]byte // head or tail, read again

	reading  uint64 // Line.Reading
	looked   look
	rewrite  rewrite
	size     int64 // as last seen
	changed  time.Time
	deleted  bool
	gone     bool // the file system reports that the file no longer exists
	wd       int
	watchErr error
}

// A look is the last look at a file, in the current reading.
type look struct {
	at      time.Time     // zero: none yet
	since   time.Time     // Line.Since
	written unix.Timespec // the file's time of change
	touched bool          // written to since the previous look, without a change of size
}

// A rewrite is a write in progress over a file's old content.
type rewrite struct {
	began time.Time // when it was seen
	calm  time.Time // when it is over unless the file changes again; zero: no rewrite in progress
}

// statRegular returns the file info of path without opening it: opening a FIFO has side effects.
func statRegular(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errNotRegular}
	}
	return info, nil
}

var errNotRegular = errors.New("not a regular file")

func openFile(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errNotRegular}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	x := &file{f: f, fd: int(f.Fd()), id: idOf(info), size: info.Size(), head: make([]byte, 0, headSize), tail: make([]byte, 0, headSize),
		wd: -1}
	x.begin()
	return x, nil
}

var readings atomic.Uint64

// begin starts a new reading of the file's content.
func (x *file) begin() {
	x.reading = readings.Add(1)
	x.looked.at, x.looked.since = time.Time{}, time.Time{}
}

func idOf(info fs.FileInfo) id {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return id{uint64(st.Dev), st.Ino} //nolint:unconvert // 32 bits wide on some architectures
	}
	return id{}
}

func (x *file) close(w *watch) {
	w.forget(x.wd)
	_ = x.f.Close() // opened for reading only
}

func (x *file) watch(w *watch) { x.wd, x.watchErr = w.file(x.fd, x.f.Name()) }

func (x *file) mark() Mark {
	return Mark{x.id.dev, x.id.ino, x.offset, crc32.Checksum(x.head, castagnoli), crc32.Checksum(x.tail, castagnoli)}
}

// matches reports whether the content before m.Offset has m's checksums.
func (x *file) matches(m Mark) bool {
	n := min(m.Offset, headSize)
	return x.size >= m.Offset && x.sums(0, n, m.Sum) && (m.Tail == 0 || x.sums(m.Offset-n, n, m.Tail))
}

// sums reports whether the n bytes at offset, at most headSize, have the CRC-32C sum.
func (x *file) sums(offset, n int64, sum uint32) bool {
	m, err := x.f.ReadAt(x.again[:n], offset)
	return int64(m) == n && (err == nil || err == io.EOF) && crc32.Checksum(x.again[:n], castagnoli) == sum
}

// seek moves to offset. If that is in the middle of a line, the rest of the line is skipped.
func (x *file) seek(offset int64) {
	edge := min(offset, headSize)
	n, _ := x.f.ReadAt(x.head[:edge], 0) // a shorter head is a truncation, which the next read detects
	x.head = x.head[:n]
	n, _ = x.f.ReadAt(x.tail[:edge], offset-edge)
	x.tail = x.tail[:n]
	x.offset, x.ended = offset, 0
	x.skipping = n > 0 && x.tail[n-1] != '\n' && x.tail[n-1] != 0
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// advance moves the offset past b, which lies at offset.
func (x *file) advance(b []byte) {
	x.offset += int64(len(b))
	end := b[max(0, len(b)-headSize):]
	keep := min(len(x.tail), headSize-len(end))
	x.tail = append(x.tail[:copy(x.tail, x.tail[len(x.tail)-keep:])], end...)
	if len(x.head) < headSize {
		x.head = append(x.head, b[:min(len(b), headSize-len(x.head))]...)
	}
}

// unchanged reports whether the first bytes of the file and the last bytes before offset are the ones read earlier. The bytes
// in between are not compared.
func (x *file) unchanged() (bool, error) {
	same, err := x.holds(x.head, 0)
	if same && err == nil {
		same, err = x.holds(x.tail, x.offset-int64(len(x.tail)))
	}
	if err != nil {
		return false, x.failed(err)
	}
	return same, nil
}

// holds reports whether the file has the bytes want, at most headSize of them, at offset.
func (x *file) holds(want []byte, offset int64) (bool, error) {
	n, err := x.f.ReadAt(x.again[:len(want)], offset)
	if err == io.EOF {
		err = nil
	}
	return bytes.Equal(x.again[:n], want), err
}

// grown updates the size of the file.
func (x *file) grown(now time.Time) error {
	if !x.looked.at.IsZero() && x.drained() {
		x.looked.since = x.looked.at
	}
	var st unix.Stat_t
	if err := unix.Fstat(x.fd, &st); err != nil {
		return x.failed(fmt.Errorf("stat %s: %w", x.f.Name(), err))
	}
	wrote := st.Size != x.size || st.Mtim != x.looked.written
	x.looked.touched = wrote && st.Size == x.size && !x.looked.at.IsZero()
	if wrote && !x.rewrite.calm.IsZero() {
		x.settle(now)
	}
	if st.Size != x.size {
		x.size, x.changed = st.Size, now
	}
	x.looked.written, x.looked.at = st.Mtim, now
	x.deleted = st.Nlink == 0
	return nil
}

// failed records whether err means that the file no longer exists, as network file systems report it.
func (x *file) failed(err error) error {
	x.gone = errors.Is(err, syscall.ESTALE)
	return err
}

// How long a file that is being overwritten must be quiet before it is read, and how long that may take.
const (
	calmAfter = 500 * time.Millisecond
	calmLimit = 5 * time.Second
)

// settle postpones reading during a rewrite: half-overwritten content contains lines that nobody wrote.
func (x *file) settle(now time.Time) {
	if x.rewrite.calm.IsZero() {
		x.rewrite.began = now
	}
	x.rewrite.calm = now.Add(calmAfter)
	if limit := x.rewrite.began.Add(calmLimit); x.rewrite.calm.After(limit) {
		x.rewrite.calm = limit
	}
}

// drained reports whether everything but an unfinished line has been read.
func (x *file) drained() bool { return max(x.offset, x.ended) >= x.size }
