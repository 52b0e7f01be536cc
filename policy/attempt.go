// Package policy decides who is banned, and for how long.
//
// An Engine counts the attempts of each address in sliding windows, one for each rule. It knows the addresses from which
// somebody has logged in lately and is milder with them, remembers past bans, watches users under attack, and holds bans
// when there are suspiciously many.
//
// It does no I/O, starts no goroutine and never reads the clock: time arrives with the attempts, so that replaying a
// recording next year gives the same bans. All that it holds is bounded, and what it forgets for that is counted. An
// Engine is not safe for concurrent use; package daemon owns the only one.
package policy

import (
	"fmt"
	"net/netip"
	"time"
)

// An Attempt is one thing a remote address tried at FreeSWITCH's door, as one source reported it.
type Attempt struct {
	Addr      netip.Addr `json:"addr"` // the remote end; never IPv4-mapped, never the zero Addr
	At        time.Time  `json:"at"`   // when FreeSWITCH saw it, not when we read it
	Kind      Kind       `json:"kind"`
	Source    Source     `json:"source"`
	Method    Method     `json:"method,omitempty"`
	User      string     `json:"user,omitempty"`   // as claimed by the peer: untrusted, may be empty, never a label, quoted when logged
	Number    string     `json:"number,omitempty"` // that was dialled; as untrusted as User
	Domain    string     `json:"domain,omitempty"`
	Profile   string     `json:"profile,omitempty"`
	UserAgent string     `json:"user_agent,omitempty"`
	Clock     time.Time  `json:"clock,omitzero"` // when FreeSWITCH says it was, where its clock is so far off that At is when we read it
}

// Stamp returns when a was by FreeSWITCH's clock, however far off that is.
func (a *Attempt) Stamp() time.Time {
	if a.Clock.IsZero() {
		return a.At
	}
	return a.Clock
}

// Adrift has a count as happening now, because FreeSWITCH's clock is so far off.
func (a *Attempt) Adrift(now time.Time) { a.Clock, a.At = a.At, now }

// A Kind is what was tried. The set is closed and small: safe as a metric label.
type Kind uint8

// The kinds.
const (
	AuthFailure Kind = iota // credentials were presented and refused
	Challenge               // no credentials yet: ordinary phones do this all day
	AuthSuccess             // the password was right
	Violation               // what mod_cti reports besides a failed registration: an irregular message, a number that is not allowed
	ACLReject               // an access list of FreeSWITCH's refused the address
	CallReject              // a call without credentials that the dialplan did not take, or to a number that is not allowed
	NumKinds
)

var kindNames = [NumKinds]string{"auth_failure", "challenge", "auth_success", "violation", "acl_reject", "call_reject"}

// Kinds lists all kinds.
func Kinds() []Kind {
	return []Kind{AuthFailure, Challenge, AuthSuccess, Violation, ACLReject, CallReject}
}

func (k Kind) String() string { return kindNames[k] }

// MarshalText and UnmarshalText write and read the name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the name.
func (k *Kind) UnmarshalText(text []byte) error { return fromName(k, text, kindNames[:], "kind") }

// A Source is who reported an attempt, or ordered a ban. The set is closed and small: safe as a metric label.
type Source uint8

// The sources.
const (
	Event    Source = iota // sofia's CUSTOM events on the event socket
	Operator               // somebody with the fsban command
	Kernel                 // an entry found in fsban's kernel set that the ledger did not know
	CTILog                 // the file that mod_cti writes
	CTIEvent               // mod_cti's CUSTOM events on the event socket
	ESLLog                 // FreeSWITCH's log, as the event socket sends it
	Fleet                  // another node
	NumSources
)

var sourceNames = [NumSources]string{"event", "operator", "kernel", "cti_log", "cti_event", "esl_log", "fleet"}

func (s Source) String() string { return sourceNames[s] }

// MarshalText writes the name.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name.
func (s *Source) UnmarshalText(text []byte) error { return fromName(s, text, sourceNames[:], "source") }

// A Method is the SIP request that carried the attempt, where the source tells.
type Method uint8

// The methods.
const (
	AnyMethod Method = iota // not told
	Register
	Invite
	NumMethods
)

var methodNames = [NumMethods]string{"", "REGISTER", "INVITE"}

func (m Method) String() string { return methodNames[m] }

// MarshalText writes the name.
func (m Method) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the name.
func (m *Method) UnmarshalText(text []byte) error { return fromName(m, text, methodNames[:], "method") }

func fromName[T ~uint8](to *T, text []byte, names []string, what string) error {
	for i, n := range names {
		if n == string(text) {
			*to = T(i)
			return nil
		}
	}
	return fmt.Errorf("%s %.40q is none of %q", what, text, names)
}
