package policy

import (
	"net/netip"
	"time"
)

// A Record is a change that must outlive the process: the new record of Prefix, or nil if there is none any more.
type Record[T any] struct {
	Prefix netip.Prefix
	Value  *T
}

// unsaved holds the prefixes whose records have changed. The zero value holds none.
type unsaved struct{ knownGoodKeys, offenceKeys map[key]struct{} }

func newUnsaved() unsaved {
	return unsaved{make(map[key]struct{}), make(map[key]struct{})}
}

func (u *unsaved) markKnownGood(k key) {
	if u.knownGoodKeys != nil {
		u.knownGoodKeys[k] = struct{}{}
	}
}

func (u *unsaved) markOffence(k key) {
	if u.offenceKeys != nil {
		u.offenceKeys[k] = struct{}{}
	}
}

// discard drops the change of a known-good address that is on disk already.
func (u *unsaved) discard(k key) { delete(u.knownGoodKeys, k) }

// Unsaved returns the records that have changed since its last call, each once and as it is now. An attempt, a guard, an order,
// time or the bounds of memory may have changed them. It needs Options.Records. SetKnownGood and SetOffence restore saved records.
func (e *Engine) Unsaved() (known []Record[KnownGood], offences []Record[Offence]) {
	for k := range e.unsaved.knownGoodKeys {
		r := Record[KnownGood]{Prefix: k.prefix()}
		if h := e.known.get(k); h != nil && !e.recordExpired(h) {
			g := h.public(r.Prefix)
			r.Value = &g
		}
		known = append(known, r)
	}
	for k := range e.unsaved.offenceKeys {
		r := Record[Offence]{Prefix: k.prefix()}
		if o, ok := e.Offence(r.Prefix); ok {
			r.Value = &o
		}
		offences = append(offences, r)
	}
	if len(known)+len(offences) > 0 {
		e.unsaved = newUnsaved() // a cleared map keeps its memory
	}
	return known, offences
}

// Replay counts an attempt from the journal of an earlier process: each attempt with Decision.Journal set, in that order.
// The records of KnownGood and Offence must be restored before: they are right, and a replay changes none of them.
//
// A replay makes no ban. An attempt that a ban on record has punished does not count again, however that ban ended. A ban that a
// rule would make now, because a guard held it or because rules have changed, is held, and made by Advance afterwards.
//
// A challenge that no rule counts at once is in the journal because nobody answered it.
func (e *Engine) Replay(a Attempt) {
	defer e.replay.begin(e, a.At)()
	if s := e.examine(a); a.Kind == Challenge && s.immediate == 0 && s.deferred != 0 {
		e.advanceTo(s.ms + e.opts.ChallengeWait.Milliseconds())
		e.countUnanswered(challenge{attempt: s.Attempt})
		return
	}
	e.Observe(a)
}

// ReplayForget repeats a Forget, between the attempts of a journal.
func (e *Engine) ReplayForget(prefix netip.Prefix, at time.Time) {
	defer e.replay.begin(e, at)()
	e.Forget(prefix, at)
}

// replay is the state of Replay.
type replay struct {
	active bool
	since  int64 // time of the first entry; 0: none
}

// begin begins to replay an entry; the function that it returns ends that.
func (r *replay) begin(e *Engine, at time.Time) (end func()) {
	if r.since == 0 {
		r.since = at.UnixMilli()
	}
	r.active = true
	return func() { r.active, e.pending.decisions = false, nil }
}
