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

// A fileWatch watches the operator's file. It is read again when its time, size or inode differ, so both an editor that
// renames and one that writes in place are noticed. What was last read well stays in force until something else is.
type fileWatch struct {
	*Watcher
	seen  identity
	known []Entry
}

// An identity differs when a file has, or may have, another content.
type identity struct {
	device, inode    uint64
	size             int64
	modified, status time.Time
}

func (f *fileWatch) look() {
	if f.opts.File == "" {
		return
	}
	info, err := os.Stat(f.opts.File)
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
			f.seen, err = identity{}, unread.Err // try again: what is in the way may go without a change of the file
		}
		f.put(file, report{f.known, []string{fmt.Sprintf("ignore_file %s: %v", f.opts.File, err)}})
		return
	}
	f.known = nil
	for _, p := range prefixes {
		f.known = append(f.known, Entry{p, "ignore_file " + f.opts.File})
	}
	f.put(file, report{entries: f.known})

	f.mu.Lock()
	same := slices.Equal(f.named, named)
	f.named = named
	f.mu.Unlock()
	if !same {
		token(f.refresh[hosts])
	}
}

// read returns what the file says.
func (f *fileWatch) read(info fs.FileInfo) ([]netip.Prefix, []string, error) {
	data, err := readRegular(f.opts.File, info.Mode(), maxFile)
	if err != nil {
		return nil, nil, err
	}
	return f.opts.ParseFile(data)
}

// ReadFile returns what Options.File would be read as. Its errors name path.
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

// readRegular returns what a file holds, if that is at most limit bytes. It never waits: mode is to say that this is a
// regular file, and where it has become a pipe meanwhile nobody waits for a writer.
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
