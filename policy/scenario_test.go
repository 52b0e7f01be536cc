package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A world is an engine with a clock, as the daemon has it.
type world struct {
	t       *testing.T
	e       *Engine
	now     time.Time
	bans    []Decision
	spared  []Decision
	lifted  []Decision
	held    int
	reports []Report
	proof   Proof // of all attempts
}

func newWorld(t *testing.T, list NeverBan, o Options) *world {
	return &world{t: t, e: NewEngine(DefaultRules(), list, o), now: start}
}

// pass lets time pass, with a call of Advance each second.
func (w *world) pass(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(min(time.Second, end.Sub(w.now)))
		for _, d := range w.e.Advance(w.now) {
			w.collect(d)
		}
	}
}

// try has something happen now.
func (w *world) attempt(k Kind, addr netip.Addr, user string) Decision {
	return w.attemptAs(k, addr, user, "Yealink SIP-T46U 108.86.0.20")
}

func (w *world) attemptAs(k Kind, addr netip.Addr, user, agent string) Decision {
	d := w.e.Observe(Attempt{Addr: addr, At: w.now, Kind: k, Proof: w.proof, User: user, Domain: "pbx.example", Profile: "internal", UserAgent: agent})
	w.collect(d)
	return d
}

func (w *world) collect(d Decision) {
	switch d.Verdict {
	case BanNow:
		w.bans = append(w.bans, d)
	case Lift:
		w.lifted = append(w.lifted, d)
	case SparedBan:
		w.spared = append(w.spared, d)
	case Held:
		w.held++
	}
	w.reports = append(w.reports, d.Reports...)
}

// banned returns whether addr has been banned.
func (w *world) banned(addr netip.Addr) bool {
	for _, d := range w.bans {
		if d.Prefix.Contains(addr) {
			return true
		}
	}
	return false
}

func reported[R Report](w *world) (list []R) {
	for _, r := range w.reports {
		if r, ok := r.(R); ok {
			list = append(list, r)
		}
	}
	return list
}

var (
	office   = netip.MustParseAddr("203.0.113.5")
	stranger = netip.MustParseAddr("198.51.100.9")
)

func extension(i int) string { return fmt.Sprint(1000 + i) }

// Forty phones behind one address; one of them has an old password and tries every 30 seconds, all day.
func TestOfficeWithOneStuckPhone(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for i := range 40 {
		w.attempt(AuthSuccess, office, extension(i))
	}
	for tick := range 24 * 120 {
		if tick%20 == 0 {
			for i := range 39 {
				w.attempt(AuthSuccess, office, extension(i))
			}
		}
		w.attemptAs(AuthFailure, office, "1039", "old phone")
		w.pass(30 * time.Second)
	}
	if len(w.bans) != 0 || w.held != 0 {
		t.Errorf("the office was banned: %+v", w.bans)
	}
	stuck := reported[StuckPhone](w)
	if len(stuck) != 1 || stuck[0].User != "1039" || stuck[0].UserAgent != "old phone" || stuck[0].Addr != office || stuck[0].Count != 5 {
		t.Errorf("reported %+v, want one stuck phone, with 5 failures", stuck)
	}
	if now := w.e.StuckPhones(); len(now) != 1 || now[0].Count != 24*120 {
		t.Errorf("stuck phones %+v, want one with all its failures", now)
	}
	t.Run("it is put right", func(t *testing.T) {
		w.attempt(AuthSuccess, office, "1039")
		if now := w.e.StuckPhones(); len(now) != 0 {
			t.Errorf("still stuck: %+v", now)
		}
	})
	t.Run("a second one is reported too", func(t *testing.T) {
		for range 5 {
			w.attempt(AuthFailure, office, "1000")
			w.pass(time.Second)
		}
		if stuck := reported[StuckPhone](w); len(stuck) != 2 || stuck[1].User != "1000" {
			t.Errorf("reported %+v", stuck)
		}
	})
	t.Run("a guesser inside is banned all the same", func(t *testing.T) {
		for i := 0; i < 50 && !w.banned(office); i++ {
			w.attempt(AuthFailure, office, "1000")
			w.pass(time.Second)
		}
		if len(w.bans) != 1 || w.bans[0].Rule.Name != "office" || !w.bans[0].KnownGoodChanged {
			t.Fatalf("bans %+v", w.bans)
		}
		if w.e.Why(office).KnownGood != nil {
			t.Error("it is still known-good")
		}
	})
}

