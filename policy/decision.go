package policy

import (
	"net/netip"
	"time"
)

// A Verdict is the result of an attempt. The set is closed and small: safe as a metric label.
type Verdict uint8

// The verdicts.
const (
	Pass      Verdict = iota // no rule counts it, or not yet: a challenge waits for credentials
	Counted                  // counted, and not enough yet
	Spared                   // counted, but the address is on the never-ban list
	BanNow                   // ban Prefix from Since until Until
	SparedBan                // the address is on the never-ban list, and would have been banned now; said once each MaxRetry attempts
	Held                     // it would have been banned now, and a guard holds the ban; beyond MaxHeld it is lost and counted
	Excused                  // not counted: a ban of it was lifted a moment ago
	Lift                     // unban Prefix: it was known-good, and right after its ban it has turned out that a back end is down
	Forged                   // not counted: nothing proves its address, which is known-good or on the never-ban list
	NumVerdicts
)

var verdictNames = [NumVerdicts]string{"pass", "counted", "spared", "ban", "spared_ban", "held", "excused", "lift", "forged"}

func (v Verdict) String() string { return verdictNames[v] }

// MarshalText writes the name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the name.
func (v *Verdict) UnmarshalText(text []byte) error {
	return fromName(v, text, verdictNames[:], "verdict")
}

// A Decision is the result of an attempt, or of time that has passed: an unanswered challenge that counts, a held ban that is made
// (BanNow), a Lift, or Pass with reports alone.
type Decision struct {
	Verdict Verdict
	Prefix  netip.Prefix // the counted prefix; banned with BanNow
	Rule    *Rule        // the rule that bans; otherwise of those that counted the one nearest to MaxRetry. Not to be changed
	Count   int          // attempts in the window of Rule, this one included; at most MaxRetry

	KnownGood bool        // the address is known-good, so failures of one user count as one
	Never     *NeverEntry // with Spared and SparedBan: the entry that spares it
	Guard     Guard       // with Held: the one that holds it; with BanNow: the one that held it until now; with Lift: OutageGuard

	// With BanNow, SparedBan and Held.
	Since, Until time.Time // Until is zero for a ban without end. With Held and SparedBan: the ban that it would have been
	Evidence     []Attempt // the last attempts, oldest first; at most MaxRetry, fewer where memory ran out
	Offence      int       // with BanNow: the number of this offence of Prefix, from 1; with Lift: how many remain
	Short        bool      // the ban needs attempts with NoProof: it is short, and counted apart in Offence

	Unanswered *Attempt // the challenge that this decision is on, if time made it
	Journal    bool     // Replay must see the attempt, or Unanswered, after a restart: it counts, or changed known-good addresses

	// KnownGoodChanged reports a change of KnownGood(Addr) for other nodes: a new known-good address, one confirmed for the first
	// time in this hour, or one that is no longer known-good. Unsaved returns the changes for the disk.
	KnownGoodChanged bool

	Reports []Report // reports without a ban; valid until the next call of the engine
}

// A Guard holds bans that should rather not be made. The set is closed and small: safe as a metric label.
type Guard uint8

// The guards.
const (
	NoGuard        Guard = iota
	OutageGuard          // many known-good addresses fail together: a back end is down, and bans of known-good addresses are held
	RateGuard            // rules make more than BanRate bans a minute: the rest is held
	KnownGoodGuard       // rules make more than KnownGoodBanRate bans of known-good addresses within OfficeFindTime: the rest is held
	NumGuards
)

var guardNames = [NumGuards]string{"", "outage", "ban_rate", "known_good"}

func (g Guard) String() string { return guardNames[g] }

// MarshalText writes the name.
func (g Guard) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText reads the name.
func (g *Guard) UnmarshalText(text []byte) error { return fromName(g, text, guardNames[:], "guard") }

// A Report is something that nobody is banned for, and that people should know: a StuckPhone, SuspiciousLogin,
// DistributedAttack, ForgedFailures or GuardChange.
type Report interface{ report() }

// A StuckPhone fails again and again with one user's credentials from a known-good address: an old password, most
// likely. It is reported once, and again after it was silent or well.
type StuckPhone struct {
	Addr        netip.Addr
	User        string // untrusted, as in an Attempt
	Domain      string
	UserAgent   string
	Count       int // failures since Since
	Since, Last time.Time
}

// A DistributedAttack is many addresses that fail on one user. It is reported once, and again after fewer than half as
// many failed.
type DistributedAttack struct {
	User        string // untrusted, as in an Attempt
	Domain      string
	Addresses   int // prefixes that failed within DistributedFindTime; at most 64 are told apart
	Since, Last time.Time
}

// A GuardChange says that a guard holds bans from now on, or does not any more.
type GuardChange struct {
	Guard          Guard
	Active         bool
	Current, Limit int // known-good addresses that fail and may fail, or bans made and allowed in the time of a rate
	Held           int // bans that it holds
	Dropped        int // bans that it held and that are not made
	At             time.Time
}

// ForgedFailures are failures that a tap saw in the name of known-good or never-ban addresses, with nothing to prove that these sent
// them. An episode ends after an hour without one; it is reported with failure number 10, 100, 1,000 and so on.
type ForgedFailures struct {
	Count       uint64     // since Since
	Addr        netip.Addr // the last one's
	Since, Last time.Time
}

func (ForgedFailures) report()    {}
func (StuckPhone) report()        {}
func (DistributedAttack) report() {}
func (GuardChange) report()       {}
