package detect

import (
	"fmt"
	"hash/maphash"
	"iter"
	"math"
	"net/netip"
	"slices"
	"time"

	"fsban/policy"
)

// orders says, for each kind that more than one source can tell of, whose word counts first.
var orders = [policy.NumKinds][]policy.Source{
	policy.AuthFailure: {policy.Event, policy.CTIEvent, policy.ESLLog, policy.CTILog},
	policy.Violation:   {policy.CTIEvent, policy.ESLLog, policy.CTILog},
	policy.ACLReject:   {policy.ESLLog},
	policy.CallReject:  {policy.Event},
	policy.Challenge:   {policy.Event},
	policy.AuthSuccess: {policy.Event},
}

// Sources returns the sources that can tell of k, the one whose word counts first before the others.
func Sources(k policy.Kind) []policy.Source { return orders[k] }

// An Arbiter has each thing counted once that several sources tell of. For each kind the best source that is alive
// speaks: what it tells counts, and what the others tell is only remembered, so that another one can take over at once.
//
// Where the speaker changes, either source may tell of a failure alone. So reports of the same kind, address and user,
// less than two seconds apart by FreeSWITCH's clock, are one failure: each source's reports are matched one to one with
// those of the others. A report without a user (the INVITE of somebody unknown) matches every user.
//
// It is pure: time comes with the calls. Its memory is bounded; what it forgets under a flood was told by several sources
// and is counted by the one that speaks.
type Arbiter struct {
	configured [policy.NumSources]bool
	alive      [policy.NumSources]bool
	heard      [policy.NumSources]bool // since it came alive
	speakers   [policy.NumKinds]speaker

	seed   maphash.Seed
	ring   []report
	added  uint64            // reports ever remembered; the newest has this number
	latest [numChains]uint64 // the newest report of a chain
	held   []heldReport      // told by a source that did not speak, and by no other yet; oldest first
	due    []policy.Attempt  // of them, those that count now because the speaker is gone
	alone  [policy.NumSources]uint64
}

// A speaker is the source whose word counts for a kind.
type speaker struct {
	source policy.Source
	any    bool // nobody is known to be alive: whoever tells first
	since  time.Time
}

// A report is one failure, as told by one source or more.
type report struct {
	addr    netip.Addr
	user    string
	at      int64  // unix microseconds, FreeSWITCH's clock
	read    int64  // the same, our clock
	line    int64  // the same as at, as mod_cti's log has it; 0 until it tells
	before  uint64 // number of the report before it in its chain
	told    uint8  // by which sources: a bit each
	kind    policy.Kind
	counted bool
}

type heldReport struct {
	number  uint64
	attempt policy.Attempt
}

const (
	numChains  = 4096
	numReports = 16384 // remembered
	maxChain   = 256   // reports looked at for a match
	maxHeld    = 4096

	// moment is within what all sources tell of a failure, usually.
	moment = 500 * time.Millisecond
)

// Memory is how long a report that nobody confirms may count still: longer than the event socket can be dead without our
// knowing.
const Memory = 15 * time.Second

// NewArbiter returns an Arbiter for the sources that are configured. None of them is alive yet.
func NewArbiter(sources ...policy.Source) *Arbiter {
	r := &Arbiter{seed: maphash.MakeSeed()}
	r.configure(sources)
	for k := range r.speakers {
		r.speakers[k] = r.choose(policy.Kind(k))
	}
	return r
}

// SetSources says which sources are configured from now on. What was told so far is still matched.
func (r *Arbiter) SetSources(now time.Time, sources ...policy.Source) {
	r.configure(sources)
	for s := range r.configured {
		if !r.configured[s] {
			r.alive[s], r.heard[s] = false, false
		}
	}
	r.appoint(now)
}

func (r *Arbiter) configure(sources []policy.Source) {
	r.configured = [policy.NumSources]bool{}
	for _, s := range sources {
		r.configured[s] = true
	}
	if len(sources) > 1 && r.ring == nil {
		r.ring = make([]report, numReports)
	}
}

// Alive tells that a source can be heard at now, or no longer. When a speaker is gone, Due returns what others have told
// and it has not.
func (r *Arbiter) Alive(s policy.Source, alive bool, now time.Time) {
	if r.alive[s] == alive {
		return
	}
	r.alive[s], r.heard[s] = alive, false
	r.appoint(now)
}

// appoint has the best source speak for each kind.
func (r *Arbiter) appoint(now time.Time) {
	for k := range r.speakers {
		was, is := r.speakers[k], r.choose(policy.Kind(k))
		if is.source == was.source && is.any == was.any {
			continue
		}
		is.since = now
		r.speakers[k] = is
		if !was.any && !r.proven(policy.Kind(k), was.source) {
			r.release(policy.Kind(k), now)
		}
	}
}

