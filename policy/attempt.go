// Package policy decides which addresses are banned, and for how long.
//
// An Engine counts the attempts of each address in sliding windows, one for each rule. It knows the addresses from which
// somebody has logged in lately and is milder with them, remembers past bans, watches users under attack, and holds bans
// when there are suspiciously many.
//
// It does no I/O, starts no goroutine and never reads the clock: time arrives with the attempts, so that replaying a
// recording next year gives the same bans. Every table is bounded, and evictions are counted. An
// Engine is not safe for concurrent use; package daemon owns the only one.
package policy

import (
	"fmt"
	"net/netip"
	"time"
)

// An Attempt is one login, call or other request by a remote address, as one source reported it.
type Attempt struct {
	Addr       netip.Addr `json:"addr"` // the remote end; never IPv4-mapped, never the zero Addr
	At         time.Time  `json:"at"`   // when FreeSWITCH saw it, not when we read it
	Kind       Kind       `json:"kind"`
	Source     Source     `json:"source"`
	Method     Method     `json:"method,omitempty"`
	Transport  Transport  `json:"transport,omitempty"`
	Proof      Proof      `json:"proof,omitempty"`
	User       string     `json:"user,omitempty"`   // as claimed by the peer: untrusted, may be empty, never a label, quoted when logged
	Number     string     `json:"number,omitempty"` // user of To, if it is not User: the number that a call dialled; as untrusted as User
	Domain     string     `json:"domain,omitempty"`
	Profile    string     `json:"profile,omitempty"`
	UserAgent  string     `json:"user_agent,omitempty"`
	Detail     string     `json:"detail,omitempty"` // Malformed: the fault; Exploit: the advisory; a closed set each
	ReportedAt time.Time  `json:"clock,omitzero"`   // when FreeSWITCH says it was, where its clock is so far off that At is when we read it
}

// SwitchTime returns the time of a by the clock of FreeSWITCH, however far off that is.
func (a *Attempt) SwitchTime() time.Time {
	if a.ReportedAt.IsZero() {
		return a.At
	}
	return a.ReportedAt
}

// CorrectTime sets the time of a, because the clock of FreeSWITCH is off, and keeps the reported time in ReportedAt.
func (a *Attempt) CorrectTime(now time.Time) { a.ReportedAt, a.At = a.At, now }

// A Kind is the kind of an attempt. The set is closed and small: safe as a metric label.
type Kind uint8

// The kinds.
const (
	AuthFailure Kind = iota // credentials were presented and refused
	Challenge               // no credentials yet: ordinary phones do this all day
	AuthSuccess             // the password was right
	Violation               // other reports of mod_cti: an irregular message, a number that is not allowed
	ACLReject               // an access list of FreeSWITCH's refused the address
	CallReject              // a call without credentials that the dialplan did not take, or to a number that is not allowed
	Scan                    // a request of a scanner: without credentials, from an address that has never logged in
	Malformed               // a SIP message that cannot be parsed
	Flood                   // more requests of one address than FreeSWITCH answers
	Exploit                 // a request that matches a published attack on FreeSWITCH
	NumKinds
)

var kindNames = [NumKinds]string{"auth_failure", "challenge", "auth_success", "violation", "acl_reject", "call_reject", "scan",
	"malformed", "flood", "exploit"}

// Kinds lists all kinds.
func Kinds() []Kind {
	return []Kind{AuthFailure, Challenge, AuthSuccess, Violation, ACLReject, CallReject, Scan, Malformed, Flood, Exploit}
}

// OnWire reports whether only SIP messages on the wire show attempts of k.
func (k Kind) OnWire() bool { return k >= Scan && k <= Exploit }

// Detailed reports whether attempts of k have a Detail.
func (k Kind) Detailed() bool { return k == Malformed || k == Exploit }

// Forgeable reports whether attempts of k need no answer of FreeSWITCH, so that over UDP nothing ever proves their address.
func (k Kind) Forgeable() bool { return k == Challenge || k.OnWire() }

func (k Kind) String() string { return kindNames[k] }

// MarshalText and UnmarshalText write and read the name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the name.
func (k *Kind) UnmarshalText(text []byte) error { return fromName(k, text, kindNames[:], "kind") }

// A Source reports attempts or orders bans. The set is closed and small: safe as a metric label.
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
	SIP                    // SIP messages as they cross the wire
	NumSources
)

var sourceNames = [NumSources]string{"event", "operator", "kernel", "cti_log", "cti_event", "esl_log", "fleet", "sip"}

func (s Source) String() string { return sourceNames[s] }

// MarshalText writes the name.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name.
func (s *Source) UnmarshalText(text []byte) error { return fromName(s, text, sourceNames[:], "source") }

// A Method is the SIP request that carried the attempt, where the source tells.
type Method uint8

// The methods.
const (
	UnknownMethod Method = iota // not told
	Register
	Invite
	Subscribe
	Message
	Publish
	OtherMethod
	OptionsMethod
	NumMethods
)

var methodNames = [NumMethods]string{"", "REGISTER", "INVITE", "SUBSCRIBE", "MESSAGE", "PUBLISH", "other", "OPTIONS"}

func (m Method) String() string { return methodNames[m] }

// MarshalText writes the name.
func (m Method) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the name.
func (m *Method) UnmarshalText(text []byte) error { return fromName(m, text, methodNames[:], "method") }

// A Transport is the transport of the SIP request that carried the attempt, if a tap saw it.
type Transport uint8

// The transports. WebSocket connections count as TCP or TLS.
const (
	UnknownTransport Transport = iota
	UDP
	TCP
	TLS
	NumTransports
)

var transportNames = [NumTransports]string{"", "UDP", "TCP", "TLS"}

func (t Transport) String() string { return transportNames[t] }

// MarshalText writes the name.
func (t Transport) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the name.
func (t *Transport) UnmarshalText(text []byte) error {
	return fromName(t, text, transportNames[:], "transport")
}

// A Proof is the evidence that the sender of an attempt has its address: source addresses of UDP packets can be forged.
type Proof uint8

// The proofs.
const (
	UnknownProof  Proof = iota // the source has no evidence, or cannot have any
	TCPProof                   // an established connection, over TCP or TLS
	NonceProof                 // the credentials answer a nonce that was sent to this address
	PasswordProof              // the same, and the password was right
	NoProof                    // a tap saw the transaction, and nothing proves that the sender has its address
	NumProofs
)

var proofNames = [NumProofs]string{"", "tcp", "nonce", "password", "none"}

func (p Proof) String() string { return proofNames[p] }

// MarshalText writes the name.
func (p Proof) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads the name.
func (p *Proof) UnmarshalText(text []byte) error { return fromName(p, text, proofNames[:], "proof") }

func fromName[T ~uint8](to *T, text []byte, names []string, what string) error {
	for i, n := range names {
		if n == string(text) {
			*to = T(i)
			return nil
		}
	}
	return fmt.Errorf("%s %.40q is none of %q", what, text, names)
}
