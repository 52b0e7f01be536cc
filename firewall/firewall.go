// Package firewall bans in the kernel.
//
// An Enforcer owns the kernel: bans and unbans are handed to it, and it applies them in batches, repeats what failed, and
// compares what the kernel holds with what should be there. Behind it stands a backend: IPTables (one ipset and one rule
// a family) or DryRun, which only says what it would do.
//
// The kernel ends bans by itself. Stopping or killing fsban leaves them in force, and the next start adopts them.
package firewall

import (
	"net/netip"
	"time"
)

// Forever is the time left of a ban without end.
const Forever time.Duration = -1

// An Entry is one prefix in the kernel's set.
type Entry struct {
	Prefix  netip.Prefix
	Left    time.Duration // until the kernel forgets it; Forever if it never does
	Packets uint64        // thrown away since the ban
	Bytes   uint64
}

// An op is a ban or an unban that has not reached the kernel yet.
type op struct {
	prefix netip.Prefix
	add    bool
	until  time.Time // zero: without end
	cause  time.Time // when what led to it was read; zero for a ban that is put back
}

// left returns how long a ban that ends at until lasts from now.
func left(until, now time.Time) time.Duration {
	if until.IsZero() {
		return Forever
	}
	return max(until.Sub(now), time.Second)
}
