package merge

import (
	"net/netip"
	"slices"
	"time"

	"fsban/policy"
)

// Kind is the kind of a statement. The set is closed and small: safe as a metric label.
type Kind uint8

// Kinds of statements.
const (
	Ban      Kind = iota // Prefix is banned from Since until Until
	Unban                // the ban of Prefix is withdrawn; the withdrawal expires at Until
	Allow                // Prefix is on the never-ban list until Until
	Disallow             // the allowance of Prefix is withdrawn; the withdrawal expires at Until
	Known                // Prefix is known-good since Since, with the latest login at Last
	Attempt              // an attempt, and earlier ones that are equal but for their times
	NumKinds
)

var kindNames = [NumKinds]string{"ban", "unban", "allow", "disallow", "known", "attempt"}

func (k Kind) String() string { return kindNames[k] }

// A Statement is one announcement of one node. Times are by the local clock; on the wire they are by Redis' clock.
type Statement struct {
	Kind     Kind
	Prefix   netip.Prefix
	Stamp    int64  // microseconds of Redis' clock since 1970
	Node     string // node that made the statement
	Proposed int64  // the node's stamp if Redis chose an earlier one, else 0; set on receipt

	Since, Until, Last time.Time // Until is zero for a statement without end
	Rule               string
	Source             string
	By, Reason         string
	Count              int // attempts that led to the ban
	Offence            int // ordinal of this ban among the prefix's bans, 0 if unknown

	Attempt policy.Attempt
	Earlier []time.Time // times of further equal attempts, ascending, none after Attempt.At
}

// Key returns the ban or allowance that a Ban, Unban, Allow or Disallow is about.
func (s *Statement) Key() Key {
	if s.Kind == Allow || s.Kind == Disallow {
		return Key{Allowances, s.Prefix}
	}
	return Key{Bans, s.Prefix}
}

func (s *Statement) stamp() Stamp { return Stamp{s.Stamp, s.Node} }

// A Refusal is the reason why a statement of another node is not applied. The set is closed and small: safe as a metric label.
type Refusal uint8

// Refusals.
const (
	Malformed Refusal = iota
	Version           // of the wire format
	TooWide           // a prefix wider than this node's ipv4_prefix or ipv6_prefix
	NeverBan          // on this node's never-ban list
	Rate              // beyond the rate of remote bans: applied later
	Full              // no room for another ban or allowance
	NumRefusals
)

var refusalNames = [NumRefusals]string{"malformed", "version", "too_wide", "never_ban", "rate", "full"}

func (r Refusal) String() string { return refusalNames[r] }

// Step moves the times of s by a step of the local clock. Its stamp is by Redis' clock.
func (s *Statement) Step(by time.Duration) {
	for _, t := range []*time.Time{&s.Since, &s.Until, &s.Last, &s.Attempt.At} {
		*t = step(*t, by)
	}
	s.Earlier = slices.Clone(s.Earlier)
	for i := range s.Earlier {
		s.Earlier[i] = step(s.Earlier[i], by)
	}
}
