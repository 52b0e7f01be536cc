package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A month is a seeded month of a site with 300 users, most of them with short numbers that strangers try all day.
type month struct {
	*world
	r      *rand.Rand
	events []monthEvent
	next   int // number of the next address that nobody has used yet

	newPlaces int                 // logins of owners from addresses that were new
	crowded   int                 // of them, with three or more failures of that user from anywhere within the hour before
	thefts    map[string][]string // by kind: users and addresses that must be reported
	mistyped  map[string]bool     // owners that mistyped three times or more
}

type monthEvent struct {
	at   time.Time
	kind Kind
	addr netip.Addr
	user string
}

const monthUsers = 300

func newMonth(t *testing.T, seed uint64) *month {
	return &month{
		world: newWorld(t, NeverBan{}, Options{Seed: seed}), r: rand.New(rand.NewPCG(seed, 17)),
		thefts: make(map[string][]string), mistyped: make(map[string]bool),
	}
}

// fresh returns an address of a network of its own.
func (m *month) fresh() netip.Addr {
	m.next++
	return netip.AddrFrom4([4]byte{byte(20 + m.next>>16), byte(m.next >> 8), byte(m.next), byte(1 + m.r.IntN(250))})
}

func (m *month) add(at time.Time, k Kind, addr netip.Addr, user string) time.Time {
	m.events = append(m.events, monthEvent{at, k, addr, user})
	return at
}

func (m *month) anyTime() time.Time { return start.Add(m.between(2*time.Hour, 29*24*time.Hour)) }

func (m *month) between(from, to time.Duration) time.Duration {
	return from + time.Duration(m.r.Int64N(int64(to-from)))
}

// owners log in: phones at home all day, half of them with an address that changes at night, and one user in five from
// somewhere else each day.
func (m *month) owners() {
	for u := range monthUsers {
		home := m.fresh()
		for day := range 30 {
			at := start.Add(time.Duration(day)*24*time.Hour + m.between(0, time.Hour))
			if u%2 == 0 && day > 0 {
				home = m.fresh()
				m.newPlaces++
			}
			for hour := range 23 {
				m.add(at.Add(time.Duration(hour)*time.Hour), AuthSuccess, home, extension(u))
			}
			if m.r.IntN(5) == 0 {
				m.roams(at.Add(m.between(8*time.Hour, 20*time.Hour)), extension(u))
			}
		}
	}
}

// roams has an owner log in at a new place: three in four at once, others after one to four wrong passwords.
func (m *month) roams(at time.Time, user string) {
	place, wrong := m.fresh(), 0
	for wrong < 4 && m.r.IntN(4) == 0 {
		wrong++
		m.add(at, AuthFailure, place, user)
		at = at.Add(m.between(5*time.Second, time.Minute))
	}
	m.newPlaces++
	if wrong >= 3 {
		m.mistyped[user+" "+place.String()] = true
	}
	m.add(at, AuthSuccess, place, user)
}

// strangers try short numbers all day and get in nowhere: scanners that try three numbers once, guessers with a word list that
// are banned, and a botnet of which each address tries once or twice.
func (m *month) strangers() {
	for range 30 * 150 {
		at, addr, first := m.anyTime(), m.fresh(), m.r.IntN(20)
		for i := range 3 {
			at = m.add(at.Add(m.between(time.Second, time.Minute)), AuthFailure, addr, extension(first+i))
		}
	}
	for range 30 * 10 {
		at, addr, user := m.anyTime(), m.fresh(), extension(m.r.IntN(20))
		for range 6 {
			at = m.add(at.Add(m.between(time.Second, 10*time.Second)), AuthFailure, addr, user)
		}
	}
	for range 30 * 200 {
		at, addr, user := m.anyTime(), m.fresh(), extension(m.r.IntN(5))
		for range 1 + m.r.IntN(2) {
			at = m.add(at.Add(m.between(time.Second, time.Minute)), AuthFailure, addr, user)
		}
	}
}

