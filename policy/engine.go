package policy

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// An Engine holds what is known of all addresses and users.
type Engine struct {
	opts  Options
	rules *ruleset
	never NeverBan
	seed  maphash.Seed // of the hashes of users and addresses
	now   int64        // the newest time seen, in unix milliseconds: no clock runs here

	pool     pool // the windows of trackers
	trackers table[key, tracker]
	evidence evidence
	waiting  waiting
	known    known
	stuck    table[phone, StuckPhone]
	users    users
	offences table[key, offence]
	graces   graces
	outage   outage
	rate     rate
	held     held
	spared   []SparedCount // for each never-ban entry

	reports []Report   // of the attempt in hand
	ready   []Decision // of the time that has passed, for Advance
}

// NewEngine returns an engine for rules, which package config has validated. It passes over rules beyond MaxRules.
func NewEngine(rules []Rule, never NeverBan, opts Options) *Engine {
	e := &Engine{seed: maphash.MakeSeed()}
	e.opts = opts.withDefaults()
	e.evidence = newEvidence(e.opts.KeepEvidence)
	e.trackers = newTable[key](0, func(t *tracker) { e.pool.clear(&t.window) })
	e.known = newKnown()
	e.stuck = newTable[phone, StuckPhone](0, nil)
	e.users.init()
	e.offences = newTable[key, offence](0, nil)
	e.waiting = newWaiting()
	e.graces = newGraces()
	e.outage = newOutage()
	e.held.table = newTable[key](0, func(h *HeldBan) { e.held.by[h.Guard]-- })
	e.rules = newRuleset(nil, &e.opts)
	e.SetRules(rules, opts)
	e.SetNeverBan(never)
	return e
}

// SetRules puts other rules and options into force. Windows are kept for rules that count the same as before under the
// same name; what findtime, maxretry and bantime are may change. KeepEvidence stays as it was.
func (e *Engine) SetRules(rules []Rule, opts Options) {
	e.opts = opts.withDefaults()
	o := &e.opts
	e.pool.limit = max(o.MaxHits/len(block{}.hits), 64)
	e.trackers.limit = o.MaxTracked
	e.known.limit, e.outage.failing.limit = o.MaxKnown, o.MaxKnown
	e.stuck.limit = o.MaxStuck
	e.users.set(o)
	e.offences.limit = o.MaxOffenders
	e.waiting.limit = o.MaxWaiting
	e.held.limit = o.MaxHeld
	e.rate.set(o.BanRate)
	next := newRuleset(rules, o)
	bit := e.rules.successor(next)
	for _, t := range e.trackers.all() {
		e.pool.rename(&t.window, &bit)
	}
	e.rules = next
}

// Rules returns the rules in force. The caller must not change them.
func (e *Engine) Rules() []Rule { return e.rules.public() }

// Observe counts a and says what to do now. Each rule that counts it has its own window (t-FindTime, t], t being the
// newest attempt, so attempts may come late and out of order. The ban falls on attempt number MaxRetry; of several rules
// that ban at once the one with the longest BanTime does, and every count of the address starts again from zero.
//
// It allocates nothing for an address that it already knows, unless it bans or reports. Attempts of long ago, replayed in
// the order of their times, lead to the same state as when they were new.
func (e *Engine) Observe(a Attempt) Decision {
	e.pass(a.At.UnixMilli())
	s := e.sight(a)
	d := Decision{Prefix: s.prefix}
	if !s.prefix.IsValid() || a.Kind >= NumKinds { // no source may send this
		return d
	}
	e.reports = e.reports[:0]
	switch a.Kind {
	case AuthSuccess:
		e.succeeded(&s, &d)
	case AuthFailure:
		e.failed(&s)
	case Challenge:
		e.challenged(&s)
	}
	d.KnownGood = s.known
	e.count(&s, &d)
	if len(e.reports) > 0 {
		d.Reports = e.reports
	}
	return d
}

// Forget unbans: it drops what is counted of every address in prefix and the bans that are held of them, and for the time
// of Options.Grace nothing counts against them. The newest offence of prefix goes too, if its ban would still be in force: what an operator takes back
// makes no later ban longer. Forget returns the offences that remain on record, and whether they have changed.
func (e *Engine) Forget(prefix netip.Prefix, now time.Time) (left Offence, changed bool) {
	e.pass(now.UnixMilli())
	prefix = prefix.Masked()
	k := keyOf(prefix)
	if prefix == e.Prefix(prefix.Addr()) {
		e.trackers.remove(k)
		e.waiting.forgive(k)
		e.held.remove(k)
	} else {
		for k := range e.trackers.all() {
			if prefix.Overlaps(k.prefix()) {
				e.trackers.remove(k)
			}
		}
		for k := range e.waiting.chains.all() {
			if prefix.Overlaps(k.prefix()) {
				e.waiting.forgive(k)
			}
		}
		e.held.drop(func(h *HeldBan) bool { return h.Prefix.Bits() >= prefix.Bits() && prefix.Contains(h.Prefix.Addr()) })
	}
	if e.opts.Grace > 0 {
		e.graces.give(prefix, prefix == e.Prefix(prefix.Addr()), e.now+e.opts.Grace.Milliseconds())
	}
	return e.takeBack(k)
}
