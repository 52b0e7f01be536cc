package policy

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"time"
)

// An Engine holds counts and records of all addresses and users.
type Engine struct {
	opts  Options
	rules *ruleset
	never NeverBan
	seed  maphash.Seed // of the hashes of users and addresses
	now   int64        // the newest time seen, in unix milliseconds: no clock runs here
	clock clock

	pool     pool // the windows of trackers
	trackers table[key, tracker]
	evidence evidence
	waiting  waiting
	known    known
	stuck    table[phone, StuckPhone]
	users    users
	offences offences
	unsaved  unsaved
	graces   graces
	guards   guards
	spared   []SparedCount // for each never-ban entry

	replay  replay
	pending pendingOutput
}

// A clock holds the times of Advance. Times are unix milliseconds.
type clock struct {
	last   int64 // of the last Advance; 0: none yet
	newest int64 // of a restored record, until the next Advance
}

// guards hold bans.
type guards struct {
	outage    outage
	rate      rate
	knownGood rate // of bans of known-good addresses
	held      held
	forged    forged
	known     uint64 // bans of known-good addresses since the start
}

// of returns the rate of a guard, or nil.
func (g *guards) of(guard Guard) *rate {
	switch guard {
	case RateGuard:
		return &g.rate
	case KnownGoodGuard:
		return &g.knownGood
	case NoGuard, OutageGuard, NumGuards:
	}
	return nil
}

// pendingOutput is output that the caller has not received yet.
type pendingOutput struct {
	reports   []Report   // on the attempt in hand
	decisions []Decision // made by time
}

// NewEngine returns an engine for rules, which package config has validated. It passes over rules beyond MaxRules.
func NewEngine(rules []Rule, never NeverBan, opts Options) *Engine {
	e := &Engine{seed: maphash.MakeSeed()}
	e.opts = opts.withDefaults()
	e.evidence = newEvidence(e.opts.KeepEvidence)
	e.trackers = newTable[key](0, func(_ key, t *tracker) { e.pool.clear(&t.window) })
	e.known.table = newTable[key](0, func(k key, h *knownRecord) {
		e.known.leave(h)
		e.known.own(h.owner, -1)
		e.unsaved.markKnownGood(k)
	})
	e.stuck = newTable[phone, StuckPhone](0, nil)
	e.users.init()
	e.offences.table = newTable[key](0, func(k key, _ *offence) { e.unsaved.markOffence(k) })
	e.offences.wide = newTable[key, wideRecord](maxWide, nil)
	e.waiting = newWaiting()
	e.graces = newGraces()
	e.guards.outage = newOutage()
	e.guards.held.table = newTable[key](0, func(_ key, h *HeldBan) { e.guards.held.count(h, -1) })
	e.rules = newRuleset(nil, &e.opts)
	if opts.Records {
		e.unsaved = newUnsaved()
	}
	e.SetRules(rules, opts)
	e.SetNeverBan(never)
	return e
}

// SetRules puts other rules and options into force. Windows are kept for rules that count the same as before under the
// same name; findtime, maxretry and bantime may differ. KeepEvidence stays as it was.
func (e *Engine) SetRules(rules []Rule, opts Options) {
	e.opts = opts.withDefaults()
	o := &e.opts
	e.never.translation = translation{o.NAT64Prefixes}
	e.pool.limit = max(o.MaxHits/len(block{}.hits), 64)
	e.trackers.limit = o.MaxTracked
	e.known.limit, e.guards.outage.failing.limit, e.guards.outage.phones.limit = o.MaxKnown, o.MaxKnown, maxOutagePhones
	e.stuck.limit = o.MaxStuck
	e.users.set(o)
	e.offences.limit = o.MaxOffenders
	e.waiting.limit = o.MaxWaiting
	e.guards.held.limit = o.MaxHeld
	e.guards.rate.set(o.BanRate, minuteMS)
	e.guards.knownGood.set(o.KnownGoodBanRate, o.OfficeFindTime.Milliseconds())
	next := newRuleset(rules, o)
	bit := e.rules.successor(next)
	for _, t := range e.trackers.all() {
		e.pool.rename(&t.window, &bit)
	}
	e.rules = next
}

// Rules returns the rules in force. The caller must not change them.
func (e *Engine) Rules() []Rule { return e.rules.public() }

// Observe counts a and returns the decision on it. Each rule that counts it has its own window (t-FindTime, t], t being the
// newest attempt, so attempts may come late and out of order. The ban falls on attempt number MaxRetry; of several rules
// that ban at once the one with the longest BanTime does, and every count of the address starts again from zero.
//
// It allocates nothing for an address that it already knows, unless it bans or reports. Attempts of long ago, replayed in
// the order of their times, lead to the same state as when they were new.
func (e *Engine) Observe(a Attempt) Decision {
	e.advanceTo(a.At.UnixMilli())
	s := e.examine(a)
	d := Decision{Prefix: s.prefix}
	if !s.prefix.IsValid() || a.Kind >= NumKinds { // no source may send this
		return d
	}
	e.pending.reports = e.pending.reports[:0]
	if s.known {
		if h := e.known.get(s.knownKey); !h.applied { // it was restored
			e.applyKnownGood(&s)
			h.applied = true
		}
	}
	switch a.Kind {
	case AuthSuccess:
		e.observeSuccess(&s, &d)
	case AuthFailure:
		e.observeFailure(&s)
	case Challenge:
		e.observeChallenge(&s)
	}
	d.KnownGood = s.known
	e.count(&s, &d)
	if len(e.pending.reports) > 0 {
		d.Reports = e.pending.reports
	}
	return d
}

// HasCounts reports whether exactly prefix has counts, waiting challenges or a held ban.
func (e *Engine) HasCounts(prefix netip.Prefix) bool {
	k := keyOf(prefix.Masked())
	return e.trackers.get(k) != nil || e.guards.held.get(k) != nil || e.waiting.chains.get(k) != nil
}

// Forget unbans: it drops the counts and held bans of every address in prefix, and for the time
// of Options.Grace nothing counts against them. The newest offence of prefix goes too if its ban would still be in force: a
// withdrawn ban makes no later ban longer. Forget returns the offences that remain on record, and whether they have changed.
func (e *Engine) Forget(prefix netip.Prefix, now time.Time) (left Offence, changed bool) {
	e.advanceTo(now.UnixMilli())
	prefix = prefix.Masked()
	e.pending.decisions = slices.DeleteFunc(e.pending.decisions, func(d Decision) bool { // overtaken
		return d.Prefix.IsValid() && d.Prefix.Overlaps(prefix)
	})
	k := keyOf(prefix)
	if prefix == e.Prefix(prefix.Addr()) {
		e.trackers.remove(k)
		e.waiting.answerAll(k)
		e.guards.held.remove(k)
	} else {
		for k := range e.trackers.all() {
			if prefix.Overlaps(k.prefix()) {
				e.trackers.remove(k)
			}
		}
		for k := range e.waiting.chains.all() {
			if prefix.Overlaps(k.prefix()) {
				e.waiting.answerAll(k)
			}
		}
		e.guards.held.drop(func(h *HeldBan) bool { return h.Prefix.Bits() >= prefix.Bits() && prefix.Contains(h.Prefix.Addr()) })
	}
	if e.opts.Grace > 0 {
		e.graces.add(prefix, prefix == e.Prefix(prefix.Addr()), e.now+e.opts.Grace.Milliseconds())
	}
	if e.replay.active {
		return left, false
	}
	return e.withdrawOffence(k)
}
