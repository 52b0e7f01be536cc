package neverban

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

const maxFile = 4 << 20 // bytes

// A fileWatch watches the operator's file. It is read again if its time, size or inode differ, so both an editor that renames
// and one that writes in place are noticed. The last valid content stays in force until another one is read.
type fileWatch struct {
	watcher *Watcher
	seen    identity
	known   []Entry
}

// An identity differs if the content of a file has, or may have, changed.
type identity struct {
	device, inode    uint64
	size             int64
	modified, status time.Time
}

func (f *fileWatch) look() {
	if f.watcher.opts.File == "" {
		return
	}
	info, err := os.Stat(f.watcher.opts.File)
	if err == nil && identify(info) == f.seen {
		return
	}
	var prefixes []netip.Prefix
	var named []string
	if err == nil {
		f.seen = identify(info)
		prefixes, named, err = f.read(info)
	}
	if err != nil {
		if unread := (*fs.PathError)(nil); errors.As(err, &unread) {
			f.seen, err = identity{}, unread.Err // retry: the cause may disappear without a change of the file
		}
		consequence := "its addresses can be banned"
		if len(f.known) > 0 {
			consequence = "its last valid content stays in force"
		}
		f.watcher.put(file, report{f.known, []string{fmt.Sprintf("ignore_file %s: %v: %s; correct it, fsban check shows all errors",
			f.watcher.opts.File, err, consequence)}})
		return
	}
	f.known = nil
	for _, p := range prefixes {
		f.known = append(f.known, Entry{p, "ignore_file " + f.watcher.opts.File})
	}
	f.watcher.put(file, report{entries: f.known})

	f.watcher.mu.Lock()
	same := slices.Equal(f.watcher.named, named)
	f.watcher.named = named
	f.watcher.mu.Unlock()
	if !same {
		token(f.watcher.refresh[hosts])
	}
}

// read returns the content of the file.
func (f *fileWatch) read(info fs.FileInfo) ([]netip.Prefix, []string, error) {
	data, err := readRegular(f.watcher.opts.File, info.Mode(), maxFile)
	if err != nil {
		return nil, nil, err
	}
	return f.watcher.opts.ParseFile(data)
}

// ReadFile reads a file as the watcher of Options.File does. Its errors name path.
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	data, err := readRegular(path, info.Mode(), maxFile)
	if unread := (*fs.PathError)(nil); err != nil && !errors.As(err, &unread) {
		err = fmt.Errorf("%s is %w", path, err)
	}
	return data, err
}

// readRegular returns the content of a file of at most limit bytes. It never blocks: mode must be that of a regular file, and
// if the file has become a pipe meanwhile, it does not wait for a writer.
func readRegular(path string, mode fs.FileMode, limit int64) ([]byte, error) {
	if !mode.IsRegular() {
		return nil, errors.New("not a regular file")
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return data, err
}

func identify(info fs.FileInfo) identity {
	id := identity{size: info.Size(), modified: info.ModTime()}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		id.device, id.inode, id.status = s.Dev, s.Ino, time.Unix(s.Ctim.Unix())
	}
	return id
}
