package detect

import (
	"fmt"
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
	"time"

	"fsban/policy"
)

// orders lists the sources of each kind, the preferred one first.
var orders = [policy.NumKinds][]policy.Source{
	policy.AuthFailure: {policy.Event, policy.SIP, policy.CTIEvent, policy.ESLLog, policy.CTILog},
	policy.Violation:   {policy.CTIEvent, policy.ESLLog, policy.CTILog},
	policy.ACLReject:   {policy.ESLLog},
	policy.CallReject:  {policy.Event},
	policy.Challenge:   {policy.Event, policy.SIP},
	policy.AuthSuccess: {policy.Event, policy.SIP},
	policy.Scan:        {policy.SIP},
	policy.Malformed:   {policy.SIP},
	policy.Flood:       {policy.SIP},
	policy.Exploit:     {policy.SIP},
}

// Sources returns the sources that can report k, the preferred one first.
func Sources(k policy.Kind) []policy.Source { return slices.Clone(orders[k]) }

// An Arbiter counts each failure once, however many sources report it. For each kind the preferred source that is alive is active:
// its reports count. Reports of the others are remembered, so that another source can take over at once.
//
// When the active source changes, either source may be the only one to report a failure. So reports of the same kind, address and
// user, less than two seconds apart by the clock of FreeSWITCH, are one failure: the reports of each source are matched one to one
// with those of the others. A report without a user (the INVITE of an unknown caller) matches every user. A source may name the digest
// user, the user of To or the dialled number: a report with both matches either.
//
// It is pure: time comes with the calls. Its memory is bounded; under a flood it forgets reports of which the active one counts.
type Arbiter struct {
	configured [policy.NumSources]bool
	alive      [policy.NumSources]bool
	reported   [policy.NumSources]bool // received a report since it came alive
	active     [policy.NumKinds]activeSource

	seed        maphash.Seed
	ring        []report
	added       uint64            // reports ever remembered; the newest has this number
	latest      [numChains]uint64 // the newest report of a chain
	held        []heldReport      // reports of inactive sources that no other source has confirmed; oldest first
	due         []policy.Attempt  // held attempts that count now because the active source failed
	unconfirmed [policy.NumSources]uint64
	ahead       time.Duration // lower bound of the lead of FreeSWITCH's clock: the most that a report was ahead of its reading
}

// An activeSource is the active source of a kind.
type activeSource struct {
	source policy.Source
	any    bool // no source is known to be alive: the first report of any source counts
	since  time.Time
}

// A report is one failure, reported by at least one source.
type report struct {
	addr    netip.Addr
	user    string
	alias   string // another name of user: the user of To, or the dialled number; empty: none known
	at      int64  // unix microseconds, FreeSWITCH's clock
	read    int64  // unix microseconds, our clock
	before  uint64 // number of the report before it in its chain
	sources uint8  // sources that reported it: a bit each
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

	// moment is the usual bound of the time between the reports of one failure.
	moment = 500 * time.Millisecond
)

// ConfirmTime is how long an unconfirmed report may still count: longer than a dead event socket can go unnoticed.
const ConfirmTime = 15 * time.Second

// NewArbiter returns an Arbiter for the sources that are configured. None of them is alive yet.
func NewArbiter(sources ...policy.Source) *Arbiter {
	r := &Arbiter{seed: maphash.MakeSeed()}
	r.configure(sources)
	for k := range r.active {
		r.active[k] = r.choose(policy.Kind(k))
	}
	return r
}

