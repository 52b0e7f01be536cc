package policy

import (
	"iter"
	"math"
	"net/netip"
	"time"
)

// A KnownGood address is one from which somebody has registered with a right password lately: over UDP nothing else
// proves that an address is not forged. It is an IPv4 address, also in its IPv6 form behind a
// translator, or an IPv6 prefix as it is counted.
//
// It is not immune. But of its auth_failures, rules that do not ask for a user agent count each user's as one, the
// newest: a phone with an old password must not cut off its office. OfficeMaxRetry failures in all ban it. A ban ends the
// status.
type KnownGood struct {
	Prefix    netip.Prefix `json:"prefix"`
	Since     time.Time    `json:"since,omitzero"`     // zero: it is not known-good, there was only a suspicious login
	Last      time.Time    `json:"last,omitzero"`      // its last success
	Suspected time.Time    `json:"suspected,omitzero"` // a suspicious login, which keeps it from becoming known-good
	Account   uint64       `json:"account,omitempty"`  // hash of the account that made it known-good; 0: unknown
}

// known are the known-good addresses, and those with a suspicious login. The counts follow from when each was seen, so they are
// the same after a restart.
type known struct {
	table[key, knownRecord]
	hour     int64 // the hour of the newest sight, since 1970
	thisHour int   // known-good addresses that were last seen in it
	lastHour int   // and in the one before

	owned   [131_071]uint16 // records of accounts, by their hash: a few accounts share a number
	refused uint64          // addresses not remembered: the table was full, or their account has MaxPerAccount others
}

// A knownRecord is the record of a known-good address. Times are unix milliseconds.
type knownRecord struct {
	since, last int64   // 0: not known-good
	suspected   int64   // 0: no
	owner       account // the account that made it known-good, or that logged in when it was suspected; 0: unknown
	seen        int64   // its last success or failure while it was known-good; 0: none
	applied     bool    // arrive has been called
}

func (e *Engine) isKnown(k key) bool {
	h := e.known.get(k)
	return h != nil && e.isKnownRecord(h)
}

func (e *Engine) isKnownRecord(h *knownRecord) bool {
	arrived := h.applied || !e.replay.active || h.since < e.replay.since
	return h.since != 0 && arrived && e.now < h.last+e.opts.KnownFor.Milliseconds()
}

// recordExpired reports whether h has no effect any more.
func (e *Engine) recordExpired(h *knownRecord) bool {
	return !e.isKnownRecord(h) && (h.suspected == 0 || e.now >= h.suspected+max(e.opts.KnownFor, e.opts.TrustAfter).Milliseconds())
}

// observeSuccess applies an auth_success: it answers challenges, and the address becomes known-good unless the login is suspicious or,
// by a tap, perhaps forged.
func (e *Engine) observeSuccess(s *observation, d *Decision) {
	if s.unproven() {
		return
	}
	e.waiting.answer(s.key, s.user)
	e.endStuckPhone(s)
	if e.opts.KnownFor < 0 {
		return
	}
	if e.replay.active {
		e.replayKnownGood(s)
		return
	}
	if !s.known && (e.suspicious(s, d) || !e.hasRoom(s.knownKey, ownerOf(s))) {
		return
	}
	h := e.known.touch(s.knownKey)
	if d.KnownGoodChanged = !s.known || s.ms/hourMS > h.last/hourMS; d.KnownGoodChanged {
		e.unsaved.markKnownGood(s.knownKey)
	}
	if !s.known {
		e.applyKnownGood(s)
		h = e.setKnown(s.knownKey, knownRecord{since: max(s.ms, 1), owner: ownerOf(s), applied: true})
		d.Journal = true
	} else if h.owner == 0 {
		h.owner = ownerOf(s)
		e.known.own(h.owner, 1)
		e.unsaved.markKnownGood(s.knownKey)
	}
	h.last = max(h.last, s.ms)
	e.known.noteSeen(h, s.ms)
	s.known = e.isKnownRecord(h)
}

