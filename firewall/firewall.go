// Package firewall keeps bans in the kernel.
//
// An Enforcer owns the kernel: it applies bans and unbans in batches, retries failed orders, and compares the kernel's entries
// with the bans that should be in force. A Backend is one way into the kernel: packages xtables and nft implement it, package
// backend chooses one. A Recorder is a Backend that only records bans.
//
// The kernel ends bans by itself. Stopping or killing fsban leaves them in force, and the next start takes them over. Changes
// by other programs are repaired: see comparison for entries; the backends verify their rules.
//
// Backends need CAP_NET_ADMIN and CAP_NET_RAW, and no other capability. The lock of iptables-legacy is /run/xtables.lock: a
// user other than root must be able to write to it, or name another file in XTABLES_LOCKFILE.
package firewall

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// The names of the chain and the sets that fsban makes in the kernel.
const (
	ChainName = "FSBAN"
	SetIPv4   = "fsban4"
	SetIPv6   = "fsban6"
)

// Expiring is the remaining time below which an entry counts as ended: clocks differ a little, and the kernel removes ended
// entries up to two seconds late.
const Expiring = 3 * time.Second

// MaxTimeout is the longest time that an entry can have in the kernel. A longer ban is renewed before that.
const MaxTimeout = 2147483 * time.Second

// ErrForeign is wrapped when an object in the kernel has a name of fsban's but cannot have been made by fsban.
var ErrForeign = errors.New("not made by fsban: remove or rename it")

// ErrSetFull is wrapped by the error of a ban for which the kernel's set has no space.
var ErrSetFull = errors.New("set is full (raise firewall.max_bans)")

// ErrLocked is wrapped by the error of an order that failed because another program held a lock.
var ErrLocked = errors.New("another program holds the lock of iptables")

// ErrEverybody is wrapped by the error of a ban of prefix length 0.
var ErrEverybody = errors.New("a prefix of length 0 covers every address")

// A Backend puts bans into effect.
type Backend interface {
	// Name returns the backend's name in the configuration.
	Name() string
	// Dropped returns the packets and bytes that the rules dropped since this process started, by family, as of the last
	// verification.
	Dropped() map[string]Dropped
	// Sizes returns the number of entries and the limit of the sets, by family, as of the last check; nil if the kernel does
	// not count entries.
	Sizes() map[string]SetSize
	// Capacity returns the backend's own limit of bans, and whether both families share it. It is 0 if Options.MaxBans is the only
	// limit; that one holds for each family.
	Capacity() (bans int, shared bool)
	// Teardown removes everything that fsban ever made with this backend, and nothing else. It returns the removed objects,
	// also if some removals failed. A missing object is no error; one that is not fsban's stays, and its error wraps
	// ErrForeign.
	Teardown() (removed []string, err error)
	// Close closes the connection to the kernel. Everything stays in force.
	Close() error

	// Setup creates missing sets, without waiting for other programs. Setup, Resize, Apply and Intact are called by the
	// enforcer's goroutine alone.
	Setup() (made []string, err error)
	// Resize sets the number of bans for which the next Setup makes room.
	Resize(bans int)
	// SetTap sets the packets that the rules copy to NFLOG from the next Setup and Verify on. It may be called while Verify runs.
	SetTap(tap Tap)
	// Verify checks whether the rules that use the sets are in force, and repairs them. It may wait for other programs, so it runs
	// in a goroutine of its own, never twice at once.
	Verify(ctx context.Context) Verification
	// Apply carries out bans and unbans. It returns the orders that failed, and the error of the first of them.
	Apply(orders []Order) (failed []Order, err error)
	// Intact reports, at little cost, whether the entries seem unchanged: by calling plausible with their number, if the
	// kernel counts them, or because no other program has changed them.
	Intact(plausible func(size int) bool) (bool, error)
	// Entries lists the entries in the kernel. It may be called from any goroutine.
	Entries() ([]Entry, error)
	// Watch calls notice after changes by other programs, if the kernel reports them, until ctx ends.
	Watch(ctx context.Context, notice func()) error
}

// A Verification is the result of Backend.Verify.
type Verification struct {
	Made  []string // missing objects that were made
	Notes []string // sentences for the operator: deviations that are no errors
	Err   error
	Tap   error // why packets are not copied; bans are in force all the same
}

// Dropped counts packets that fsban's rules dropped.
type Dropped struct{ Packets, Bytes uint64 }

// Plus returns d plus the increase of a counter from seen to now. A counter that went down was reset, or belongs to a new rule.
func (d Dropped) Plus(seen, now Dropped) Dropped {
	if now.Packets < seen.Packets || now.Bytes < seen.Bytes {
		seen = Dropped{}
	}
	return Dropped{d.Packets + now.Packets - seen.Packets, d.Bytes + now.Bytes - seen.Bytes}
}

// A SetSize is the number of entries in a set, and its limit.
type SetSize struct{ Entries, Limit int }

// Forever is the remaining time of a ban without end.
const Forever time.Duration = -1

// Left returns the remaining time at now of a ban that ends at until: at least a second, Forever if until is zero.
func Left(until, now time.Time) time.Duration {
	if until.IsZero() {
		return Forever
	}
	return max(until.Sub(now), time.Second)
}

// An Entry is one prefix in the kernel's set.
type Entry struct {
	Prefix  netip.Prefix
	Left    time.Duration // until the kernel removes it; Forever if it never does
	Packets uint64        // dropped since the ban
	Bytes   uint64

	ByWall    bool      // it ends by the system's clock, so a step of that clock has moved its end
	Exception bool      // from wider bans, made by hand (nomatch): not a ban
	Expected  time.Time // for EnforcerOptions.Amend alone: the end that Bans yielded; zero: without end
}

// An Order is a ban or an unban that has not reached the kernel yet.
type Order struct {
	Prefix netip.Prefix
	Add    bool
	Until  time.Time // by the system's clock, with a monotonic reading; zero: without end
	Cause  Cause     // zero for a restored ban
}

// A Cause is the event that led to a ban or an unban, to measure delays.
type Cause struct {
	Read time.Time // when fsban read of it
	At   time.Time // when it happened, by the clock of its source; zero if that does not matter
}

// BatchSize is the number of entries in one message to the kernel. An ipset entry has at most 68 bytes, a message's list at
// most 65,535.
const BatchSize = 900

// InBatches calls change with the entries of orders, many at a time, and once more for each entry of a batch that failed, so
// that one bad entry does not hold up the others. It returns the orders that failed, and the first error.
func InBatches(orders []Order, change func([]Entry) error) (failed []Order, first error) {
	now := time.Now()
	entries := make([]Entry, 0, min(len(orders), BatchSize))
	for len(orders) > 0 {
		part := orders[:min(len(orders), BatchSize)]
		orders = orders[len(part):]
		entries = entries[:0]
		for _, o := range part {
			entries = append(entries, Entry{Prefix: o.Prefix, Left: Left(o.Until, now)})
		}
		if change(entries) == nil {
			continue
		}
		for i, o := range part {
			if err := change(entries[i : i+1]); err != nil {
				failed = append(failed, o)
				if first == nil {
					first = err
				}
			}
		}
	}
	return failed, first
}