func (r *Arbiter) choose(k policy.Kind) speaker {
	for _, s := range orders[k] {
		if r.proven(k, s) {
			return speaker{source: s}
		}
	}
	return speaker{any: true}
}

// proven tells whether s is alive for k. That mod_cti's events and its lines on the log stream come at all is known only when
// one has come: their names may be wrong in our configuration, or the switch not print them.
func (r *Arbiter) proven(k policy.Kind, s policy.Source) bool {
	if s == policy.CTIEvent || s == policy.ESLLog && k != policy.ACLReject {
		return r.alive[s] && r.heard[s]
	}
	return r.alive[s]
}

// release has the reports count that were held for a source that is gone.
func (r *Arbiter) release(k policy.Kind, now time.Time) {
	for i := range r.held {
		h := &r.held[i]
		if p := r.report(h.number); h.attempt.Kind == k && p != nil && !p.counted && since(now, p.read) <= Memory {
			p.counted = true
			r.due = append(r.due, h.attempt)
		}
	}
}

// Counts tells whether a counts now, read at now. What only one source can tell of always does.
func (r *Arbiter) Counts(a *policy.Attempt, now time.Time) bool {
	if !r.heard[a.Source] && r.alive[a.Source] && a.Kind != policy.ACLReject {
		r.heard[a.Source] = true
		r.appoint(now)
	}
	if !r.contested(a.Kind) {
		return true
	}
	speaker := &r.speakers[a.Kind]
	// What happened before the speaker could speak, or as it began to, others may have told of alone.
	counts := speaker.any || rank(a.Kind, a.Source) <= rank(a.Kind, speaker.source) || a.At.Before(speaker.since.Add(sameMoment))
	number := r.match(a, now)
	if number == 0 {
		number = r.remember(a, now)
	}
	p := r.report(number)
	p.told |= 1 << a.Source
	if a.Source == policy.CTILog {
		p.line = a.Stamp().UnixMicro()
	}
	switch {
	case p.counted:
		return false
	case counts:
		p.counted = true
		return true
	}
	r.hold(heldReport{number, *a}, now)
	return false
}

// contested tells whether more than one source is there that can tell of k.
func (r *Arbiter) contested(k policy.Kind) bool {
	n := 0
	for _, s := range orders[k] {
		if r.configured[s] {
			n++
		}
	}
	return n > 1
}

// rank is the place of s in the order of k.
func rank(k policy.Kind, s policy.Source) int { return slices.Index(orders[k], s) }

// Due returns what counts now because the source that should have told of it is gone.
func (r *Arbiter) Due(now time.Time) []policy.Attempt {
	r.prune(now)
	due := r.due
	r.due = nil
	return due
}

// prune drops what is held and was told of by another source since, or never will be.
func (r *Arbiter) prune(now time.Time) {
	r.held = slices.DeleteFunc(r.held, func(h heldReport) bool {
		p := r.report(h.number)
		if p == nil || p.counted {
			return true
		}
		if since(now, p.read) > Memory {
			r.alone[h.attempt.Source]++
			return true
		}
		return false
	})
}

// Alone returns how many reports of s did not count, and were never confirmed by the source that spoke. More than a few say
// that the two do not tell of the same things.
func (r *Arbiter) Alone(s policy.Source) uint64 { return r.alone[s] }

// Speaker returns which source speaks for k, and why it is not a better one; ok is false where nobody can.
func (r *Arbiter) Speaker(k policy.Kind) (s policy.Source, why string, ok bool) {
	for _, s := range orders[k] {
		switch {
		case !r.configured[s]:
		case r.proven(k, s):
			return s, why, true
		case why != "":
		case r.alive[s]:
			why = fmt.Sprintf("%s has not told of anything yet", s)
		default:
			why = fmt.Sprintf("%s is down", s)
		}
	}
	return 0, why, false
}

// match returns the number of the report of the same failure that a's source has not told of yet, of several the nearest in
// time; 0 for none. Reports whose times are further apart than moment must have been read within one: else a failure that
// one source alone could tell of would be taken for the next one, and that for the one after it.
func (r *Arbiter) match(a *policy.Attempt, now time.Time) uint64 {
	var best uint64
	nearest := sameMoment
	number := r.latest[r.chain(a.Addr)]
	for range maxChain {
		p := r.report(number)
		if p == nil {
			break
		}
		apart := since(a.Stamp(), p.at).Abs()
		if apart < nearest && p.told&(1<<a.Source) == 0 && p.kind == a.Kind && p.addr == a.Addr && (p.user == a.User || p.user == "" || a.User == "") &&
			(apart < moment || since(now, p.read) < moment) {
			best, nearest = number, apart
		}
		number = p.before
	}
	if best != 0 && a.User != "" {
		r.report(best).user = a.User
	}
	return best
}

