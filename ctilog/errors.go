package ctilog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// An Error is the reason why the file at a path cannot be read, with the remedy. It wraps fs.ErrNotExist or fs.ErrPermission if
// that is the cause.
type Error struct {
	Path string
	Err  error
	Hint string // may be empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("follow %s: %v", e.Path, e.Err)
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// explain adds the remedy to an error of opening path.
func explain(path string, err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err // pathErr repeats the path
	}
	e := &Error{Path: path, Err: err}
	dir := filepath.Dir(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Hint = "mod_cti makes it with the first record that it writes (fail2ban.filename in cti.json says where)"
		if _, dirErr := os.Stat(dir); errors.Is(dirErr, fs.ErrNotExist) {
			e.Hint = fmt.Sprintf("there is no directory %s (fail2ban.filename in cti.json says where mod_cti writes)", dir)
		}
	case errors.Is(err, fs.ErrPermission):
		e.Hint = permissionHint(path)
	case errors.Is(err, errNotRegular):
		e.Hint = "the path must be that of mod_cti's file (fail2ban.filename in cti.json)"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		e.Hint = "raise LimitNOFILE"
	}
	return e
}

// selinux is a directory that exists only if SELinux is enabled.
const selinux = "/sys/fs/selinux"

// permissionHint names the directory that cannot be traversed, or states that the file is not readable.
func permissionHint(path string) string {
	hint := fmt.Sprintf("chmod o+r %s, or make user %d a member of its group", path, os.Geteuid())
	if dir := closedDirectory(path); dir != "" {
		hint = fmt.Sprintf("directory %s may not be passed: chmod o+x %s, or setfacl -m u:%d:x %s", dir, dir, os.Geteuid(), dir)
	}
	if _, err := os.Stat(selinux); err == nil {
		hint += fmt.Sprintf("; if that is not it, SELinux forbids it: compare ls -Z %s with /var/log, then restorecon -v %s, or see ausearch -m "+
			"avc and audit2allow", path, path)
	}
	return hint
}

// closedDirectory returns the first directory on the way to path that cannot be traversed, or "".
func closedDirectory(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return ""
	}
	if _, err := os.Stat(abs); !errors.Is(err, fs.ErrPermission) {
		return "" // it is the file itself
	}
	dir := filepath.Dir(abs)
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			return dir // dir is visible, but its entries are not
		}
		dir = filepath.Dir(dir)
	}
	return dir
}
