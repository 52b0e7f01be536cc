package policy

import (
	"net/netip"
	"slices"
	"time"
)

// An AddressState is the complete state of one address.
type AddressState struct {
	Prefix    netip.Prefix // the prefix that counts as one attacker
	Rules     []RuleCount  // the rules that count something of it now
	Waiting   int          // challenges that may still be answered
	Never     *NeverEntry  // the never-ban entry of the address, or nil
	KnownGood *KnownGood   // nil: neither known-good nor with a suspicious login
	Offence   *Offence     // its past bans, or nil
	Held      *HeldBan     // the ban that a guard holds, or nil
	Excused   bool         // a ban of it was lifted a moment ago: nothing counts
	Stuck     []StuckPhone // at this address
	Evidence  []Attempt    // the last attempts that count, oldest first; 32 at most

	// Decision on an auth_failure now, without Evidence and Reports.
	Next        *Decision // of the user and the phone that failed last; nil where that is not known
	NextNewUser Decision  // of a user that was not tried yet, and the same phone
}

// A RuleCount is how far an address is with one rule.
type RuleCount struct {
	Rule  *Rule // not to be changed
	Count int   // of Rule.MaxRetry, in the window that ends now
}

// A GuardState is the state of a guard.
type GuardState struct {
	Active         bool
	Since          time.Time // zero where it is not active
	Current, Limit int       // known-good addresses that fail and may fail, or bans made and allowed in the period of a rate
	Held           int       // bans that it holds
}

// A SparedCount counts the attempts and bans that a never-ban entry has prevented.
type SparedCount struct {
	NeverEntry
	Attempts uint64 // that would have been counted
	Bans     uint64 // that would have been made
}

// Stats count the entries of an Engine, and evictions because of its bounds.
type Stats struct {
	Tracked, Known, Users, Offenders, Stuck, Waiting, Held int

	Evicted             uint64 // addresses forgotten because MaxTracked others were seen since, or MaxHits attempts
	KnownForgotten      uint64 // known-good addresses not remembered because of MaxKnown or MaxPerAccount
	UsersForgotten      uint64 // users forgotten because of MaxUsers others, or because many addresses failed on many users
	OffendersForgotten  uint64 // records of offences evicted because of MaxOffenders
	StuckForgotten      uint64 // stuck phones forgotten because of MaxStuck
	ChallengesForgotten uint64 // challenges that count as answered because of MaxWaiting
	KnownBans           uint64 // bans of known-good addresses
	ForgedKnown         uint64 // forged failures of known-good addresses
	ForgedNever         uint64 // and of never-ban addresses
	HeldLost            uint64 // bans neither made nor held because of MaxHeld
}

// Stats returns the engine's counts.
func (e *Engine) Stats() Stats {
	return Stats{
		Tracked: e.trackers.length, Known: e.known.length, Users: e.users.length, Offenders: e.offences.length,
		Stuck: e.stuck.length, Waiting: int(e.waiting.next - e.waiting.oldest), Held: e.guards.held.length,
		Evicted: e.trackers.evicted, KnownForgotten: e.known.evicted + e.known.refused, UsersForgotten: e.users.evicted,
		OffendersForgotten: e.offences.evicted, StuckForgotten: e.stuck.evicted, ChallengesForgotten: e.waiting.dropped,
		HeldLost: e.guards.held.lost, KnownBans: e.guards.known, ForgedKnown: e.guards.forged.known, ForgedNever: e.guards.forged.never,
	}
}

// Why returns the state of an address, as of the newest time that the engine has seen.
func (e *Engine) Why(addr netip.Addr) AddressState {
	s := e.examine(Attempt{Addr: addr})
	w := AddressState{Prefix: s.prefix}
	if !s.prefix.IsValid() {
		return w
	}
	if s.never >= 0 {
		w.Never = &e.never.entries[s.never]
	}
	w.Waiting = e.waiting.count(s.key)
	w.Excused = e.graces.covers(&s, e.now)
	if t := e.trackers.get(s.key); t != nil {
		w.Rules = e.counts(&t.window)
		w.Evidence = e.evidence.chain(t.last, s.prefix, 32)
	}
	if g, ok := e.KnownGood(addr); ok {
		w.KnownGood = &g
	}
	if o, ok := e.Offence(s.prefix); ok {
		w.Offence = &o
	}
	if h := e.guards.held.get(s.key); h != nil && !h.endedBy(e.now) {
		ban := *h
		w.Held = &ban
	}
	w.Stuck = slices.DeleteFunc(e.StuckPhones(), func(p StuckPhone) bool { return !s.prefix.Contains(p.Addr) })
	e.predictNext(&w, &s)
	return w
}

// counts returns how far each rule is that counts something in w now.
func (e *Engine) counts(w *window) (list []RuleCount) {
	for i := range e.rules.rules {
		r := &e.rules.rules[i]
		if n := e.pool.within(w, i, e.now-r.FindTime.Milliseconds()); n > 0 {
			list = append(list, RuleCount{r, n})
		}
	}
	return list
}

// Guards returns the states of the guards.
func (e *Engine) Guards() map[Guard]GuardState {
	states := make(map[Guard]GuardState)
	for g := NoGuard + 1; g < NumGuards; g++ {
		states[g] = e.guardState(g)
	}
	return states
}

func (e *Engine) guardState(g Guard) GuardState {
	s := GuardState{Active: e.guards.outage.active, Held: e.guards.held.by[g]}
	since := e.guards.outage.since
	if r := e.guards.of(g); r != nil {
		s.Active, s.Current, s.Limit, since = r.active, r.inPeriod(e.now), len(r.bans), r.since
	} else {
		s.Current, s.Limit = e.failingKnownGood(), e.outageLimit()
	}
	if s.Active {
		s.Since = time.UnixMilli(since)
	}
	return s
}

// NeverBan returns the never-ban list.
func (e *Engine) NeverBan() NeverBan { return e.never }

// SetNeverBan replaces the never-ban list. It drops held bans of prefixes on the new list. Counts of an entry are kept if the new list
// has the same prefix.
func (e *Engine) SetNeverBan(n NeverBan) {
	before := make(map[netip.Prefix]SparedCount)
	for _, s := range e.spared {
		if s.Attempts > 0 {
			before[s.Prefix] = s
		}
	}
	e.never = n
	e.never.translation = translation{e.opts.NAT64Prefixes}
	e.spared = make([]SparedCount, len(n.entries))
	for i, entry := range n.entries {
		old := before[entry.Prefix]
		e.spared[i] = SparedCount{NeverEntry: entry, Attempts: old.Attempts, Bans: old.Bans}
	}
	e.guards.held.drop(func(h *HeldBan) bool { return n.index(h.Prefix) >= 0 })
}

// SparedCounts returns the counts of each never-ban entry that has prevented anything.
func (e *Engine) SparedCounts() []SparedCount {
	return slices.DeleteFunc(slices.Clone(e.spared), func(s SparedCount) bool { return s.Attempts == 0 })
}