// SetSources replaces the configured sources. Earlier reports are still matched.
func (r *Arbiter) SetSources(now time.Time, sources ...policy.Source) {
	r.configure(sources)
	for s := range r.configured {
		if !r.configured[s] {
			r.alive[s], r.reported[s] = false, false
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

// SetAlive records whether a source is alive at now. After the active source has failed, Due returns reports of others that it
// missed.
func (r *Arbiter) SetAlive(s policy.Source, alive bool, now time.Time) {
	if r.alive[s] == alive {
		return
	}
	r.alive[s], r.reported[s] = alive, false
	r.appoint(now)
}

// appoint makes the best source active for each kind.
func (r *Arbiter) appoint(now time.Time) {
	for k := range r.active {
		was, is := r.active[k], r.choose(policy.Kind(k))
		if is.source == was.source && is.any == was.any {
			continue
		}
		is.since = now
		r.active[k] = is
		if !was.any && !r.proven(policy.Kind(k), was.source) {
			r.release(policy.Kind(k), now)
		}
	}
}

func (r *Arbiter) choose(k policy.Kind) activeSource {
	for _, s := range orders[k] {
		if r.proven(k, s) {
			return activeSource{source: s}
		}
	}
	return activeSource{any: true}
}

// proven reports whether s is alive for k. mod_cti's events and its lines on the log stream are alive only after one was
// received: their names may be wrong in our configuration, or FreeSWITCH may not print them.
func (r *Arbiter) proven(k policy.Kind, s policy.Source) bool {
	if s == policy.CTIEvent || s == policy.ESLLog && k != policy.ACLReject {
		return r.alive[s] && r.reported[s]
	}
	return r.alive[s]
}

// release makes held reports count after the active source has failed.
func (r *Arbiter) release(k policy.Kind, now time.Time) {
	for i := range r.held {
		h := &r.held[i]
		if p := r.report(h.number); h.attempt.Kind == k && p != nil && !p.counted && since(now, p.read) <= ConfirmTime {
			p.counted = true
			r.due = append(r.due, h.attempt)
		}
	}
}

// Counts reports whether a, read at now, counts now. Where only one source can report a kind, each of its reports does. A
// report of a source that is no longer configured was on its way when it was: it counts if no other source reported it.
func (r *Arbiter) Counts(a *policy.Attempt, now time.Time) bool {
	if !r.reported[a.Source] && r.alive[a.Source] && a.Kind != policy.ACLReject {
		r.reported[a.Source] = true
		r.appoint(now)
	}
	if r.ring == nil || r.configured[a.Source] && !r.contested(a.Kind) || onlyInSIP(a) {
		return true
	}
	r.ahead = max(r.ahead, a.At.Sub(now))
	active := &r.active[a.Kind]
	// For the time before the active source came alive, and its first moment, other sources may be the only ones to report
	// failures.
	counts := active.any || rank(a.Kind, a.Source) <= rank(a.Kind, active.source) || a.At.Before(active.since.Add(r.ahead+sameMoment))
	number := r.match(a, now)
	if number == 0 {
		number = r.remember(a, now)
	}
	p := r.report(number)
	p.sources |= 1 << a.Source
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

// onlyInSIP reports whether no other source can report a: FreeSWITCH has no event for wrong passwords of SUBSCRIBE and MESSAGE.
func onlyInSIP(a *policy.Attempt) bool {
	return a.Source == policy.SIP && a.Kind == policy.AuthFailure && a.Method != policy.Register && a.Method != policy.Invite
}

// contested reports whether more than one configured source can report k.
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

// Due returns the attempts that count now because the active source failed before it reported them.
func (r *Arbiter) Due(now time.Time) []policy.Attempt {
	r.prune(now)
	due := r.due
	r.due = nil
	return due
}

// prune drops held reports that another source has confirmed, or that are older than ConfirmTime.
func (r *Arbiter) prune(now time.Time) {
	r.held = slices.DeleteFunc(r.held, func(h heldReport) bool {
		p := r.report(h.number)
		if p == nil || p.counted {
			return true
		}
		if since(now, p.read) > ConfirmTime {
			r.unconfirmed[h.attempt.Source]++
			return true
		}
		return false
	})
}

// Unconfirmed returns how many reports of s did not count and were never confirmed by the active source. More than a few show
// that the two do not report the same failures.
func (r *Arbiter) Unconfirmed(s policy.Source) uint64 { return r.unconfirmed[s] }

// ActiveSource returns the active source of k, and why it is not a preferred one; ok is false if no source can report k.
func (r *Arbiter) ActiveSource(k policy.Kind) (s policy.Source, why string, ok bool) {
	for _, s := range orders[k] {
		switch {
		case !r.configured[s]:
		case r.proven(k, s):
			return s, why, true
		case why != "":
		case r.alive[s]:
			why = fmt.Sprintf("%s has not reported anything yet", s)
		default:
			why = fmt.Sprintf("%s is down", s)
		}
	}
	return 0, why, false
}

// match returns the number of the nearest report in time of the same failure that a's source has not reported yet, those of the
// same user before those of another name for it; 0 if there is none. Reports whose times are further apart than moment must
// have been read within one: else a failure that only one source can report would match the next failure, and that the one
// after it.
func (r *Arbiter) match(a *policy.Attempt, now time.Time) uint64 {
	var best, other uint64
	nearest, nearestOther := sameMoment, sameMoment
	number := r.latest[r.chain(a.Addr)]
	for range maxChain {
		p := r.report(number)
		if p == nil {
			break
		}
		apart := since(a.SwitchTime(), p.at).Abs()
		if apart < sameMoment && p.sources&(1<<a.Source) == 0 && p.kind == a.Kind && p.addr == a.Addr &&
			(apart < moment || since(now, p.read) < moment) {
			switch {
			case p.user == a.User || p.user == "" || a.User == "":
				if apart < nearest {
					best, nearest = number, apart
				}
			case p.alias != "" && p.alias == a.User || a.Number != "" && a.Number == p.user:
				if apart < nearestOther {
					other, nearestOther = number, apart
				}
			}
		}
		number = p.before
	}
	if best == 0 {
		best = other
	}
	if best != 0 {
		r.report(best).name(a)
	}
	return best
}

// name adds the names that a has for the user of p.
func (p *report) name(a *policy.Attempt) {
	if p.user == "" {
		p.user = a.User
	}
	for _, n := range [...]string{a.Number, a.User} {
		if p.alias == "" && n != p.user {
			p.alias = n
		}
	}
}

// since returns the time from us, in unix microseconds, to t.
func since(t time.Time, us int64) time.Duration {
	return time.Duration(t.UnixMicro()-us) * time.Microsecond
}

// remember adds a report of a, without a source yet.
func (r *Arbiter) remember(a *policy.Attempt, now time.Time) uint64 {
	return r.add(report{addr: a.Addr, user: a.User, alias: a.Number, at: a.SwitchTime().UnixMicro(), read: now.UnixMicro(), kind: a.Kind})
}

func (r *Arbiter) add(p report) uint64 {
	chain := r.chain(p.addr)
	r.added++
	p.before = r.latest[chain]
	r.ring[r.added%numReports] = p
	r.latest[chain] = r.added
	return r.added
}

// report returns the report with that number, or nil if it was evicted.
func (r *Arbiter) report(number uint64) *report {
	if number == 0 || number+numReports <= r.added {
		return nil
	}
	return &r.ring[number%numReports]
}

// hold remembers a report that the active source may still confirm.
func (r *Arbiter) hold(h heldReport, now time.Time) {
	pruned := len(r.held) == maxHeld
	if pruned {
		r.prune(now)
	}
	// Drop half of the reports if pruning released little: else a flood that the active source does not report would make every
	// report search all of them.
	if pruned && len(r.held) > maxHeld*3/4 {
		old := r.held[:len(r.held)-maxHeld/2]
		for i := range old {
			r.unconfirmed[old[i].attempt.Source]++
		}
		r.held = slices.Delete(r.held, 0, len(old))
	}
	r.held = append(r.held, h)
}

func (r *Arbiter) chain(addr netip.Addr) uint64 { return maphash.Comparable(r.seed, addr) % numChains }

// A Memo is the memory of one report, for the next process.
type Memo struct {
	Addr     netip.Addr
	User     string
	Alias    string // another name of User; empty: none known
	At, Read time.Time
	Kind     policy.Kind
	Sources  uint8 // sources that reported it: a bit each
	Counted  bool
	Held     *policy.Attempt // of an inactive source; nil if there is none, or another source has confirmed it
}

// Memos yields the reports, read within ConfirmTime, that another source may report yet, and all of the last two seconds, oldest
// first. Held attempts in them belong to the Arbiter.
func (r *Arbiter) Memos(now time.Time) iter.Seq[Memo] {
	return func(yield func(Memo) bool) {
		first := r.added + 1
		for p := r.report(first - 1); p != nil && since(now, p.read) <= ConfirmTime; p = r.report(first - 1) {
			first--
		}
		held := r.held
		for n := first; n <= r.added; n++ {
			p := r.report(n)
			if p.counted && r.all(p) && since(now, p.read) > sameMoment {
				continue
			}
			m := Memo{Addr: p.addr, User: p.user, Alias: p.alias, At: time.UnixMicro(p.at), Read: time.UnixMicro(p.read),
				Kind: p.kind, Sources: p.sources,
				Counted: p.counted}
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

// all reports whether every source that can report p has done so.
func (r *Arbiter) all(p *report) bool {
	for _, s := range orders[p.kind] {
		if r.configured[s] && p.sources&(1<<s) == 0 {
			return false
		}
	}
	return true
}

// RestoreMemo restores the Memos of an earlier process, in their order. Held reports count: the connection that would have confirmed
// them ended with that process.
func (r *Arbiter) RestoreMemo(m *Memo) {
	if r.ring == nil {
		return
	}
	p := report{addr: m.Addr, user: m.User, alias: m.Alias, at: m.At.UnixMicro(), read: m.Read.UnixMicro(), kind: m.Kind, sources: m.Sources,
		counted: m.Counted}
	if m.Held != nil && !p.counted {
		p.counted = true
		r.due = append(r.due, *m.Held)
	}
	r.add(p)
}