// Each of 200 offices has ten phones that try every 30 seconds. The directory answers nobody for ten minutes; a guesser
// goes on meanwhile. In an office all phones fail in the same second, so the first offices are banned before anybody can
// know; those bans are lifted.
// Most customers are a home with one phone, a few are offices with many; each phone registers twice an hour. When the
// directory breaks down, the offices fail often enough to be banned long before a large share of the homes has noticed.
func TestDirectoryBackendDownAmongManyHomes(t *testing.T) {
	const homes, offices, phones, period = 1000, 5, 40, 1800
	w := newWorld(t, NeverBan{}, Options{})
	hour := func(k Kind) {
		for second := range period {
			for h := second * homes / period; h < (second+1)*homes/period; h++ {
				w.attempt(k, address(h), fmt.Sprint("home", h))
			}
			for n := second * offices * phones / period; n < (second+1)*offices*phones/period; n++ {
				w.attempt(k, address(homes+n%offices), fmt.Sprintf("office%d-%d", n%offices, n/offices))
			}
			w.pass(time.Second)
		}
	}
	hour(AuthSuccess)
	hour(AuthFailure)
	w.pass(5 * time.Minute)
	for _, b := range w.bans {
		if !slices.ContainsFunc(w.lifted, func(d Decision) bool { return d.Prefix == b.Prefix }) {
			t.Errorf("%v stays banned, since %v of the outage", b.Prefix, b.Since.Sub(start)-period*time.Second)
		}
	}
	if w.held == 0 {
		t.Error("no ban was held: the scenario shows nothing")
	}
}

func TestDirectoryBackendDown(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	each := func(k Kind) {
		for o := range 200 {
			for p := range 10 {
				w.attempt(k, address(o), fmt.Sprintf("%d%02d", o, p))
			}
			if o%7 == 6 {
				w.pass(time.Second)
			}
		}
	}
	each(AuthSuccess)
	w.pass(15 * time.Minute)
	for range 20 {
		each(AuthFailure)
		w.attempt(AuthFailure, stranger, "100")
	}
	if g := w.e.Guards()[OutageGuard]; !g.Active || g.Held == 0 {
		t.Errorf("the guard: %+v", g)
	}
	for _, h := range w.e.Held() {
		if h.Guard != OutageGuard {
			t.Fatalf("held %+v", h)
		}
	}
	w.pass(3 * time.Minute)
	each(AuthSuccess)
	for _, b := range w.bans {
		lifted := slices.ContainsFunc(w.lifted, func(d Decision) bool { return d.Prefix == b.Prefix })
		if own := b.Prefix.Addr() == stranger; own == lifted {
			t.Errorf("%v was banned at %v; lifted: %t", b.Prefix, b.Since, lifted)
		}
	}
	for _, d := range w.lifted {
		_, offended := w.e.Offence(d.Prefix)
		if g, ok := w.e.KnownGood(d.Prefix.Addr()); !ok || g.Since.IsZero() || offended || d.Offence != 0 || !d.KnownGoodChanged {
			t.Errorf("lifted %+v, known %+v", d, g)
		}
	}
	if !w.banned(stranger) || len(w.lifted) == 0 || w.e.Stats().Offenders != 1 {
		t.Errorf("banned %d, lifted %d, offenders %d", len(w.bans), len(w.lifted), w.e.Stats().Offenders)
	}
	changes := reported[GuardChange](w)
	if len(changes) != 2 || !changes[0].Active || changes[1].Active || changes[1].Dropped == 0 || changes[1].Guard != OutageGuard {
		t.Errorf("changes %+v", changes)
	}
	if held := w.e.Held(); len(held) != 0 {
		t.Errorf("%d bans are still held", len(held))
	}
	if stuck := reported[StuckPhone](w); len(stuck) > 200 {
		t.Errorf("%d phones were called stuck", len(stuck))
	}
	if logins := reported[SuspiciousLogin](w); len(logins) > 0 {
		t.Errorf("the first success after it is suspicious: %+v", logins[0])
	}
}

