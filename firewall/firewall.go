// Package firewall bans in the kernel.
//
// An Enforcer owns the kernel: bans and unbans are handed to it, and it applies them in batches, repeats what failed, and
// compares what the kernel holds with what should be there. Behind it stands a Backend: IPTables (one ipset and one rule a
// family), NFTables (the same in a table of its own), Rules (one rule a ban, where there is neither) or DryRun, which only
// says what it would do. Auto finds out which of them works.
//
// The kernel ends bans by itself. Stopping or killing fsban leaves them in force, and the next start adopts them. What
// others change is put right: see comparison for entries, and planJump for rules that are put before fsban's.
//
// It needs CAP_NET_ADMIN and CAP_NET_RAW, and is content with them. The lock of iptables-legacy is /run/xtables.lock: who
// is not root must be able to write to it, or name another file in XTABLES_LOCKFILE.
package firewall

import (
	"context"
	"net/netip"
	"time"
)

// A Backend puts bans into effect. The backends of this package are the only ones.
type Backend interface {
	Name() string
	// Dropped returns what the rules threw away since this process started, by family, as of the last check.
	Dropped() map[string]Dropped
	// sizes returns how full the sets are, by family, as of the last check; nil where the kernel does not count entries.
	sizes() map[string]SetSize
	// Teardown removes everything that fsban ever made there, and nothing else, and returns what it removed, also when some
	// of it failed. What is not there is no error.
	Teardown() (removed []string, err error)
	// Close lets go of the kernel. Everything stays in force.
	Close() error

	// setup makes the sets that are missing, and waits for nobody. Like apply and intact it is called by the enforcer's
	// goroutine alone.
	setup() (made []string, err error)
	// limit has setup make sets for so many bans from now on. It is called where setup is.
	limit(bans int)
	// guard looks whether the rules that use the sets are in force, and makes what is missing. It may wait for other
	// programs: it runs beside the enforcer's goroutine, and never twice at once.
	guard(ctx context.Context) guarded
	// apply carries out bans and unbans. It returns those that failed, and why the first of them did.
	apply(ops []op) (failed []op, err error)
	// intact tells at little cost whether the entries seem to be what was left: by asking plausible about their number, or
	// because nobody else has touched them.
	intact(plausible func(size int) bool) (bool, error)
	// entries lists what the kernel holds. Any goroutine may call it.
	entries() ([]Entry, error)
	// watch calls notice when somebody else has changed what is fsban's, where the kernel tells, until ctx ends.
	watch(ctx context.Context, notice func()) error
}

// Guarded is what a look at the rules has found.
type guarded struct {
	made  []string // what was missing, and has been made
	notes []string // sentences for the operator: what is not as it should be, and not wrong enough for an error
	err   error
}

// Dropped counts what fsban's rules threw away.
type Dropped struct{ Packets, Bytes uint64 }

// A SetSize says how full a set is.
type SetSize struct{ Entries, Limit int }

// plus adds what counters have gained since they were last seen. Counters that are lower than before were zeroed, or are of
// a new rule.
func (d Dropped) plus(seen, now Dropped) Dropped {
	if now.Packets < seen.Packets || now.Bytes < seen.Bytes {
		seen = Dropped{}
	}
	return Dropped{d.Packets + now.Packets - seen.Packets, d.Bytes + now.Bytes - seen.Bytes}
}

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
	cause  Cause     // zero for a ban that is put back
}

// A Cause is what led to a ban or an unban, for whoever wants to know how long it took.
type Cause struct {
	Read time.Time // when we read of it
	At   time.Time // when it happened, by the clock of whoever told of it; zero where that does not matter
}

// left returns how long a ban that ends at until lasts from now.
func left(until, now time.Time) time.Duration {
	if until.IsZero() {
		return Forever
	}
	return max(until.Sub(now), time.Second)
}
