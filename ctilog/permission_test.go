package ctilog

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// unprivileged makes a Follower's Run access files as a user without privileges, even if the tests run as root: the kernel
// drops root's file capabilities together with its file system user. The thread ends with Run's goroutine.
func unprivileged(t *testing.T) func(*Follower) {
	return func(f *Follower) {
		if os.Geteuid() != 0 {
			return
		}
		start := f.newWatch
		f.newWatch = func() (*watch, error) { // the first thing that Run calls
			runtime.LockOSThread()
			const nobody = 65534
			if err := errors.Join(unix.Setfsgid(nobody), unix.Setfsuid(nobody)); err != nil {
				t.Error(err)
			}
			return start()
		}
	}
}

func isPermission(err error) bool { return errors.Is(err, fs.ErrPermission) }

func hasSELinux() bool {
	_, err := os.Stat(selinux)
	return err == nil
}
