// Package netns puts a program into user and network namespaces of its own. There it is root, has no network but its own
// loopback, and may change firewall rules that concern nobody else. It takes no privilege.
//
// Command starts a program there; the program calls Prepare, and Assign for addresses to play with. Run does all this for
// a test.
package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// outsideEnv tells a program which network namespace Command has left, as /proc names it.
const outsideEnv = "FSBAN_NETNS_OUTSIDE"

// Command returns a command that runs a program in namespaces of its own, in which it is root and everybody else is
// nobody. It is killed at the end of ctx and of this process. Callers add to cmd.Env to change its environment.
func Command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), outsideEnv+"="+current())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd
}

// Inside tells whether Command started this process, or one that started it, and it is still in namespaces of its own.
func Inside() bool {
	outside := os.Getenv(outsideEnv)
	return outside != "" && outside != current()
}

// Prepare makes the namespaces that Command put this process into fit for use: loopback is up, and iptables has a lock
// file that it may write. It is an error anywhere else. Call done when no iptables is going to be run any more.
func Prepare() (done func(), err error) {
	if !Inside() {
		return nil, errors.New("not in namespaces of its own")
	}
	if err := loopbackUp(); err != nil {
		return nil, err
	}
	lock, err := os.CreateTemp("", "xtables-*.lock")
	if err != nil {
		return nil, fmt.Errorf("lock file for iptables: %w", err)
	}
	_ = lock.Close()
	if err := os.Setenv("XTABLES_LOCKFILE", lock.Name()); err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(lock.Name()) }, nil
}

// current is the network namespace of this process, "net:[4026531840]" for instance.
func current() string {
	name, _ := os.Readlink("/proc/self/ns/net")
	return name
}