// suspicious tells whether a success from an address that is not known-good must not make it so: after failures of its
// user, and then for TrustAfter.
func (e *Engine) suspicious(s *observation, d *Decision) bool {
	account := e.account(s.User, s.Domain)
	h := e.known.get(s.knownKey)
	suspected := h != nil && h.suspected != 0 && !e.recordExpired(h)
	if suspected && s.ms-h.suspected >= e.opts.TrustAfter.Milliseconds() {
		return false
	}
	if suspected && h.owner == ownerOf(s) {
		return true
	}
	if r, ok := e.loginEvidence(s, account); ok {
		if e.hasRoom(s.knownKey, ownerOf(s)) {
			e.setKnown(s.knownKey, knownRecord{suspected: max(s.ms, 1), owner: ownerOf(s)})
			d.KnownGoodChanged, d.Journal = true, true
		}
		e.users.remember(r)
		e.pending.reports = append(e.pending.reports, r)
		return true
	}
	return suspected
}

// ownerOf returns a hash of the account of s that is the same in every process. Nothing depends on its secrecy: whoever finds two accounts
// with the same one makes them count as one.
func ownerOf(s *observation) account {
	h := uint64(14695981039346656037) // FNV-1a
	for _, text := range [...]string{s.User, "@", s.Domain} {
		for i := range len(text) {
			h = (h ^ uint64(text[i])) * 1099511628211
		}
	}
	return account(h | 1)
}

// own counts the records of an account: one more or, with n -1, one less.
func (k *known) own(a account, n int) {
	if c := &k.owned[a%account(len(k.owned))]; a != 0 && *c < math.MaxUint16 { // which is too many to be counted
		*c = uint16(int(*c) + n)
	}
}

// hasRoom reports whether k may get a record of an account: it has one of it already, or the account has fewer than MaxPerAccount, and the
// table has room or a record that has expired. So the addresses known longest stay.
func (e *Engine) hasRoom(k key, owner account) bool {
	h := e.known.get(k)
	if h != nil && h.owner == owner {
		return true
	}
	_, oldest := e.known.first()
	full := h == nil && e.known.length >= e.known.limit && !e.recordExpired(oldest)
	if full || int(e.known.owned[owner%account(len(e.known.owned))]) >= e.opts.MaxPerAccount {
		e.known.refused++
		return false
	}
	return true
}

// applyKnownGood applies the rules of known-good addresses to the counts so far, when an address becomes known-good.
func (e *Engine) applyKnownGood(s *observation) {
	e.waiting.answerAll(s.key)
	k := s.knownKey
	if t := e.trackers.get(k); t != nil {
		e.pool.collapse(&t.window, e.rules.lenient)
	}
}

// replayKnownGood replays the success that made an address known-good.
func (e *Engine) replayKnownGood(s *observation) {
	if h := e.known.get(s.knownKey); h != nil && h.since == s.ms {
		h.applied = true
		e.applyKnownGood(s)
	}
}

// setKnown replaces the record of k.
func (e *Engine) setKnown(k key, h knownRecord) *knownRecord {
	to := e.known.touch(k)
	e.known.leave(to)
	e.known.own(to.owner, -1)
	*to = h
	e.known.own(to.owner, 1)
	e.known.enter(to)
	e.unsaved.markKnownGood(k)
	return to
}

// noteSeen records that a known-good address was seen.
func (k *known) noteSeen(h *knownRecord, ms int64) {
	if ms > h.seen {
		k.leave(h)
		h.seen = ms
		k.enter(h)
	}
}

// enter counts h by when it was seen, and leave takes that back.
func (k *known) enter(h *knownRecord) {
	k.roll(h.seen)
	if n := k.count(h); n != nil {
		*n++
	}
}

func (k *known) leave(h *knownRecord) {
	if n := k.count(h); n != nil {
		*n--
	}
}

func (k *known) count(h *knownRecord) *int {
	switch hour := h.seen / hourMS; {
	case h.seen == 0:
	case hour == k.hour:
		return &k.thisHour
	case hour == k.hour-1:
		return &k.lastHour
	}
	return nil
}

// active returns how many known-good addresses were seen in this hour or the one before.
func (k *known) active(now int64) int {
	k.roll(now)
	return k.thisHour + k.lastHour
}

