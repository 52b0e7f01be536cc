package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A model is the policy, slow and obvious: it keeps every attempt for ever and scans them all. Guards are not in it.
type model struct {
	rules []Rule
	o     Options
	never NeverBan

	now      int64
	hits     map[netip.Prefix][]mHit // since the last ban
	failures []Attempt               // all of them, for users
	attacks  map[string]bool         // users under a distributed attack
	known    map[netip.Prefix]mKnown
	stuck    map[string]int64 // phone: its last failure
	pending  []mPending
	records  map[netip.Prefix]mRecord
	graces   []mGrace
}

type mHit struct {
	Attempt
	rule int // an attempt is one hit for each rule that counts it; -1: the office rule
}

type mKnown struct {
	trusted         bool
	last, suspected int64 // suspected 0: no
	suspect         string
}

type mPending struct {
	Attempt
	prefix   netip.Prefix
	due      int64
	answered bool
}

// An mRecord holds the bans of a prefix: those with and without proof, and the last one. Its since is its newest attempt; its until is 0
// if it has no end.
type mRecord struct {
	since, until int64 // since: of the last one with proof
	shortSince   int64
	full, short  int
}

type mGrace struct {
	prefix netip.Prefix
	until  int64
}

func newModel(rules []Rule, never NeverBan, o Options) *model {
	return &model{
		rules: rules, o: o.withDefaults(), never: never,
		hits: make(map[netip.Prefix][]mHit), known: make(map[netip.Prefix]mKnown), records: make(map[netip.Prefix]mRecord),
		attacks: make(map[string]bool), stuck: make(map[string]int64),
	}
}

func ms(t time.Time) int64 { return t.UnixMilli() }

// forgeable reports whether a tap saw a and nothing proves its sender.
func forgeable(a Attempt) bool {
	return a.Proof == NoProof || a.Proof == UnknownProof && (a.Kind == Scan || a.Kind == Malformed || a.Kind == Flood || a.Kind == Exploit)
}

// evidential returns how many failures of its address a counts as.
func evidential(a Attempt) uint16 {
	if forgeable(a) {
		return 0
	}
	return 1
}

// observe returns the expected decision of the engine, as text, and the expected output of the next Advance.
func (m *model) observe(a Attempt) (decision string, ready []string) {
	ready = m.advance(ms(a.At))
	prefix := m.prefix(a.Addr)
	var reports []string
	switch {
	case a.Kind == AuthSuccess && forgeable(a):
		return "pass", ready
	case a.Kind == AuthSuccess:
		m.answer(prefix, a.User)
		delete(m.stuck, phoneText(prefix, a.User))
		reports = m.success(prefix, a)
	case a.Kind == AuthFailure:
		m.answer(prefix, a.User)
		reports = m.attacked(a)
	case a.Kind == Challenge:
		if !m.trusts(prefix) && len(m.patient(a)) > 0 {
			m.pending = append(m.pending, mPending{a, prefix, m.now + m.o.ChallengeWait.Milliseconds(), false})
		}
	}
	var counting []int
	_, never := m.never.Match(prefix)
	if forgeable(a) && (never || m.trusts(prefix)) {
		decision = "forged"
		if slices.Contains([]Kind{Challenge, Scan, Malformed, Flood, Exploit}, a.Kind) {
			decision = "pass"
		}
		return strings.Join(append([]string{decision}, reports...), " "), ready
	}
	for i := range m.rules {
		if m.trusts(prefix) && (slices.Contains([]Kind{Challenge, Scan, Malformed, Flood}, a.Kind) || a.Kind != AuthFailure && m.rules[i].UserAgent != nil) {
			continue
		}
		if m.counts(i, a) && (a.Kind != Challenge || m.rules[i].UserAgent != nil) {
			counting = append(counting, i)
		}
	}
	decision, more := m.count(prefix, a, counting, ms(a.At))
	return strings.Join(append(append([]string{decision}, reports...), more...), " "), ready
}

// advance lets time pass, and returns the bans that come of challenges that nobody answered.
func (m *model) advance(now int64) (ready []string) {
	for i := 0; i < len(m.pending); {
		p := m.pending[i]
		if p.due > max(now, m.now) {
			i++
			continue
		}
		m.pending = slices.Delete(m.pending, i, i+1)
		m.now = max(m.now, p.due)
		if _, never := m.never.Match(p.prefix); p.answered || m.trusts(p.prefix) || never && forgeable(p.Attempt) {
			continue
		}
		if d, _ := m.count(p.prefix, p.Attempt, m.patient(p.Attempt), m.now); d != "pass" {
			ready = append(ready, d)
		}
		i = 0
	}
	m.now = max(m.now, now)
	return ready
}

