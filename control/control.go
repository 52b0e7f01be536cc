// Package control is how the fsban command talks to the daemon: HTTP and JSON over a unix socket.
//
// The kernel says who is at the other end of a unix socket. Root and the user that the daemon itself runs as may do
// everything, and so may the members of one group that the configuration names; those of another may look. Nobody else is
// let in. There is no way to change anything over TCP.
package control

import (
	"net/netip"
	"time"
)

// A Status is what a daemon knows about itself.
type Status struct {
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Ready    bool      `json:"ready"`    // enforcing, and at least one source alive
	Problems []string  `json:"problems"` // what is wrong, in words; empty when all is well
	Sources  []Source  `json:"sources"`
	Speakers []Speaker `json:"speakers"`
	Firewall Firewall  `json:"firewall"`
	Policy   Policy    `json:"policy"`
	Bans     Bans      `json:"bans"`
	Fleet    *Fleet    `json:"fleet,omitempty"` // null: none is configured
	// Attempts counts what was seen since the start, by kind.
	Attempts map[string]uint64 `json:"attempts"`
}

// A Source is one place where attempts come from.
type Source struct {
	Name       string    `json:"name"`
	Address    string    `json:"address"`
	Up         bool      `json:"up"`
	Speaks     []string  `json:"speaks"` // the kinds for which its word counts; the others are only read along
	Since      time.Time `json:"since"`
	Error      string    `json:"error,omitempty"`
	Retry      time.Time `json:"retry,omitzero"`      // when the next attempt to connect comes
	LastEvent  time.Time `json:"last_event,omitzero"` // FreeSWITCH's clock
	Connects   uint64    `json:"connects"`
	Dropped    uint64    `json:"dropped"` // attempts lost because the queue was full
	NotAllowed []string  `json:"not_allowed,omitempty"`
	// Unconfirmed counts attempts that another source should have told of, and did not: they did not count.
	Unconfirmed uint64 `json:"unconfirmed"`
}

// A Speaker says whose word counts for a kind of attempt.
type Speaker struct {
	Kind   string `json:"kind"`
	Source string `json:"source"`        // empty: nobody can tell
	Why    string `json:"why,omitempty"` // it is not a better source
}

// Fleet is the state of the fleet that the daemon belongs to.
type Fleet struct {
	Name    string        `json:"name"`
	Redis   string        `json:"redis"`
	Share   string        `json:"share"` // "bans" or "failures"
	Node    string        `json:"node"`  // this one's name
	Up      bool          `json:"up"`    // Redis answers, and takes what this node says
	Since   time.Time     `json:"since"`
	Error   string        `json:"error,omitempty"`
	InStep  bool          `json:"in_step"` // nothing waits to be said or taken
	Queue   int           `json:"queue"`   // waits to be said
	Behind  uint64        `json:"behind"`  // entries of Redis' log not read yet
	Waiting int           `json:"waiting"` // bans of others that wait because too many came at once
	Skew    time.Duration `json:"skew"`    // Redis' clock minus ours
	Nodes   []FleetNode   `json:"nodes"`
}

// A FleetNode is a node of the fleet that was there in the last day.
type FleetNode struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Seen    time.Time `json:"seen"`
	Ready   bool      `json:"ready"`
	Bans    int       `json:"bans"`
	Speaks  []string  `json:"speaks,omitempty"` // the sources whose word counts there
	Share   string    `json:"share"`
}

// Firewall is the state of the kernel.
type Firewall struct {
	Backend   string             `json:"backend"`
	Enforcing bool               `json:"enforcing"`
	Since     time.Time          `json:"since"`
	Error     string             `json:"error,omitempty"`
	Pending   int                `json:"pending"`
	Repairs   uint64             `json:"repairs"`
	Restored  uint64             `json:"restored"`
	Failures  uint64             `json:"failures"`
	Notes     []string           `json:"notes,omitempty"`   // what is not as it should be, though bans are in force
	Dropped   map[string]Dropped `json:"dropped,omitempty"` // by family
}

// Dropped counts what the kernel threw away.
type Dropped struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Policy is what rules, and what it holds.
type Policy struct {
	Rules    []Rule     `json:"rules"`
	NeverBan []NeverBan `json:"never_ban"`
	Guards   []Guard    `json:"guards"`

	Tracked   int    `json:"tracked"`    // addresses with attempts in a window
	KnownGood int    `json:"known_good"` // addresses from which somebody has logged in lately
	Held      int    `json:"held"`       // bans that a guard holds
	Evicted   uint64 `json:"evicted"`    // addresses forgotten because memory is bounded
	Spared    uint64 `json:"spared"`     // attempts of addresses that are never banned

	StuckPhones []StuckPhone        `json:"stuck_phones,omitempty"`
	Suspicious  []SuspiciousLogin   `json:"suspicious_logins,omitempty"` // of the last 24 hours
	Distributed []DistributedAttack `json:"distributed_attacks,omitempty"`
}