// thieves guess passwords in five ways, and get in.
func (m *month) thieves() {
	steal := func(kind string, at time.Time, addr netip.Addr, user string) {
		m.add(at, AuthSuccess, addr, user)
		m.thefts[kind] = append(m.thefts[kind], user+" "+addr.String())
	}
	user := func() string { return extension(m.r.IntN(monthUsers)) }
	for range 5 { // one address that stays below the rules
		at, addr, victim := m.anyTime(), m.fresh(), user()
		for range 3 + m.r.IntN(20) {
			at = m.add(at.Add(m.between(76*time.Second, 15*time.Minute)), AuthFailure, addr, victim)
		}
		steal("one address", at.Add(m.between(time.Second, 15*time.Minute)), addr, victim)
	}
	for range 5 { // a server that changes its address within a network
		at, net, victim := m.anyTime(), m.fresh().As4(), user()
		host := func() netip.Addr { net[3] = byte(1 + m.r.IntN(250)); return netip.AddrFrom4(net) }
		for range 4 + m.r.IntN(30) {
			at = m.add(at.Add(m.between(10*time.Second, 5*time.Minute)), AuthFailure, host(), victim)
		}
		steal("one network", at.Add(time.Minute), host(), victim)
	}
	for range 5 { // a spray: one password, many users
		at, addr := m.anyTime(), m.fresh()
		for i := range 3 + m.r.IntN(20) {
			at = m.add(at.Add(m.between(5*time.Minute, 40*time.Minute)), AuthFailure, addr, extension(20+13*i))
		}
		steal("spray", at.Add(m.between(5*time.Minute, 40*time.Minute)), addr, extension(19))
	}
	for range 5 { // a botnet, of which one address tries again and gets in
		at, victim := m.anyTime(), user()
		var bots []netip.Addr
		for range 150 {
			bots = append(bots, m.fresh())
			at = m.add(at.Add(m.between(time.Second, 40*time.Second)), AuthFailure, bots[len(bots)-1], victim)
		}
		steal("botnet", at.Add(time.Second), bots[len(bots)-1-m.r.IntN(30)], victim)
	}
	for range 5 { // two or three addresses in turn, and a login from a fourth
		at, victim := m.anyTime(), extension(50+m.r.IntN(monthUsers-50))
		from := []netip.Addr{m.fresh(), m.fresh(), m.fresh()}[:2+m.r.IntN(2)]
		for i := range 9 + m.r.IntN(10) {
			at = m.add(at.Add(m.between(30*time.Second, 3*time.Minute)), AuthFailure, from[i%len(from)], victim)
		}
		steal("few addresses", at.Add(time.Minute), m.fresh(), victim)
	}
}

// play plays the month and returns its reports, by user and address.
func (m *month) play() map[string]SuspiciousLogin {
	slices.SortStableFunc(m.events, func(a, b monthEvent) int { return a.at.Compare(b.at) })
	failures := make(map[string][]time.Time)
	seen := make(map[string]bool)
	banned := make(map[netip.Addr]time.Time)
	for _, ev := range m.events {
		for m.now.Add(time.Minute).Before(ev.at) {
			m.now = m.now.Add(time.Minute)
			for _, d := range m.e.Advance(m.now) {
				m.collect(d)
			}
		}
		if ev.at.Before(banned[ev.addr]) {
			continue
		}
		m.now = ev.at
		place := ev.user + " " + ev.addr.String()
		if ev.kind == AuthFailure {
			failures[ev.user] = append(failures[ev.user], ev.at)
		} else if !seen[place] {
			seen[place] = true
			last := failures[ev.user]
			if n := len(last); n >= 3 && ev.at.Sub(last[n-3]) < time.Hour {
				m.crowded++
			}
		}
		if d := m.attempt(ev.kind, ev.addr, ev.user); d.Verdict == BanNow {
			banned[ev.addr] = d.Until
		}
	}
	reports := make(map[string]SuspiciousLogin)
	for _, l := range reported[SuspiciousLogin](m.world) {
		reports[l.User+" "+l.Addr.String()] = l
	}
	return reports
}

// Every password that was really guessed is reported, and of the logins of owners only those after three wrong passwords of their
// own, or while somebody guesses that user's password in earnest.
func TestSuspiciousLoginsOfSimulatedMonths(t *testing.T) {
	for seed := range 2 * *search {
		m := newMonth(t, seed)
		m.owners()
		m.strangers()
		m.thieves()
		reports := m.play()
		stolen := make(map[string]bool)
		for kind, list := range m.thefts {
			for _, place := range list {
				stolen[place] = true
				l, ok := reports[place]
				if !ok {
					t.Errorf("seed %d: %s: the theft of %s is not reported", seed, kind, place)
				}
				if unproven := kind == "few addresses" || kind != "spray" && kind != "botnet" && l.Failures < 12; ok && !l.Likely && !unproven {
					t.Errorf("seed %d: %s: %+v is not likely", seed, kind, l)
				}
			}
		}
		likely, mistyped, other := 0, 0, 0
		for place, l := range reports {
			switch {
			case stolen[place]:
			case l.Likely:
				likely++
				t.Errorf("seed %d: the owner's login %s is a likely theft: %+v", seed, place, l)
			case m.mistyped[place]:
				mistyped++
			default:
				other++
			}
		}
		if other > 10 || m.crowded < 10*other || m.crowded < 100 {
			t.Errorf("seed %d: %d owners are suspected for failures of others; %d had any", seed, other, m.crowded)
		}
		t.Logf("seed %d: %d attempts, %d bans, %d logins from new places, %d of them after three failures of the user from anywhere; reported: "+
			"%d of %d thefts, owners: %d likely, %d after mistyping three times, %d others", seed, len(m.events), len(m.bans), m.newPlaces,
			m.crowded, len(reports)-likely-mistyped-other, len(stolen), likely, mistyped, other)
	}
}
