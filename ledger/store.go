package ledger

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// file is the part of *os.File that a store uses.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}

// A store is the state file: locked against other processes, written only at its end, and replaced as a whole by a shorter
// one. Its methods are called by one goroutine at a time.
type store struct {
	path     string
	file     file
	end      int64 // of the last frame that was written
	dirty    bool  // there may be something behind end
	unlisted bool  // the directory may not have the file yet, after a power cut
}

var errHeld = errors.New("held by another process")

const (
	lockWait  = time.Second // for a process that is about to end
	lockEvery = 20 * time.Millisecond
)

// openStore opens and locks the file at path, and makes it if there is none. It reads and writes nothing.
func openStore(path string) (*store, int64, error) {
	for deadline := time.Now().Add(lockWait); ; time.Sleep(lockEvery) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, 0, err
		}
		if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			if target, err := filepath.EvalSymlinks(path); err == nil {
				path = target // or a compaction would put a file in the place of the link
			}
		}
		size, err := lock(f, path)
		if err == nil {
			if dir, err := os.Stat(filepath.Dir(path)); err == nil && size == 0 {
				giveTo(f, dir)
			}
			_ = os.Remove(path + temporary) // of a process that was killed
			return &store{path: path, file: f, unlisted: size == 0}, size, nil
		}
		_ = f.Close()
		if !errors.Is(err, errHeld) || time.Now().After(deadline) {
			return nil, 0, err
		}
	}
}

// lock locks f for this process, as long as it is open, and returns its size. A file that has another name by now, because
// the process that had the lock has compacted it, counts as held.
func lock(f *os.File, path string) (int64, error) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return 0, errHeld
	} else if err != nil {
		return 0, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, &fs.PathError{Op: "open", Path: path, Err: syscall.EINVAL}
	}
	if now, err := os.Stat(path); err != nil || !os.SameFile(info, now) {
		return 0, errHeld
	}
	return info.Size(), nil
}

// intact reports whether the file has the length of all committed frames, and its path has a file.
func (s *store) intact() (bool, error) {
	info, err := s.file.Stat()
	if err != nil {
		return false, err
	}
	s.dirty = s.dirty || info.Size() > s.end
	_, err = os.Lstat(s.path)
	return info.Size() >= s.end && !errors.Is(err, fs.ErrNotExist), nil
}

// writer returns a writer of the next frames. They count once commit has succeeded.
func (s *store) writer() (*frameWriter, error) {
	if s.dirty {
		if err := s.file.Truncate(s.end); err != nil {
			return nil, err
		}
	}
	s.dirty = true
	w := &frameWriter{file: s.file, at: s.end}
	if s.end == 0 {
		w.buf = append(w.buf, header...)
	}
	return w, nil
}

// commit writes the frames of w to disk. After an error none of them counts, and all of them can be written again.
func (s *store) commit(w *frameWriter) error {
	if w.flush(); w.err != nil {
		return w.err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	if err := s.list(); err != nil {
		return err
	}
	s.end, s.dirty = w.at, false
	return nil
}

// list has the file's name on disk.
func (s *store) list() error {
	if !s.unlisted {
		return nil
	}
	dir, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return err
	}
	err = errors.Join(dir.Sync(), dir.Close())
	s.unlisted = err != nil
	return err
}

// temporary is the suffix of a replacement before it is complete.
const temporary = ".new"

// replacement makes a file that is to take the place of s's, locked as that is, and of the same owner.
func (s *store) replacement() (*store, error) {
	path := s.path + temporary
	if err := syscall.Unlink(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // never a directory
		return nil, &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	r := &store{path: path, file: f}
	old, err := s.file.Stat()
	if err == nil {
		giveTo(f, old)
		_, err = lock(f, path)
	}
	if err != nil {
		r.discard()
		return nil, err
	}
	return r, nil
}

// giveTo gives f, which root has made, the owner of another file or directory, if possible: the service runs as another user, and
// must be able to open its state after root has run fsban by hand.
func giveTo(f *os.File, other fs.FileInfo) {
	if owner, ok := other.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && owner.Uid != 0 {
		_ = f.Chown(int(owner.Uid), int(owner.Gid))
	}
}

// link is a variable for tests.
var link = os.Link

// take puts the replacement in the place of s's file. The caller closes the file that is returned.
func (s *store) take(r *store) (file, error) {
	if err := os.Rename(r.path, s.path); err != nil {
		return nil, err
	}
	old := s.file
	s.file, s.end, s.dirty, s.unlisted = r.file, r.end, false, true
	return old, nil
}

// discard takes a replacement away that was not taken.
func (s *store) discard() { _, _ = s.file.Close(), os.Remove(s.path) }

// setAside gives the file a second name, under which it stays when it is replaced, and returns that name. Where a file cannot
// have two names and is replaced at once, it has only the new one.
func (s *store) setAside(now time.Time, replaced bool) (string, error) {
	base := fmt.Sprintf("%s.damaged-%d", s.path, now.Unix())
	aside := base
	for n := 2; ; n++ {
		err := link(s.path, aside)
		if errors.Is(err, fs.ErrExist) && n < 100 {
			aside = fmt.Sprintf("%s.%d", base, n)
			continue
		}
		if err != nil && replaced {
			err = os.Rename(s.path, aside)
		}
		return aside, err
	}
}