// A Rule is one rule in force.
type Rule struct {
	Name     string   `json:"name"`
	Kinds    []string `json:"kinds"`
	FindTime string   `json:"findtime"`
	MaxRetry int      `json:"maxretry"`
	BanTime  string   `json:"bantime"`
}

// A NeverBan is a prefix that no rule bans.
type NeverBan struct {
	Prefix netip.Prefix `json:"prefix"`
	Origin string       `json:"origin"`         // who put it there, or why
	Spared uint64       `json:"spared"`         // attempts from there
	Bans   uint64       `json:"bans,omitempty"` // bans that would have been made
}

// A Guard holds bans while something looks too wrong for them.
type Guard struct {
	Name   string    `json:"name"`
	Active bool      `json:"active"`
	Since  time.Time `json:"since,omitzero"`
	Now    int       `json:"now"` // what it looks at
	Limit  int       `json:"limit"`
	Held   int       `json:"held"`
}

// A StuckPhone fails again and again at an address that others log in from.
type StuckPhone struct {
	Addr      netip.Addr `json:"addr"`
	User      string     `json:"user"`
	Domain    string     `json:"domain,omitempty"`
	UserAgent string     `json:"user_agent,omitempty"`
	Count     int        `json:"count"`
	Since     time.Time  `json:"since"`
	Last      time.Time  `json:"last"`
}

// A SuspiciousLogin is a success right after failures of the same user.
type SuspiciousLogin struct {
	Addr      netip.Addr `json:"addr"`
	User      string     `json:"user"`
	Domain    string     `json:"domain,omitempty"`
	UserAgent string     `json:"user_agent,omitempty"`
	Failures  int        `json:"failures"`
	At        time.Time  `json:"at"`
}

// A DistributedAttack is many addresses that fail on one user.
type DistributedAttack struct {
	User      string    `json:"user"`
	Domain    string    `json:"domain,omitempty"`
	Addresses int       `json:"addresses"`
	Since     time.Time `json:"since"`
	Last      time.Time `json:"last"`
}

// A HeldBan is a ban that a guard holds.
type HeldBan struct {
	Prefix   netip.Prefix `json:"prefix"`
	Guard    string       `json:"guard"`
	Rule     string       `json:"rule"`
	Attempts int          `json:"attempts"`
	Since    time.Time    `json:"since"`
	Until    time.Time    `json:"until,omitzero"`
	Evidence []Attempt    `json:"evidence,omitempty"` // the last attempts
}

// A Standing is everything that is known of one address.
type Standing struct {
	Addr      netip.Addr   `json:"addr"`
	Prefix    netip.Prefix `json:"prefix"` // what counts as one attacker with it
	Ban       *Ban         `json:"ban,omitempty"`
	Held      *HeldBan     `json:"held,omitempty"`
	Never     *NeverBan    `json:"never_ban,omitempty"`
	KnownGood time.Time    `json:"known_good,omitzero"` // since when
	LastLogin time.Time    `json:"last_login,omitzero"`
	Suspected time.Time    `json:"suspected,omitzero"` // a suspicious login
	Offences  int          `json:"offences"`           // past bans
	LastBan   time.Time    `json:"last_ban,omitzero"`
	Excused   bool         `json:"excused"` // a ban was lifted a moment ago: nothing counts
	Counts    []RuleCount  `json:"counts,omitempty"`
	Stuck     []StuckPhone `json:"stuck_phones,omitempty"`
	Attempts  []Attempt    `json:"attempts,omitempty"` // the last that count
	Next      []Next       `json:"next,omitempty"`     // empty while it is banned: nothing counts
}

// A Next is what the next failed login of an address would lead to.
type Next struct {
	User     string        `json:"user"`    // whose: same, as failed last; or another, that was not tried yet, where that leads to something else
	Verdict  string        `json:"verdict"` // pass, counted, spared, ban, spared_ban, held or excused
	Rule     string        `json:"rule,omitempty"`
	Count    int           `json:"count,omitempty"` // that failure included
	MaxRetry int           `json:"maxretry,omitempty"`
	BanTime  time.Duration `json:"bantime,omitempty"` // of the ban that it leads to, or would; policy.Forever: without end
	Offence  int           `json:"offence,omitempty"` // of a ban: the how manieth of this prefix
	Guard    string        `json:"guard,omitempty"`   // that would hold the ban
}

// A RuleCount is how far an address is with one rule.
type RuleCount struct {
	Rule     string `json:"rule"`
	Count    int    `json:"count"`
	MaxRetry int    `json:"maxretry"`
	FindTime string `json:"findtime"`
}