// After a power cut 200 phones behind one address register within a second, each challenged first. Their subscriptions
// are challenged, too, and of the answers to those FreeSWITCH tells nothing.
func TestPowerCut200Phones(t *testing.T) {
	for name, known := range map[string]bool{"an office that is known": true, "one that was never seen": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, NeverBan{}, Options{})
			if known {
				w.attempt(AuthSuccess, office, "1000")
				w.pass(time.Hour)
			}
			for i := range 200 {
				w.attempt(Challenge, office, extension(i))
			}
			w.pass(800 * time.Millisecond)
			for i := range 200 {
				w.attempt(AuthSuccess, office, extension(i))
				w.attempt(Challenge, office, extension(i))
				w.attempt(Challenge, office, extension(i))
			}
			w.pass(5 * time.Minute)
			if len(w.bans) > 0 || len(w.reports) > 0 || w.e.Stats().Tracked != 0 {
				t.Errorf("bans %+v, reports %+v, stats %+v", w.bans, w.reports, w.e.Stats())
			}
		})
	}
}

// Somebody forges failures of the carrier's address, a thousand a second.
func TestSpoofedCarrier(t *testing.T) {
	carrier := netip.MustParseAddr("192.0.2.80")
	w := newWorld(t, NewNeverBan(NeverEntries("gateway carrier1", netip.PrefixFrom(carrier, 32))), Options{})
	for range 10 {
		for i := range 1000 {
			w.attempt(AuthFailure, carrier, extension(i%2))
		}
		w.pass(time.Second)
	}
	if len(w.bans) > 0 || w.held > 0 {
		t.Fatalf("banned %+v", w.bans)
	}
	if len(w.spared) != 2000 || w.spared[0].Never.Origin != "gateway carrier1" || w.spared[0].Rule.Name != "auth" {
		t.Errorf("said %d times that it would have been banned", len(w.spared))
	}
	if got := w.e.SparedCounts(); len(got) != 1 || got[0].Attempts != 10_000 || got[0].Bans != 2000 || got[0].Origin != "gateway carrier1" {
		t.Errorf("spared %+v", got)
	}
	if w.e.Stats().Offenders != 0 {
		t.Error("it has offences on record")
	}
}

// Five failures are forged of each of 12,000 addresses, 200 addresses a second.
func TestSpoofedFloodOfRandomAddresses(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	w.attempt(AuthSuccess, address(150), "1000") // one of them is a customer
	for i := range 12_000 {
		for range 5 {
			w.attempt(AuthFailure, address(i), "100")
		}
		if i%200 == 199 {
			w.pass(time.Second)
		}
	}
	if len(w.bans) != 100 {
		t.Fatalf("%d bans in the first minute, want 100", len(w.bans))
	}
	g := w.e.Guards()[RateGuard]
	if s := w.e.Stats(); !g.Active || g.Held != 10_000 || g.Limit != 100 || s.HeldLost != 1899 {
		t.Fatalf("guard %+v, stats %+v", g, s)
	}
	if w.banned(address(150)) {
		t.Error("the customer was banned")
	}
	w.pass(61 * time.Second) // the flood is over: now they are released, 100 a minute
	released := len(w.bans)
	w.pass(10 * time.Minute)
	if n := len(w.bans) - released; n < 990 || n > 1010 {
		t.Errorf("%d held bans were made in ten minutes, want about 1000", n)
	}
	if changes := reported[GuardChange](w); len(changes) != 2 || !changes[0].Active || changes[1].Active || changes[1].Held == 0 {
		t.Errorf("changes %+v", changes)
	}
	t.Run("a new guesser does not wait for them", func(t *testing.T) {
		for range 5 {
			w.attempt(AuthFailure, stranger, "100")
		}
		if !w.banned(stranger) {
			t.Error("not banned")
		}
	})
	t.Run("the operator knows better", func(t *testing.T) {
		left := len(w.e.Held())
		before := len(w.bans)
		if n := w.e.DiscardAll(); n != left || left < 8000 {
			t.Errorf("%d discarded of %d", n, left)
		}
		w.pass(10 * time.Minute)
		if len(w.bans) != before {
			t.Error("discarded bans were made")
		}
	})
}