// prefix is never anything but the plain one in these tests: no never-ban entry is a part of a prefix.
func (m *model) prefix(addr netip.Addr) netip.Prefix {
	bits := m.o.IPv6Prefix
	if addr.Is4() {
		bits = m.o.IPv4Prefix
	}
	p, _ := addr.Prefix(bits)
	return p
}

func (m *model) counts(rule int, a Attempt) bool {
	r := &m.rules[rule]
	if r.Unproven && !forgeable(a) || !r.Unproven && a.Proof == NoProof &&
		slices.Contains([]Kind{AuthFailure, Violation, ACLReject, CallReject}, a.Kind) {
		return false
	}
	return slices.Contains(r.Kinds, a.Kind) && (r.UserAgent == nil || r.UserAgent.MatchString(a.UserAgent)) &&
		(len(r.Profiles) == 0 || slices.Contains(r.Profiles, a.Profile))
}

// patient returns the rules that count a challenge when nobody has answered it.
func (m *model) patient(a Attempt) (rules []int) {
	for i := range m.rules {
		if m.counts(i, a) && m.rules[i].UserAgent == nil {
			rules = append(rules, i)
		}
	}
	return rules
}

// window returns the hits of a rule that are in its window.
func (m *model) window(hits []mHit, rule int, findTime time.Duration) (in []mHit) {
	newest := int64(-1 << 60)
	for _, h := range hits {
		if h.rule == rule {
			newest = max(newest, ms(h.At))
		}
	}
	for _, h := range hits {
		if h.rule == rule && ms(h.At) > newest-findTime.Milliseconds() {
			in = append(in, h)
		}
	}
	return in
}

func (m *model) count(prefix netip.Prefix, a Attempt, counting []int, since int64) (decision string, reports []string) {
	if len(counting) == 0 {
		return "pass", nil
	}
	for _, g := range m.graces {
		if m.now < g.until && g.prefix == prefix {
			return "excused", nil
		}
	}
	if past := m.records[prefix]; past.full+past.short > 0 && (ms(a.At) <= past.since || forgeable(a) && ms(a.At) <= past.shortSince) {
		return "excused", nil // that ban has punished it
	}
	for _, i := range counting {
		m.hits[prefix] = append(m.hits[prefix], mHit{a, i})
	}
	if m.trusts(prefix) && a.Kind == AuthFailure {
		m.hits[prefix] = append(m.hits[prefix], mHit{a, -1})
		counting = append(counting, -1)
		m.mild(prefix)
		reports = m.stuckPhone(prefix, a)
	}
	nearest, fired := m.judge(prefix, counting)
	_, never := m.never.Match(prefix)
	if len(fired) == 0 {
		verdict := "counted"
		if never {
			verdict = "spared"
		}
		return fmt.Sprintf("%s %s %d", verdict, nearest.Name, nearest.n), reports
	}
	strongest := fired[0]
	for _, f := range fired {
		if f.BanTime != strongest.BanTime && strongest.BanTime != Forever && (f.BanTime == Forever || f.BanTime > strongest.BanTime) {
			strongest = f
		}
	}
	newest := ms(a.At)
	for _, h := range m.hits[prefix] {
		newest = max(newest, ms(h.At))
	}
	if strongest.short {
		m.dropSuperseded(prefix)
		m.hits[prefix] = slices.DeleteFunc(m.hits[prefix], func(h mHit) bool { return forgeable(h.Attempt) })
	} else {
		delete(m.hits, prefix)
	}
	for i := range m.pending {
		if m.pending[i].prefix == prefix {
			m.pending[i].answered = true
		}
	}
	if never {
		return fmt.Sprintf("spared_ban %s %d", strongest.Name, strongest.n), reports
	}
	delete(m.known, prefix)
	number, until := m.ban(prefix, strongest.BanTime, strongest.short, since, newest)
	return fmt.Sprintf("ban %s %d number %d until %d", strongest.Name, strongest.n, number, until), reports
}

// An mResult is the count of a rule.
type mResult struct {
	Rule
	n     int
	short bool // the ban needs an attempt that may be forged
}