// An AllowRequest puts a prefix onto the never-ban list.
type AllowRequest struct {
	Prefix netip.Prefix  `json:"prefix"`
	Time   time.Duration `json:"time,omitempty"` // 0: until it is disallowed
	Reason string        `json:"reason,omitempty"`
	Local  bool          `json:"local,omitempty"` // here, and on no other node of the fleet
}

// Bans counts bans.
type Bans struct {
	IPv4    int    `json:"ipv4"`
	IPv6    int    `json:"ipv6"`
	Made    uint64 `json:"made"`    // since the start
	Refused uint64 `json:"refused"` // since the start: no room (firewall.max_bans)
}

// A Ban is one banned prefix.
type Ban struct {
	Prefix   netip.Prefix `json:"prefix"`
	Since    time.Time    `json:"since"`
	Until    time.Time    `json:"until,omitzero"` // zero: until somebody unbans
	Rule     string       `json:"rule"`
	Source   string       `json:"source"`
	Attempts int          `json:"attempts,omitempty"`
	Offence  int          `json:"offence,omitempty"` // the how manieth of this prefix
	By       string       `json:"by,omitempty"`      // which operator
	Reason   string       `json:"reason,omitempty"`
	Node     string       `json:"node,omitempty"`  // of the fleet: which one has banned
	Local    bool         `json:"local,omitempty"` // it is not for the fleet
	InKernel bool         `json:"in_kernel"`
	Dropped  Dropped      `json:"dropped"`
	Evidence []Attempt    `json:"evidence,omitempty"`
}

// An Attempt is one piece of evidence. Its texts are what the peer claimed.
type Attempt struct {
	Addr      netip.Addr `json:"addr"`
	At        time.Time  `json:"at"`
	Kind      string     `json:"kind"`
	Source    string     `json:"source"`
	Method    string     `json:"method,omitempty"`
	User      string     `json:"user,omitempty"`
	Number    string     `json:"number,omitempty"`
	Domain    string     `json:"domain,omitempty"`
	Profile   string     `json:"profile,omitempty"`
	UserAgent string     `json:"user_agent,omitempty"`
}

// A Top is what happens right now.
type Top struct {
	At      time.Time `json:"at"`
	Started time.Time `json:"started"`
	Version string    `json:"version"`
	Ready   bool      `json:"ready"`
	// Attempts counts what was seen since the start, by kind: rates are the difference of two.
	Attempts  map[string]uint64 `json:"attempts"`
	Bans      Bans              `json:"bans"`
	Held      int               `json:"held"` // bans that a guard holds
	Dropped   Dropped           `json:"dropped"`
	Sources   []Source          `json:"sources"`
	Speakers  []Speaker         `json:"speakers"`
	Problems  []string          `json:"problems"`
	Addresses []Busy            `json:"addresses"` // who tries most first
	Users     []BusyUser        `json:"users"`     // who is tried most first
	NewBans   []Ban             `json:"new_bans"`  // the last since the start, newest first, without evidence and what the kernel knows
}

// A Busy is an address, or what counts as one attacker, that has tried something in the last five minutes.
type Busy struct {
	Prefix    netip.Prefix `json:"prefix"`
	Attempts  uint64       `json:"attempts"` // in the last five minutes
	Users     int          `json:"users"`    // at most 64 are told apart
	Last      time.Time    `json:"last"`
	LastUser  string       `json:"last_user,omitempty"`
	UserAgent string       `json:"user_agent,omitempty"`
	Banned    bool         `json:"banned"`
	Known     bool         `json:"known_good"`
}

// A BusyUser is a user on whom somebody has failed in the last five minutes.
type BusyUser struct {
	User      string    `json:"user"`
	Domain    string    `json:"domain,omitempty"`
	Attempts  uint64    `json:"attempts"`  // in the last five minutes
	Addresses int       `json:"addresses"` // at most 64 are told apart
	Last      time.Time `json:"last"`
}

// A Reload is what came of reading the configuration file again.
type Reload struct {
	Changed      []string `json:"changed"`       // dotted keys of what is in force now and was not
	NeedsRestart []string `json:"needs_restart"` // dotted keys of what differs in the file and stays as it was
}

// A BanRequest orders a ban.
type BanRequest struct {
	Prefix netip.Prefix  `json:"prefix"`
	Time   time.Duration `json:"bantime,omitempty"` // 0: as the policy has it; policy.Forever: without end
	Reason string        `json:"reason,omitempty"`
	Force  bool          `json:"force,omitempty"` // even an address that is never banned
	Local  bool          `json:"local,omitempty"` // here, and on no other node of the fleet
}

// An apiError is the body of an answer that is not 200.
type apiError struct {
	Error string `json:"error"`
}