// 5,000 addresses each try one user's password four times: no address fails often enough.
func TestBotnetOf5000Each4Tries(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for try := range 4 {
		for i := range 5000 {
			w.attempt(AuthFailure, address(i), "1007")
			if i%100 == 99 {
				w.pass(time.Second)
			}
		}
		_ = try
	}
	if len(w.bans) != 0 || w.held != 0 {
		t.Errorf("%d bans, %d held", len(w.bans), w.held)
	}
	attacks := reported[DistributedAttack](w)
	if len(attacks) != 1 || attacks[0].User != "1007" || attacks[0].Domain != "pbx.example" || attacks[0].Addresses != 20 {
		t.Fatalf("reported %+v", attacks)
	}
	if now := w.e.DistributedAttacks(); len(now) != 1 || now[0].Addresses != 64 || !now[0].Last.Equal(w.now.Add(-time.Second)) {
		t.Errorf("now %+v", now)
	}
	w.pass(2 * time.Hour)
	if now := w.e.DistributedAttacks(); len(now) != 0 {
		t.Errorf("two hours later %+v", now)
	}
}

// 5,000 addresses that go all the way: the first hundred a minute are banned at once, the others when their turn comes.
func TestBotnetOf5000Each5Tries(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for try := range 5 {
		for i := range 5000 {
			w.attempt(AuthFailure, address(i), extension(try))
			if i%1000 == 999 {
				w.pass(time.Second)
			}
		}
	}
	if len(w.bans) != 100 || len(w.e.Held()) != 4900 {
		t.Fatalf("%d bans, %d held", len(w.bans), len(w.e.Held()))
	}
	w.pass(52 * time.Minute)
	if len(w.bans) != 5000 || len(w.e.Held()) != 0 {
		t.Errorf("%d bans, %d held", len(w.bans), len(w.e.Held()))
	}
	if b := w.bans[4999]; b.Guard != RateGuard || b.Offence != 1 || len(b.Evidence) == 0 || !b.Until.After(b.Since) {
		t.Errorf("the last ban %+v", b)
	}
}

// The slow rule needs 30 failures in 24 hours: a pace under 24h/29 = 49m39s. A guesser who tries once an hour makes 24 a day,
// and is never banned by default.
func TestSlowGuesserOneAnHour(t *testing.T) {
	for _, tc := range []struct {
		every time.Duration
		want  int // number of the attempt that bans; 0: none in 30 days
	}{
		{time.Hour, 0}, {50 * time.Minute, 0}, {49*time.Minute + 40*time.Second, 0},
		{49*time.Minute + 39*time.Second, 30}, {48 * time.Minute, 30}, {6 * time.Minute, 30},
	} {
		w := newWorld(t, NeverBan{}, Options{})
		banned := 0
		for i := 1; time.Duration(i)*tc.every < 30*24*time.Hour && banned == 0; i++ {
			if d := w.attempt(AuthFailure, stranger, extension(0)); d.Verdict == BanNow {
				banned = i
				if d.Rule.Name != "slow" {
					t.Errorf("every %v: banned by %s", tc.every, d.Rule.Name)
				}
			}
			w.now = w.now.Add(tc.every)
		}
		if banned != tc.want {
			t.Errorf("one every %v: banned on attempt %d, want %d", tc.every, banned, tc.want)
		}
	}
}

