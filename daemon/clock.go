package daemon

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fsban/decide"
)

// newClock returns the clock of a Daemon. Where the kernel does not identify its run, an earlier process's clock is compared less
// exactly.
func newClock() *decide.Clock {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var up unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &up) != nil {
		return decide.NewClock(decide.Boot{}, nil)
	}
	return decide.NewClock(decide.Boot{ID: strings.TrimSpace(string(id)), Up: time.Duration(up.Nano())}, nil)
}
