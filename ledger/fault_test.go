package ledger

import (
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// statePath returns the path of a state file that does not exist yet, on a tmpfs if the host has one: some tests sync thousands
// of times.
func statePath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fsban-test-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "fsban.db")
}

// A fault is the error that each operation on a file returns.
type fault struct {
	write, sync, truncate, stat, read error

	part   int    // bytes that are written all the same
	during func() // is called while a write is under way
}

// A spoilt file has a fault.
type spoilt struct {
	file
	fault atomic.Pointer[fault]
}

// spoil has the ledger's disk fail.
func spoil(l *Ledger, f fault) *spoilt {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &spoilt{file: l.store.file}
	s.fault.Store(&f)
	l.store.file = s
	return s
}

func (s *spoilt) mend() { s.fault.Store(new(fault)) }

func (s *spoilt) WriteAt(b []byte, at int64) (int, error) {
	f := s.fault.Load()
	if f.during != nil {
		f.during()
	}
	if f.write == nil {
		return s.file.WriteAt(b, at)
	}
	n, _ := s.file.WriteAt(b[:min(f.part, len(b))], at)
	return n, f.write
}

func (s *spoilt) ReadAt(b []byte, at int64) (int, error) {
	if err := s.fault.Load().read; err != nil {
		return 0, err
	}
	return s.file.ReadAt(b, at)
}

func (s *spoilt) Sync() error {
	if err := s.fault.Load().sync; err != nil {
		return err
	}
	return s.file.Sync()
}

func (s *spoilt) Truncate(size int64) error {
	if err := s.fault.Load().truncate; err != nil {
		return err
	}
	return s.file.Truncate(size)
}

func (s *spoilt) Stat() (fs.FileInfo, error) {
	if err := s.fault.Load().stat; err != nil {
		return nil, err
	}
	return s.file.Stat()
}