// judge returns the rules that ban prefix, or else the one nearest to it.
func (m *model) judge(prefix netip.Prefix, counting []int) (nearest mResult, fired []mResult) {
	for _, i := range counting {
		r := Rule{Name: "office", FindTime: m.o.OfficeFindTime, MaxRetry: m.o.OfficeMaxRetry, BanTime: m.o.OfficeBanTime}
		if i >= 0 {
			r = m.rules[i]
		}
		in := m.window(m.hits[prefix], i, r.FindTime)
		if r.DistinctUsers {
			in = newestOfUsers(in)
		}
		n := min(len(in), r.MaxRetry)
		switch {
		case n >= r.MaxRetry:
			short := slices.ContainsFunc(newestHits(in, n), func(h mHit) bool { return forgeable(h.Attempt) })
			if short && (r.BanTime == Forever || r.BanTime > m.o.UnprovenBanTime) {
				r.BanTime = m.o.UnprovenBanTime
			}
			fired = append(fired, mResult{r, n, short})
		case nearest.Name == "" || n*nearest.MaxRetry > nearest.n*r.MaxRetry:
			nearest = mResult{r, n, false}
		}
	}
	return nearest, fired
}

// ban puts a ban on record.
func (m *model) ban(prefix netip.Prefix, banTime time.Duration, short bool, since, newest int64) (number int, until int64) {
	past := m.records[prefix]
	if past.until != 0 && since >= past.until+m.o.OffenceFor.Milliseconds() {
		past = mRecord{}
	}
	inForce := past.full+past.short > 0 && (past.until == 0 || since < past.until)
	count, longest := &past.full, m.o.MaxBanTime
	if short {
		count, longest = &past.short, m.o.UnprovenMaxBanTime
	}
	if *count == 0 || !inForce {
		*count++
	}
	if banTime != Forever {
		length := banTime
		for range *count - 1 {
			length = min(2*length, max(banTime, longest))
		}
		until = since + length.Milliseconds()
	}
	if short {
		past.shortSince = newest
	} else {
		past.since = newest
	}
	if !short || !inForce || past.until != 0 && past.until <= until {
		past.until = until
	}
	m.records[prefix] = past
	return *count, until
}

func (m *model) forget(prefix netip.Prefix, now int64) (ready []string) {
	ready = m.advance(now)
	delete(m.hits, prefix)
	for i := range m.pending {
		if m.pending[i].prefix == prefix {
			m.pending[i].answered = true
		}
	}
	m.graces = append(m.graces, mGrace{prefix, m.now + m.o.Grace.Milliseconds()})
	past := m.records[prefix]
	switch {
	case past.full+past.short == 0 || past.until != 0 && m.now >= past.until:
		return ready
	case past.short > 0 && past.shortSince > past.since:
		past.short--
	default:
		past.full--
	}
	past.until = max(past.since, past.shortSince)
	if m.records[prefix] = past; past.full+past.short == 0 {
		delete(m.records, prefix)
	}
	return ready
}

func (m *model) answer(prefix netip.Prefix, user string) {
	found := false
	for i := range m.pending {
		if p := &m.pending[i]; p.prefix == prefix && !p.answered && p.User == user {
			p.answered, found = true, true
		}
	}
	for i := range m.pending {
		if p := &m.pending[i]; !found && p.prefix == prefix && !p.answered {
			p.answered, found = true, true
		}
	}
}

func (m *model) trusts(prefix netip.Prefix) bool {
	k := m.known[prefix]
	return k.trusted && m.now < k.last+m.o.KnownFor.Milliseconds()
}

func (m *model) success(prefix netip.Prefix, a Attempt) (reports []string) {
	k, at, account := m.known[prefix], ms(a.At), a.User+"@"+a.Domain
	if k.suspected != 0 && m.now >= k.suspected+max(m.o.KnownFor, m.o.TrustAfter).Milliseconds() {
		k = mKnown{} // too long ago
	}
	waits := k.suspected != 0 && at-k.suspected < m.o.TrustAfter.Milliseconds()
	if !m.trusts(prefix) && (k.suspected == 0 || waits && k.suspect != account) {
		if evidence := m.evidence(prefix, a); evidence != "" {
			m.known[prefix] = mKnown{suspected: at, suspect: account}
			return []string{"suspicious " + account + " " + evidence}
		}
	}
	if waits {
		return nil
	}
	if !m.trusts(prefix) {
		k = mKnown{trusted: true, last: at}
		for i := range m.pending {
			if m.pending[i].prefix == prefix {
				m.pending[i].answered = true
			}
		}
	}
	k.last = max(k.last, at)
	m.known[prefix] = k
	m.mild(prefix)
	return nil
}

