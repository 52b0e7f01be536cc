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
	bans     map[netip.Prefix][]mBan
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

type mBan struct{ since, until int64 } // since: its newest attempt; until 0: without end

type mGrace struct {
	prefix netip.Prefix
	until  int64
}

func newModel(rules []Rule, never NeverBan, o Options) *model {
	return &model{
		rules: rules, o: o.withDefaults(), never: never,
		hits: make(map[netip.Prefix][]mHit), known: make(map[netip.Prefix]mKnown), bans: make(map[netip.Prefix][]mBan),
		attacks: make(map[string]bool), stuck: make(map[string]int64),
	}
}

func ms(t time.Time) int64 { return t.UnixMilli() }

// observe returns the expected decision of the engine, as text, and the expected output of the next Advance.
func (m *model) observe(a Attempt) (decision string, ready []string) {
	ready = m.advance(ms(a.At))
	prefix := m.prefix(a.Addr)
	var reports []string
	switch a.Kind {
	case AuthSuccess:
		m.answer(prefix, a.User)
		delete(m.stuck, phoneText(prefix, a.User))
		reports = m.success(prefix, a)
	case AuthFailure:
		m.answer(prefix, a.User)
		reports = m.attacked(a)
	case Challenge:
		if !m.trusts(prefix) && len(m.patient(a)) > 0 {
			m.pending = append(m.pending, mPending{a, prefix, m.now + m.o.ChallengeWait.Milliseconds(), false})
		}
	}
	var counting []int
	for i := range m.rules {
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
		if p.answered || m.trusts(p.prefix) {
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
	if past := m.bans[prefix]; len(past) > 0 && ms(a.At) <= past[len(past)-1].since {
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
	type result struct {
		Rule
		n int
	}
	var fired []result
	nearest := result{}
	for _, i := range counting {
		r := Rule{Name: "office", FindTime: m.o.OfficeFindTime, MaxRetry: m.o.OfficeMaxRetry, BanTime: m.o.OfficeBanTime}
		if i >= 0 {
			r = m.rules[i]
		}
		in := m.window(m.hits[prefix], i, r.FindTime)
		n := len(in)
		if r.DistinctUsers {
			n = distinctUsers(in)
		}
		switch {
		case n >= r.MaxRetry:
			fired = append(fired, result{r, n})
		case nearest.Name == "" || n*nearest.MaxRetry > nearest.n*r.MaxRetry:
			nearest = result{r, n}
		}
	}
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
	delete(m.hits, prefix)
	for i := range m.pending {
		if m.pending[i].prefix == prefix {
			m.pending[i].answered = true
		}
	}
	if never {
		return fmt.Sprintf("spared_ban %s %d", strongest.Name, strongest.n), reports
	}
	delete(m.known, prefix)
	number, until := m.ban(prefix, strongest.BanTime, since)
	m.bans[prefix][number-1].since = newest
	return fmt.Sprintf("ban %s %d number %d until %d", strongest.Name, strongest.n, number, until), reports
}

// ban puts a ban on record.
func (m *model) ban(prefix netip.Prefix, banTime time.Duration, since int64) (number int, until int64) {
	past := m.bans[prefix]
	if n := len(past); n > 0 {
		switch last := past[n-1]; {
		case last.until == 0 || since < last.until:
			past = past[:n-1] // it is still in force
		case since >= last.until+m.o.OffenceFor.Milliseconds():
			past = nil
		}
	}
	number = len(past) + 1
	if banTime != Forever {
		length := banTime
		for range number - 1 {
			length = min(2*length, max(banTime, m.o.MaxBanTime))
		}
		until = since + length.Milliseconds()
	}
	m.bans[prefix] = append(past, mBan{since, until})
	return number, until
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
	if past := m.bans[prefix]; len(past) > 0 {
		if last := past[len(past)-1]; last.until == 0 || m.now < last.until {
			m.bans[prefix] = past[:len(past)-1]
			if n := len(past) - 1; n > 0 {
				m.bans[prefix][n-1] = mBan{last.since, last.since}
			}
		}
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
			if h.Kind == AuthFailure && h.User != a.User && !superseded {
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
		if p.last <= newest-find {
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
		counted.add(ids[p], ms(f.At), max(m.o.SuspiciousFindTime, m.o.DistributedFindTime).Milliseconds())
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

func distinctUsers(hits []mHit) int {
	users := make(map[string]bool)
	for _, h := range hits {
		users[h.User] = true
	}
	return len(users)
}

// text is a decision as the model writes it.
func text(d *Decision) string {
	var s string
	switch d.Verdict {
	case Pass, Excused:
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
		default:
			s += fmt.Sprintf(" %T", r)
		}
	}
	return s
}
