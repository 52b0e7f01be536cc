// Package control is how the fsban command talks to the daemon: HTTP and JSON over a unix socket.
//
// The kernel reports the user and groups of a unix socket's peer. Root, the daemon's user and the members of control.admins may do
// everything; the members of control.readers may read. Others are refused. Nothing can be changed over TCP.
package control

import (
	"net/netip"
	"time"
)

// A Status is the state of a daemon.
type Status struct {
	Version       string         `json:"version"`
	Started       time.Time      `json:"started"`
	Ready         bool           `json:"ready"`    // bans are enforced, and at least one source is alive
	Watching      bool           `json:"watching"` // bans are decided and listed, and nobody is blocked (firewall.enforce)
	Problems      []string       `json:"problems"` // open problems, each with its remedy
	Sources       []Source       `json:"sources"`
	ActiveSources []ActiveSource `json:"active_sources"`
	Firewall      Firewall       `json:"firewall"`
	Policy        Policy         `json:"policy"`
	Bans          Bans           `json:"bans"`
	Fleet         *Fleet         `json:"fleet,omitempty"` // null: none is configured
	// Attempts counts attempts since the start, by kind.
	Attempts map[string]uint64 `json:"attempts"`
}

// A Source is one place where attempts come from.
type Source struct {
	Name      string    `json:"name"`
	Address   string    `json:"address"`
	Up        bool      `json:"up"`
	ActiveFor []string  `json:"active_for"` // the kinds for which it is the active source
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
	Retry     time.Time `json:"retry,omitzero"`      // when the next attempt to connect comes
	LastEvent time.Time `json:"last_event,omitzero"` // FreeSWITCH's clock
	Connects  uint64    `json:"connects"`
	Dropped   uint64    `json:"dropped"` // attempts lost because the queue was full
	// Of a tap: SIP messages received, and those that were lost on the way; why it is not up, although it listens.
	Messages   uint64   `json:"messages,omitempty"`
	Lost       uint64   `json:"lost,omitempty"`
	Waiting    string   `json:"waiting,omitempty"`
	NotAllowed []string `json:"not_allowed,omitempty"`
	// Unconfirmed counts reports that the active source never confirmed: they did not count.
	Unconfirmed uint64 `json:"unconfirmed"`
}

// An ActiveSource is the active source of a kind of attempt.
type ActiveSource struct {
	Kind   string `json:"kind"`
	Source string `json:"source"`        // empty: no source is alive
	Why    string `json:"why,omitempty"` // why no preferred source is active
}

// Fleet is the state of the fleet that the daemon belongs to.
type Fleet struct {
	Name    string        `json:"name"`
	Redis   string        `json:"redis"`
	Share   string        `json:"share"` // "bans" or "failures"
	Node    string        `json:"node"`  // this one's name
	Up      bool          `json:"up"`    // Redis answers and accepts this node's statements
	Since   time.Time     `json:"since"`
	Error   string        `json:"error,omitempty"`
	InStep  bool          `json:"in_step"` // no statement waits to be sent or applied
	Queue   int           `json:"queue"`   // statements queued to be sent
	Behind  uint64        `json:"behind"`  // entries of Redis' log not read yet
	Waiting int           `json:"waiting"` // bans of others that wait because too many came at once
	Skew    time.Duration `json:"skew"`    // Redis' clock minus ours
	Nodes   []FleetNode   `json:"nodes"`
}

// A FleetNode is a node of the fleet that was seen in the last day.
type FleetNode struct {
	Name          string    `json:"name"`
	Version       string    `json:"version"`
	Started       time.Time `json:"started"`
	Seen          time.Time `json:"seen"`
	Ready         bool      `json:"ready"`
	Watching      bool      `json:"watching,omitempty"` // it blocks nobody, and announces no bans
	Bans          int       `json:"bans"`
	ActiveSources []string  `json:"active_sources,omitempty"`
	Share         string    `json:"share"`
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
	Notes     []string           `json:"notes,omitempty"`   // deviations that do not keep bans from being in force
	Dropped   map[string]Dropped `json:"dropped,omitempty"` // by family
}

// Dropped counts packets and bytes dropped by the kernel.
type Dropped struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Policy holds the rules in force and the state of the policy.
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
	Forged      *ForgedFailures     `json:"forged_failures,omitempty"` // nil: fewer than 10, or none within the last hour
}

// ForgedFailures are failures in the name of known-good or never-ban addresses, with nothing to prove that these sent them.
type ForgedFailures struct {
	Count uint64     `json:"count"`
	Addr  netip.Addr `json:"addr"` // the last one's
	Since time.Time  `json:"since"`
	Last  time.Time  `json:"last"`
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
	Origin string       `json:"origin"`         // source of the entry
	Spared uint64       `json:"spared"`         // attempts from there
	Bans   uint64       `json:"bans,omitempty"` // bans that would have been made
}