// evidence returns why a success is suspicious, or nothing.
func (m *model) evidence(prefix netip.Prefix, a Attempt) string {
	others := make(map[string]bool)
	for i := -1; i < len(m.rules); i++ { // -1: the office rule
		findTime := m.o.OfficeFindTime
		if i >= 0 {
			findTime = m.rules[i].FindTime
		}
		in := m.window(m.hits[prefix], i, findTime)
		for j, h := range in {
			superseded := i >= 0 && m.rules[i].DistinctUsers && slices.ContainsFunc(in[:j], func(o mHit) bool {
				return o.User == h.User && ms(o.At) > ms(h.At)
			}) || i >= 0 && m.rules[i].DistinctUsers && slices.ContainsFunc(in[j+1:], func(o mHit) bool {
				return o.User == h.User && ms(o.At) >= ms(h.At)
			})
			if h.Kind == AuthFailure && h.User != a.User && !superseded && !forgeable(h.Attempt) {
				others[h.User] = true
			}
		}
	}
	newest, find := ms(a.At), m.o.SuspiciousFindTime.Milliseconds()
	for _, f := range m.failures {
		if f.User+"@"+f.Domain == a.User+"@"+a.Domain {
			newest = max(newest, ms(f.At))
		}
	}
	own, total, prefixes := 0, 0, 0
	for from, p := range m.prefixesOf(a.User + "@" + a.Domain) {
		if p.last <= newest-find || p.count == 0 {
			continue
		}
		prefixes++
		total += int(p.count)
		if m.network(from) == m.network(prefix) {
			own += int(p.count)
		}
	}
	after := m.o.SuspiciousAfter
	switch {
	case len(others) >= max(after, 3):
		return "spray"
	case own > 0 && m.attacks[a.User+"@"+a.Domain] && 2*m.attackers(a.User+"@"+a.Domain) >= m.o.DistributedAfter:
		return "distributed"
	case own >= after:
		return "own_failures"
	case prefixes <= 3 && total >= after*max(prefixes, 2):
		return "few_prefixes"
	}
	return ""
}

// network is the network that a prefix is in.
func (m *model) network(p netip.Prefix) netip.Prefix {
	bits := 48
	if p.Addr().Is4() {
		bits = 24
	}
	n, _ := p.Addr().Prefix(min(bits, p.Bits()))
	return n
}

// prefixesOf counts the failures of an account by prefix, in the order in which they came.
func (m *model) prefixesOf(account string) map[netip.Prefix]failedPrefix {
	ids := make(map[netip.Prefix]prefixID)
	counted := make(slowFailures)
	for _, f := range m.failuresOf(account) {
		p := m.prefix(f.Addr)
		if _, ok := ids[p]; !ok {
			ids[p] = prefixID{2: uint16(len(ids))}
		}
		counted.add(ids[p], evidential(f.Attempt), ms(f.At), max(m.o.SuspiciousFindTime, m.o.DistributedFindTime).Milliseconds())
	}
	result := make(map[netip.Prefix]failedPrefix)
	for p, id := range ids {
		if c, ok := counted[id]; ok {
			result[p] = c
		}
	}
	return result
}

// attackers returns how many prefixes have failed on an account within DistributedFindTime.
func (m *model) attackers(account string) (n int) {
	for _, p := range m.prefixesOf(account) {
		if p.last > m.now-m.o.DistributedFindTime.Milliseconds() {
			n++
		}
	}
	return n
}

// mild leaves of each user's failures the newest to the rules that count users of a known-good address.
func (m *model) mild(prefix netip.Prefix) {
	if !m.trusts(prefix) {
		return
	}
	kept := m.hits[prefix][:0:0]
	for i, h := range m.hits[prefix] {
		newer := func(j int, o mHit) bool {
			return o.Kind == AuthFailure && o.rule == h.rule && o.User == h.User && (ms(o.At) > ms(h.At) || ms(o.At) == ms(h.At) && j > i)
		}
		superseded := false
		for j, o := range m.hits[prefix] {
			superseded = superseded || newer(j, o)
		}
		if h.Kind == AuthFailure && h.rule >= 0 && m.rules[h.rule].UserAgent == nil && superseded {
			continue
		}
		kept = append(kept, h)
	}
	m.hits[prefix] = kept
}

