package ctilog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// An Error is why the file at a path cannot be read, and what to do about it. It wraps fs.ErrNotExist or
// fs.ErrPermission where that is the cause.
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

// explain says what to do about an error of opening path.
func explain(path string, err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err // the path is said once
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

// selinux is there when SELinux is.
const selinux = "/sys/fs/selinux"

// permissionHint says which directory may not be passed, or that the file may not be read.
func permissionHint(path string) string {
	hint := fmt.Sprintf("chmod o+r %s, or make user %d a member of its group", path, os.Geteuid())
	if dir := closedDirectory(path); dir != "" {
		hint = fmt.Sprintf("directory %s may not be passed: chmod o+x %s, or setfacl -m u:%d:x %s", dir, dir, os.Geteuid(), dir)
	}
	if _, err := os.Stat(selinux); err == nil {
		hint += fmt.Sprintf("; if that is not it, SELinux forbids it: compare ls -Z %s with /var/log, then restorecon -v %s, or see ausearch -m avc and audit2allow", path, path)
	}
	return hint
}

// closedDirectory returns the first directory on the way to path that may not be passed, or "".
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
			return dir // it can be seen, and not what is in it
		}
		dir = filepath.Dir(dir)
	}
	return dir
}
