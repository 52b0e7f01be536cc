package ctilog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// headSize is how many of a file's first bytes tell it from others. mod_cti's first line has a time in microseconds.
const headSize = 256

// An id names a file for as long as it exists; then its number may be given to another one.
type id struct{ dev, ino uint64 }

// A file is one that is being read. What is not a whole line yet is not kept, but read again.
type file struct {
	f        *os.File
	fd       int // of f
	id       id
	offset   int64 // of the first byte that was not given out
	backlog  int64 // up to here the file had been written when following began
	ended    int64 // up to here nothing but the beginning of a line was left
	skipping bool  // offset is within a line that was cut, or that reading began in the middle of
	torn     bool  // the next line may lack its beginning
	head     []byte
	again    [headSize]byte // head, read again
	sum      uint32         // of head

	size     int64 // as last seen
	changed  time.Time
	deleted  bool
	gone     bool // the file system says that it does not know the file any more
	wd       int
	watchErr error
}

// statRegular looks at what path means, without opening what may not be opened, like a FIFO.
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
	return &file{f: f, fd: int(f.Fd()), id: idOf(info), size: info.Size(), head: make([]byte, 0, headSize), wd: -1}, nil
}

func idOf(info fs.FileInfo) id {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return id{uint64(st.Dev), st.Ino} //nolint:unconvert // 32 bits wide on some architectures
	}
	return id{}
}

func (x *file) close(w *watch) {
	w.forget(x.wd)
	_ = x.f.Close() // it was only read
}

func (x *file) watch(w *watch) { x.wd, x.watchErr = w.file(x.fd, x.f.Name()) }

func (x *file) mark() Mark { return Mark{x.id.dev, x.id.ino, x.offset, x.sum} }

// matches tells whether what lies before m.Offset is what m was made of.
func (x *file) matches(m Mark) bool {
	head := make([]byte, min(m.Offset, headSize))
	n, err := x.f.ReadAt(head, 0)
	return n == len(head) && (err == nil || err == io.EOF) && x.size >= m.Offset && crc32.Checksum(head, castagnoli) == m.Sum
}

// seek goes to offset. In the middle of a line, its rest is skipped.
func (x *file) seek(offset int64) {
	head := make([]byte, min(offset, headSize), headSize)
	n, _ := x.f.ReadAt(head, 0) // a shorter head is a truncation, which the next read will see
	x.head = head[:n]
	x.sum = crc32.Checksum(x.head, castagnoli)
	x.offset, x.ended = offset, 0
	var before [1]byte
	if offset > 0 {
		n, _ := x.f.ReadAt(before[:], offset-1)
		x.skipping = n == 1 && before[0] != '\n' && before[0] != 0
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// advance goes over b, which lies at offset.
func (x *file) advance(b []byte) {
	x.offset += int64(len(b))
	if len(x.head) < headSize {
		x.head = append(x.head, b[:min(len(b), headSize-len(x.head))]...)
		x.sum = crc32.Checksum(x.head, castagnoli)
	}
}

// unchanged tells whether the file still begins as it did.
func (x *file) unchanged() (bool, error) {
	n, err := x.f.ReadAt(x.again[:len(x.head)], 0)
	if err != nil && err != io.EOF {
		return false, x.failed(err)
	}
	return bytes.Equal(x.again[:n], x.head), nil
}

// grown returns the size of the file.
func (x *file) grown(now time.Time) (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(x.fd, &st); err != nil {
		return 0, x.failed(fmt.Errorf("stat %s: %w", x.f.Name(), err))
	}
	if st.Size != x.size {
		x.size, x.changed = st.Size, now
	}
	x.deleted = st.Nlink == 0
	return x.size, nil
}

// failed notes whether err says that the file is gone, as a network file system does.
func (x *file) failed(err error) error {
	x.gone = errors.Is(err, syscall.ESTALE)
	return err
}

// drained tells whether everything but an unfinished line has been read.
func (x *file) drained() bool { return max(x.offset, x.ended) >= x.size }