func phoneText(prefix netip.Prefix, user string) string { return prefix.String() + " " + user }

func (m *model) stuckPhone(prefix netip.Prefix, a Attempt) []string {
	p := phoneText(prefix, a.User)
	if last, stuck := m.stuck[p]; stuck && m.now-last < m.o.StuckSilence.Milliseconds() {
		m.stuck[p] = max(last, ms(a.At))
		return nil
	}
	n := 0
	for _, h := range m.window(m.hits[prefix], -1, m.o.OfficeFindTime) {
		if h.User == a.User {
			n++
		}
	}
	if n < min(m.o.StuckAfter, m.o.OfficeMaxRetry) {
		return nil
	}
	m.stuck[p] = ms(a.At)
	return []string{fmt.Sprintf("stuck %s %d", a.User, n)}
}

func (m *model) failuresOf(account string) (list []mHit) {
	for _, f := range m.failures {
		if f.User+"@"+f.Domain == account {
			list = append(list, mHit{Attempt: f})
		}
	}
	return list
}

func (m *model) attacked(a Attempt) []string {
	if a.User == "" {
		return nil
	}
	m.failures = append(m.failures, a)
	account := a.User + "@" + a.Domain
	from := make(map[netip.Prefix]bool)
	for _, f := range m.window(m.failuresOf(account), 0, m.o.DistributedFindTime) {
		from[m.prefix(f.Addr)] = true
	}
	switch {
	case m.attacks[account] && 2*len(from) < m.o.DistributedAfter:
		delete(m.attacks, account)
	case !m.attacks[account] && len(from) >= m.o.DistributedAfter:
		m.attacks[account] = true
		return []string{fmt.Sprintf("distributed %s %d", account, len(from))}
	}
	return nil
}

// dropSuperseded leaves of each user's hits the newest to the rules that count users: an attempt without proof supersedes one with it.
func (m *model) dropSuperseded(prefix netip.Prefix) {
	byRule := make(map[int][]mHit)
	for _, h := range m.hits[prefix] {
		byRule[h.rule] = append(byRule[h.rule], h)
	}
	m.hits[prefix] = nil
	for rule, hits := range byRule {
		if rule >= 0 && m.rules[rule].DistinctUsers {
			hits = newestOfUsers(hits)
		}
		m.hits[prefix] = append(m.hits[prefix], hits...)
	}
}

// newestOfUsers returns the newest hit of each user; of two at the same time the later one.
func newestOfUsers(hits []mHit) (list []mHit) {
	for i, h := range hits {
		superseded := false
		for j, o := range hits {
			superseded = superseded || o.User == h.User && (ms(o.At) > ms(h.At) || ms(o.At) == ms(h.At) && j > i)
		}
		if !superseded {
			list = append(list, h)
		}
	}
	return list
}

// newestHits returns the n newest hits.
func newestHits(hits []mHit, n int) []mHit {
	hits = slices.Clone(hits)
	slices.SortStableFunc(hits, func(a, b mHit) int { return b.At.Compare(a.At) })
	return hits[:n]
}

// text is a decision as the model writes it.
func text(d *Decision) string {
	var s string
	switch d.Verdict {
	case Pass, Excused, Forged:
		s = d.Verdict.String()
	case Counted, Spared, SparedBan:
		s = fmt.Sprintf("%v %s %d", d.Verdict, d.Rule.Name, d.Count)
	default:
		s = fmt.Sprintf("%v %s %d number %d until %d", d.Verdict, d.Rule.Name, d.Count, d.Offence, unixMilli(d.Until))
	}
	for _, r := range d.Reports {
		switch r := r.(type) {
		case SuspiciousLogin:
			s += fmt.Sprintf(" suspicious %s@%s %v", r.User, r.Domain, r.Evidence)
		case DistributedAttack:
			s += fmt.Sprintf(" distributed %s@%s %d", r.User, r.Domain, r.Addresses)
		case StuckPhone:
			s += fmt.Sprintf(" stuck %s %d", r.User, r.Count)
		case ForgedFailures: // the model does not count them
		default:
			s += fmt.Sprintf(" %T", r)
		}
	}
	return s
}