func (k *known) roll(ms int64) {
	switch hour := ms / hourMS; {
	case hour == k.hour+1:
		k.hour, k.lastHour, k.thisHour = hour, k.thisHour, 0
	case hour > k.hour:
		k.hour, k.lastHour, k.thisHour = hour, 0, 0
	}
}

func (h *knownRecord) retime(r retiming) {
	r.past(&h.since)
	r.past(&h.last)
	r.past(&h.suspected)
	r.past(&h.seen)
}

func (e *Engine) retimeKnown(r retiming) {
	k := &e.known
	k.hour, k.thisHour, k.lastHour = 0, 0, 0
	for id, h := range k.all() {
		was := *h
		h.retime(r)
		if *h != was {
			e.unsaved.markKnownGood(id)
		}
	}
	for _, h := range k.all() {
		k.enter(h)
	}
}

// KnownGood returns the record of KnownGoodPrefix(addr). It reports false if there is nothing to save: neither a success that still
// counts nor a suspicious login.
func (e *Engine) KnownGood(addr netip.Addr) (KnownGood, bool) {
	p := e.KnownGoodPrefix(addr)
	if !p.IsValid() {
		return KnownGood{}, false
	}
	h := e.known.get(keyOf(p))
	if h == nil || e.recordExpired(h) {
		return KnownGood{}, false
	}
	return h.public(p), true
}

// AllKnownGood goes through all known-good addresses and those with a suspicious login, from the one longest unconfirmed.
func (e *Engine) AllKnownGood() iter.Seq[KnownGood] {
	return func(yield func(KnownGood) bool) {
		for k, h := range e.known.all() {
			if !e.recordExpired(h) && !yield(h.public(k.prefix())) {
				return
			}
		}
	}
}

// HasKnownGood reports whether there is a record of exactly prefix to save. Addresses in it may count one by one meanwhile, because the
// never-ban list holds one of them.
func (e *Engine) HasKnownGood(prefix netip.Prefix) bool {
	if !prefix.IsValid() {
		return false
	}
	h := e.known.get(keyOf(prefix.Masked()))
	return h != nil && !e.recordExpired(h)
}

// SetKnownGood restores a record, the one longest unconfirmed first: beyond MaxKnown that one is forgotten.
// After the first Advance it is a change for Unsaved.
func (e *Engine) SetKnownGood(g KnownGood) {
	if e.opts.KnownFor < 0 || !g.Prefix.IsValid() {
		return
	}
	h := knownRecord{since: unixMilli(g.Since), last: unixMilli(g.Last), suspected: unixMilli(g.Suspected), owner: account(g.Account)}
	if h.since != 0 {
		h.seen = h.last
	}
	k := keyOf(g.Prefix.Masked())
	e.setKnown(k, h)
	if e.clock.last == 0 {
		e.unsaved.discard(k)
	}
	e.clock.newest = max(e.clock.newest, h.since, h.last, h.suspected)
}

// EndKnownGood ends the status of every known-good address in prefix, because prefix was banned by something other than this engine.
// Only for a prefix of more than 256 of them does its cost grow with all that are known-good.
func (e *Engine) EndKnownGood(prefix netip.Prefix) {
	first := prefix.Masked().Addr()
	_, host := e.lengths(first)
	if wider := host - prefix.Bits(); wider <= 8 {
		for addr, n := first, 1<<max(wider, 0); n > 0; n-- {
			home := e.KnownGoodPrefix(addr)
			if !home.IsValid() {
				return
			}
			e.known.remove(keyOf(home))
			addr = after(home)
		}
		return
	}
	var list []key
	for k := range e.known.all() {
		if prefix.Overlaps(k.prefix()) {
			list = append(list, k)
		}
	}
	for _, k := range list {
		e.known.remove(k)
	}
}

// after returns the first address behind p, or the zero Addr.
func after(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(last); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr.Next()
}

func (h *knownRecord) public(p netip.Prefix) KnownGood {
	return KnownGood{
		Prefix: p, Since: fromMilli(h.since), Last: fromMilli(h.last), Suspected: fromMilli(h.suspected), Account: uint64(h.owner),
	}
}