// Somebody finds a password after three failures, and stays.
func TestStolenPassword(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for range 3 {
		w.attempt(AuthFailure, stranger, "1007")
		w.pass(time.Minute)
	}
	d := w.attemptAs(AuthSuccess, stranger, "1007", "friendly-scanner")
	logins := reported[SuspiciousLogin](w)
	if len(logins) != 1 || logins[0] != (SuspiciousLogin{User: "1007", Domain: "pbx.example", Addr: stranger, UserAgent: "friendly-scanner",
		At: w.now, Evidence: OwnFailures, Failures: 3, Prefixes: 1}) {
		t.Fatalf("reported %+v", logins)
	}
	if d.Verdict != Pass || d.KnownGood || !d.KnownGoodChanged {
		t.Errorf("decision %+v", d)
	}
	for range 24*60 - 1 {
		w.pass(time.Minute)
		if w.attempt(AuthSuccess, stranger, "1007").KnownGood {
			t.Fatalf("known-good %v after the suspicious login", w.now.Sub(start))
		}
	}
	w.pass(time.Minute)
	if d := w.attempt(AuthSuccess, stranger, "1007"); !d.KnownGood {
		t.Error("not known-good a day later")
	}
	if logins := reported[SuspiciousLogin](w); len(logins) != 1 {
		t.Errorf("reported %d times", len(logins))
	}
	if got := w.e.SuspiciousLogins(); len(got) != 1 || got[0] != logins[0] {
		t.Errorf("suspicious logins %+v", got)
	}
	t.Run("a user who mistypes at a new place is reported and not banned", func(t *testing.T) {
		hotel := netip.MustParseAddr("203.0.113.99")
		for range 3 {
			w.attempt(AuthFailure, hotel, "1008")
		}
		if w.attempt(AuthSuccess, hotel, "1008"); len(w.bans) != 0 || len(w.e.SuspiciousLogins()) != 2 {
			t.Errorf("bans %+v, logins %+v", w.bans, w.e.SuspiciousLogins())
		}
	})
	t.Run("one who mistypes at home is not even reported", func(t *testing.T) {
		w.attempt(AuthSuccess, office, "1009")
		for range 4 {
			w.attempt(AuthFailure, office, "1009")
		}
		if w.attempt(AuthSuccess, office, "1009"); len(w.bans) != 0 || len(w.e.SuspiciousLogins()) != 2 {
			t.Errorf("bans %+v, logins %+v", w.bans, w.e.SuspiciousLogins())
		}
	})
}

func TestIPv6AttackerWalksIts64(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for i := range 5 {
		w.attempt(AuthFailure, netip.MustParseAddr(fmt.Sprintf("2001:db8:0:7:%x::%x", i, 99-i)), "1000")
		w.pass(10 * time.Second)
	}
	if len(w.bans) != 1 || w.bans[0].Prefix != netip.MustParsePrefix("2001:db8:0:7::/64") || w.e.Stats().Tracked > 1 {
		t.Errorf("bans %+v", w.bans)
	}
}

// An administrator with an open ssh session tries out a phone and mistypes. Without the never-ban entry, fsban would ban the
// address.
func TestAdminOverSSHMistypes(t *testing.T) {
	w := newWorld(t, NewNeverBan(NeverEntries("ssh peer", netip.PrefixFrom(stranger, 32))), Options{})
	for i := range 12 {
		if d := w.attempt(AuthFailure, stranger, "1000"); d.Never == nil || d.Never.Origin != "ssh peer" || d.Verdict != Spared && d.Verdict != SparedBan {
			t.Fatalf("attempt %d: %+v", i+1, d)
		}
	}
	if len(w.bans) > 0 || len(w.spared) != 2 {
		t.Errorf("%d bans, said %d times that it would have been banned; want 0 and 2", len(w.bans), len(w.spared))
	}
	w.e.SetNeverBan(NeverBan{}) // he has logged out
	for i := range 5 {
		if d := w.attempt(AuthFailure, stranger, "1000"); (d.Verdict == BanNow) != (i == 2) {
			t.Errorf("attempt %d after it: %v", i+1, d.Verdict)
		}
	}
}