// A Guard holds bans while something looks too wrong for them.
type Guard struct {
	Name   string    `json:"name"`
	Active bool      `json:"active"`
	Since  time.Time `json:"since,omitzero"`
	Now    int       `json:"now"` // current value
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

// A SuspiciousLogin is a login from a new address, with evidence that the password was guessed.
type SuspiciousLogin struct {
	Addr      netip.Addr `json:"addr"`
	User      string     `json:"user"`
	Domain    string     `json:"domain,omitempty"`
	UserAgent string     `json:"user_agent,omitempty"`
	At        time.Time  `json:"at"`
	Evidence  string     `json:"evidence"` // spray, distributed, own_failures or few_prefixes
	Likely    bool       `json:"likely"`   // a guessed password is more likely than a mistyped one
	Failures  int        `json:"failures"` // on this user, from the address and its network: an IPv4 /24 or an IPv6 /48
	Users     int        `json:"users"`    // other users that the address failed on
	Prefixes  int        `json:"prefixes"` // addresses and IPv6 networks that failed on this user
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
	Firings  int          `json:"firings"` // how often a rule wanted the ban: more than once if the address goes on
	Since    time.Time    `json:"since"`
	Until    time.Time    `json:"until,omitzero"`
	Evidence []Attempt    `json:"evidence,omitempty"` // the last attempts
}

// An AddressState is everything that is known of one address.
type AddressState struct {
	Addr      netip.Addr     `json:"addr"`
	Prefix    netip.Prefix   `json:"prefix"` // prefix that is counted and banned as one
	Ban       *Ban           `json:"ban,omitempty"`
	Wider     []Ban          `json:"wider,omitempty"`    // bans that hold the prefix of Ban, the widest first
	Watching  bool           `json:"watching,omitempty"` // as in Status
	Blocked   []netip.Prefix `json:"blocked,omitempty"`  // bans from before fsban watched that the kernel still enforces
	Held      *HeldBan       `json:"held,omitempty"`
	Never     *NeverBan      `json:"never_ban,omitempty"`
	KnownGood time.Time      `json:"known_good,omitzero"` // since when
	LastLogin time.Time      `json:"last_login,omitzero"`
	Suspected time.Time      `json:"suspected,omitzero"` // a suspicious login
	Offences  int            `json:"offences"`           // past bans
	History   []EndedBan     `json:"history,omitempty"`  // the newest first, at most five
	LastBan   time.Time      `json:"last_ban,omitzero"`
	Excused   bool           `json:"excused"` // unbanned a moment ago: attempts do not count
	Counts    []RuleCount    `json:"counts,omitempty"`
	Stuck     []StuckPhone   `json:"stuck_phones,omitempty"`
	Attempts  []Attempt      `json:"attempts,omitempty"` // the last that count
	Next      []Next         `json:"next,omitempty"`     // empty while it is banned: nothing counts
}

// A Next is the effect of the next failed login of an address.
type Next struct {
	// user of that login: same as the last failure; or another, not tried yet, if the effect differs
	User     string        `json:"user"`
	Verdict  string        `json:"verdict"` // pass, counted, spared, ban, spared_ban, held or excused
	Rule     string        `json:"rule,omitempty"`
	Count    int           `json:"count,omitempty"` // that failure included
	MaxRetry int           `json:"maxretry,omitempty"`
	BanTime  time.Duration `json:"bantime,omitempty"` // of the ban that it leads to, or would; policy.Forever: without end
	Offence  int           `json:"offence,omitempty"` // ordinal of this ban among the prefix's bans, 0 if unknown
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
	Time   time.Duration `json:"time,omitempty"`   // 0: as the allowance in force, or without end; policy.Forever: without end
	Reason string        `json:"reason,omitempty"` // empty: as in the allowance in force
	Force  bool          `json:"force,omitempty"`  // even a very wide prefix
	Local  bool          `json:"local,omitempty"`  // on this node only
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
	Offence  int          `json:"offence,omitempty"` // ordinal of this ban among the prefix's bans, 0 if unknown
	By       string       `json:"by,omitempty"`      // which operator
	Reason   string       `json:"reason,omitempty"`
	Node     string       `json:"node,omitempty"`    // of the fleet: which one has banned
	Local    bool         `json:"local,omitempty"`   // it is not for the fleet
	Watched  bool         `json:"watched,omitempty"` // fsban watches: the ban is decided, and not enforced
	InKernel bool         `json:"in_kernel"`
	Dropped  Dropped      `json:"dropped"`
	Forced   bool         `json:"forced,omitempty"` // an operator has overridden the never-ban list
	Evidence []Attempt    `json:"evidence,omitempty"`
}

// An Attempt is one piece of evidence. Its texts are claims of the peer.
type Attempt struct {
	Addr      netip.Addr `json:"addr"`
	At        time.Time  `json:"at"`
	Kind      string     `json:"kind"`
	Source    string     `json:"source"`
	Method    string     `json:"method,omitempty"`
	Transport string     `json:"transport,omitempty"` // as a tap saw it
	// Proof is the evidence that the address is the sender's own: tcp, nonce or password; none: a tap saw the request, and there is
	// none; empty: unknown.
	Proof     string `json:"proof,omitempty"`
	User      string `json:"user,omitempty"`
	Number    string `json:"number,omitempty"`
	Domain    string `json:"domain,omitempty"`
	Profile   string `json:"profile,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
	Detail    string `json:"detail,omitempty"` // malformed: the fault; exploit: the advisory
}

// A Top is the current activity.
type Top struct {
	At       time.Time `json:"at"`
	Started  time.Time `json:"started"`
	Version  string    `json:"version"`
	Ready    bool      `json:"ready"`
	Watching bool      `json:"watching"` // as in Status
	// Attempts counts attempts since the start, by kind: rates are the difference of two.
	Attempts      map[string]uint64 `json:"attempts"`
	Bans          Bans              `json:"bans"`
	Held          int               `json:"held"` // bans that a guard holds
	Dropped       Dropped           `json:"dropped"`
	Sources       []Source          `json:"sources"`
	ActiveSources []ActiveSource    `json:"active_sources"`
	Problems      []string          `json:"problems"`
	Addresses     []Busy            `json:"addresses"` // most attempts first
	Users         []BusyUser        `json:"users"`     // most attempts first
	NewBans       []Ban             `json:"new_bans"`  // newest first, without evidence and counters of the kernel
}

// A Busy is a prefix that counts as one, with attempts in the last five minutes.
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

// A BusyUser is a user with failed logins in the last five minutes.
type BusyUser struct {
	User      string    `json:"user"`
	Domain    string    `json:"domain,omitempty"`
	Attempts  uint64    `json:"attempts"`  // in the last five minutes
	Addresses int       `json:"addresses"` // at most 64 are told apart
	Last      time.Time `json:"last"`
}

// A Reload is the result of a reload of the configuration file.
type Reload struct {
	Changed      []string `json:"changed"`       // dotted keys of settings that were applied
	NeedsRestart []string `json:"needs_restart"` // dotted keys of settings that differ in the file and need a restart
}

// An EnforceRequest ends watching.
type EnforceRequest struct {
	Keep   bool `json:"keep,omitempty"`   // the watched bans are enforced; else enforcement begins with an empty list
	Revoke bool `json:"revoke,omitempty"` // instead: withdraw an earlier request, so that the next start follows firewall.enforce
}

// An Enforcement is the result of an EnforceRequest. Bans that the kernel held already and those of other nodes stay in any case.
type Enforcement struct {
	Kept       int  `json:"kept"`        // bans that are in force now
	Ended      int  `json:"ended"`       // watched bans that have ended
	Evicted    int  `json:"evicted"`     // bans that the firewall has no room for, nearest to their end
	FileAgrees bool `json:"file_agrees"` // firewall.enforce is true in the configuration file; else the request holds over restarts
}

// A BanRequest orders a ban.
type BanRequest struct {
	Prefix netip.Prefix  `json:"prefix"`
	Time   time.Duration `json:"bantime,omitempty"` // 0: as the ban in force, or policy.bantime; policy.Forever: without end
	Reason string        `json:"reason,omitempty"`  // empty: as in the ban in force
	Force  bool          `json:"force,omitempty"`   // even a prefix on the never-ban list, with known-good addresses, or very wide
	Local  bool          `json:"local,omitempty"`   // on this node only
	// From fail2ban: the ban counts as a rule's of the name fail2ban, not as an operator's.
	Imported bool      `json:"imported,omitempty"`
	Since    time.Time `json:"since,omitzero"` // start of an imported ban
}

// MaxUnbans bounds the prefixes of an UnbanRequest.
const MaxUnbans = 1000

// An UnbanRequest ends the bans of exactly these prefixes, at most 1,000. Prefixes that are not banned are left out.
type UnbanRequest struct {
	Prefixes []netip.Prefix `json:"prefixes"`
	Reason   string         `json:"reason,omitempty"`
	Local    bool           `json:"local,omitempty"` // on this node only
}

// An Unbanned is the result of an UnbanRequest.
type Unbanned struct {
	Ended int `json:"ended"` // bans
	// Held lists the prefixes of the request that a wider ban holds still.
	Held []netip.Prefix `json:"held,omitempty"`
	// Blocked lists up to ten bans that the kernel enforces although fsban watches.
	Blocked []netip.Prefix `json:"blocked,omitempty"`
}

// An apiError is the body of an answer that is not 200.
type apiError struct {
	Error string `json:"error"`
}
