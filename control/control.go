// Package control is how the fsban command talks to the daemon: HTTP and JSON over a unix socket.
//
// Only root, and the user that the daemon itself runs as, are let in: the kernel says who is at the other end of a unix
// socket. There is no way to change anything over TCP.
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
	Dropped   map[string]Dropped `json:"dropped,omitempty"` // by family
}

// Dropped counts what the kernel threw away.
type Dropped struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Policy is the rule in force and what it holds.
type Policy struct {
	FindTime string   `json:"findtime"`
	MaxRetry int      `json:"maxretry"`
	BanTime  string   `json:"bantime"`
	NeverBan []string `json:"never_ban"`
	Tracked  int      `json:"tracked"`
	Evicted  uint64   `json:"evicted"`
	Spared   uint64   `json:"spared"` // attempts of addresses that are never banned
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
	By       string       `json:"by,omitempty"` // which operator
	Reason   string       `json:"reason,omitempty"`
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
	Domain    string     `json:"domain,omitempty"`
	Profile   string     `json:"profile,omitempty"`
	UserAgent string     `json:"user_agent,omitempty"`
}

// A BanRequest orders a ban.
type BanRequest struct {
	Prefix netip.Prefix  `json:"prefix"`
	Time   time.Duration `json:"bantime,omitempty"` // 0: as the policy has it; policy.Forever: without end
	Reason string        `json:"reason,omitempty"`
	Force  bool          `json:"force,omitempty"` // even an address that is never banned
}

// Paths of the API.
const (
	pathStatus = "/v1/status"
	pathBans   = "/v1/bans"
)

// An apiError is the body of an answer that is not 200.
type apiError struct {
	Error string `json:"error"`
}
