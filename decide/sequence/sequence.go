// Package sequence passes attempts through the arbiter of sources and the policy, in the order in which the daemon decides on
// them. The daemon's loop and a replay of recordings share it; they differ in the effects.
//
// It is pure: time is an argument. A Sequence is not safe for concurrent use.
package sequence

import (
	"net/netip"
	"slices"
	"time"

	"fsban/detect"
	"fsban/policy"
)

// Effects carry out the decisions of a Sequence. Attempts and decisions that they are passed are valid until they return.
type Effects interface {
	// Counted notes an attempt that is no duplicate, read at a time.
	Counted(a *policy.Attempt, read time.Time)
	// Ignores reports whether the policy does not see a, because the prefix that a counts for is banned at read, or because that ban
	// was withdrawn after a.
	Ignores(a *policy.Attempt, prefix netip.Prefix, read time.Time) bool
	// Decided carries out the decision on a.
	Decided(a *policy.Attempt, d *policy.Decision, read time.Time)
	// Due carries out a decision that time has made, at now or earlier.
	Due(d *policy.Decision, now time.Time)
}

// A Sequence decides on attempts. It owns neither the arbiter nor the engine.
type Sequence struct {
	arbiter *detect.Arbiter
	engine  *policy.Engine
	effects Effects

	// The attempt and the decision in hand: here, so that none escapes to the heap.
	attempt  policy.Attempt
	decision policy.Decision
}

// New returns a Sequence.
func New(arbiter *detect.Arbiter, engine *policy.Engine, effects Effects) *Sequence {
	return &Sequence{arbiter: arbiter, engine: engine, effects: effects}
}

// Attempt decides on a report of a source, read at a time. A duplicate of another source's report counts once.
func (s *Sequence) Attempt(a *policy.Attempt, read time.Time) {
	if s.arbiter.Counts(a, read) {
		s.Count(a, read)
	}
}

// Count decides on an attempt that is no duplicate.
func (s *Sequence) Count(a *policy.Attempt, read time.Time) {
	s.attempt = *a
	a = &s.attempt
	s.effects.Counted(a, read)
	if s.effects.Ignores(a, s.engine.Prefix(a.Addr), read) {
		return
	}
	d := &s.decision
	*d = s.engine.Observe(*a)
	d.Reports = slices.Clone(d.Reports) // the engine reuses them
	s.settle(s.engine.Due(), read)      // first: it was due before
	s.effects.Decided(a, d, read)
}

// CountMissed decides on reports that the active source missed before it failed.
func (s *Sequence) CountMissed(now time.Time) {
	for _, a := range s.arbiter.Due(now) {
		s.Count(&a, now)
	}
}

// Advance carries out the decisions that time has made until now.
func (s *Sequence) Advance(now time.Time) { s.settle(s.engine.Advance(now), now) }

func (s *Sequence) settle(due []policy.Decision, now time.Time) {
	for i := range due {
		s.effects.Due(&due[i], now)
	}
}