// Told tells whether mod_cti's log has told of exactly this before.
func (r *Arbiter) Told(a *policy.Attempt) bool {
	if r.ring == nil {
		return false
	}
	number := r.latest[r.chain(a.Addr)]
	for p := r.report(number); p != nil; p = r.report(p.before) {
		if p.line == a.Stamp().UnixMicro() && p.kind == a.Kind && p.addr == a.Addr && p.user == a.User {
			return true
		}
	}
	return false
}

// since returns how long t is after a time in unix microseconds.
func since(t time.Time, us int64) time.Duration {
	return time.Duration(t.UnixMicro()-us) * time.Microsecond
}

// remember adds a report of a, told by nobody so far.
func (r *Arbiter) remember(a *policy.Attempt, now time.Time) uint64 {
	return r.add(report{addr: a.Addr, user: a.User, at: a.Stamp().UnixMicro(), read: now.UnixMicro(), kind: a.Kind})
}

func (r *Arbiter) add(p report) uint64 {
	chain := r.chain(p.addr)
	r.added++
	p.before = r.latest[chain]
	r.ring[r.added%numReports] = p
	r.latest[chain] = r.added
	return r.added
}

// report returns the report of that number, or nil when it was forgotten.
func (r *Arbiter) report(number uint64) *report {
	if number == 0 || number+numReports <= r.added {
		return nil
	}
	return &r.ring[number%numReports]
}

// hold remembers a report of which the speaker may tell yet.
func (r *Arbiter) hold(h heldReport, now time.Time) {
	pruned := len(r.held) == maxHeld
	if pruned {
		r.prune(now)
	}
	// prune is worth its while only where it leaves room for many: else a flood of which the speaker tells nothing has all of
	// it looked through at each report.
	if pruned && len(r.held) > maxHeld*3/4 {
		old := r.held[:len(r.held)-maxHeld/2]
		for i := range old {
			r.alone[old[i].attempt.Source]++
		}
		r.held = slices.Delete(r.held, 0, len(old))
	}
	r.held = append(r.held, h)
}

func (r *Arbiter) chain(addr netip.Addr) uint64 { return maphash.Comparable(r.seed, addr) % numChains }

// A Memo is what an Arbiter knows of one report: what the next process needs to go on where this one stopped.
type Memo struct {
	Addr     netip.Addr
	User     string
	At, Read time.Time
	Line     time.Time // zero until mod_cti's log has told of it
	Kind     policy.Kind
	Told     uint8 // by which sources: a bit each
	Counted  bool
	Held     *policy.Attempt // of a source that did not speak; nil: nobody's, or another source has confirmed it
}

// Slack is how much older than the line before it a line of mod_cti's log may be.
const Slack = time.Second

// Recent yields the reports, read within Memory, of which another source may tell yet, and all of the last two seconds;
// oldest first. Beside them those that mod_cti's log has told of at log, or at most Slack before: it may have to be read again
// from there. What they hold is the Arbiter's.
func (r *Arbiter) Recent(now, log time.Time) iter.Seq[Memo] {
	reread := int64(math.MaxInt64)
	if !log.IsZero() {
		reread = log.Add(-Slack).UnixMicro()
	}
	return func(yield func(Memo) bool) {
		first := r.added + 1
		for p := r.report(first - 1); p != nil && (since(now, p.read) <= Memory || p.line >= reread); p = r.report(first - 1) {
			first--
		}
		held := r.held
		for n := first; n <= r.added; n++ {
			p := r.report(n)
			if p.counted && r.all(p) && since(now, p.read) > sameMoment && p.line < reread {
				continue
			}
			m := Memo{Addr: p.addr, User: p.user, At: time.UnixMicro(p.at), Read: time.UnixMicro(p.read), Kind: p.kind, Told: p.told, Counted: p.counted}
			if p.line != 0 {
				m.Line = time.UnixMicro(p.line)
			}
			for len(held) > 0 && held[0].number < n {
				held = held[1:]
			}
			if len(held) > 0 && held[0].number == n {
				m.Held = &held[0].attempt
			}
			if !yield(m) {
				return
			}
		}
	}
}

// all tells whether every source told of p that can.
func (r *Arbiter) all(p *report) bool {
	for _, s := range orders[p.kind] {
		if r.configured[s] && p.told&(1<<s) == 0 {
			return false
		}
	}
	return true
}

// Remember takes up a Memo of an earlier process, one after the other. What it held counts: the connection that would have
// told of it died with that process.
func (r *Arbiter) Remember(m *Memo) {
	if r.ring == nil {
		return
	}
	p := report{addr: m.Addr, user: m.User, at: m.At.UnixMicro(), read: m.Read.UnixMicro(), kind: m.Kind, told: m.Told, counted: m.Counted}
	if !m.Line.IsZero() {
		p.line = m.Line.UnixMicro()
	}
	if m.Held != nil && !p.counted {
		p.counted = true
		r.due = append(r.due, *m.Held)
	}
	r.add(p)
}
