package kerneltest

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Beside makes another network namespace, with a veth pair between the two: fsban0 here, fsban1 there. It sets fsban0 up with the
// addresses here, and fsban1 with those there, all written with their lengths. It returns a function that runs another one there; a
// socket that is opened there stays there.
func Beside(t testing.TB, here, there []string) (run func(f func() error)) {
	t.Helper()
	work, done := make(chan func()), make(chan struct{})
	go func() { // the only thread of the other namespace; it ends with the goroutine
		defer close(done)
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	t.Cleanup(func() { close(work); <-done })
	run = func(f func() error) {
		t.Helper()
		failed := make(chan error)
		work <- func() { failed <- f() }
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	Command(t, "ip link add fsban0 type veth peer name fsban1")
	t.Cleanup(func() {
		if err := exec.CommandContext(context.Background(), "ip", "link", "del", "fsban0").Run(); err != nil {
			t.Errorf("ip link del fsban0: %v", err)
		}
	})
	var thread int
	run(func() error {
		thread = unix.Gettid()
		return unix.Unshare(unix.CLONE_NEWNET)
	})
	Command(t, fmt.Sprintf("ip link set fsban1 netns %d", thread))
	for _, address := range here {
		Command(t, "ip addr add "+address+" dev fsban0"+withoutDAD(address))
	}
	Command(t, "ip link set fsban0 up")
	run(func() error {
		lines := []string{"ip link set lo up"}
		for _, address := range there {
			lines = append(lines, "ip addr add "+address+" dev fsban1"+withoutDAD(address))
		}
		for _, line := range append(lines, "ip link set fsban1 up") {
			if err := execute(t, line); err != nil {
				return err
			}
		}
		return nil
	})
	return run
}

// withoutDAD makes an IPv6 address usable at once.
func withoutDAD(address string) string {
	if strings.Contains(address, ":") {
		return " nodad"
	}
	return ""
}

func execute(t testing.TB, line string) error {
	words := strings.Fields(line)
	if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}
