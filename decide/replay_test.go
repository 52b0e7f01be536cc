package decide

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fsban/decide/book"
	"fsban/ledger"
	"fsban/policy"
)

var (
	attacker = netip.MustParseAddr("198.51.100.66")
	office   = netip.MustParseAddr("203.0.113.5")
)

// A night is a loop that is restarted, at times that the test sets.
type night struct {
	*Loop
	t     *testing.T
	path  string
	began time.Time
	now   time.Time     // without the steps of the clock
	step  time.Duration // of the clock, all together
	tune  func(*Options)
}

func newNight(t *testing.T, tune func(*Options)) *night {
	n := &night{t: t, path: filepath.Join(t.TempDir(), "fsban.db"), began: time.Now(), now: time.Now(), tune: tune}
	n.open()
	return n
}

// wall returns the reading of the system's clock.
func (n *night) wall(t time.Time) time.Time {
	if n.step == 0 {
		return t
	}
	return t.Round(0).Add(n.step)
}

func (n *night) time() time.Time { return n.wall(n.now) }

func (n *night) tick() {
	n.followClock()
	n.Tick(n.time())
}

func (n *night) open() {
	clock := NewClock(Boot{ID: "boot", Up: n.now.Sub(n.began)}, n.wall)
	clock.now, clock.start, clock.base = func() time.Time { return n.now }, n.now, n.time().Round(0)
	disk, err := ledger.OpenStepped(n.path, n.time(), clock.Missed)
	if err != nil {
		n.t.Fatal(err)
	}
	o := testOptions(disk, n.time())
	o.Clock = clock
	if n.tune != nil {
		n.tune(&o)
	}
	n.Loop = New(o)
	n.Restore(nil, "")
	n.SetAlive(policy.Event, true)
}

// restart stops the loop in order, and starts the next one some seconds later.
func (n *night) restart() {
	n.t.Helper()
	n.stop()
	n.now = n.now.Add(5 * time.Second)
	n.open()
}

func (n *night) stop() {
	n.t.Helper()
	n.tick()
	if err := errors.Join(n.ledger.Flush(), n.ledger.Close()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *night) pass(d time.Duration) {
	for end := n.now.Add(d); n.now.Before(end); {
		n.now = n.now.Add(time.Second)
		n.tick()
	}
}

func (n *night) try(kind policy.Kind, addr netip.Addr, user string) {
	n.now = n.now.Add(10 * time.Millisecond)
	n.sequence.Count(&policy.Attempt{Addr: addr, At: n.time(), Kind: kind, User: user}, n.time())
}

func (n *night) banned(addr netip.Addr) bool {
	return n.book.Banned(netip.PrefixFrom(addr, addr.BitLen()), n.time())
}

func nth(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

func TestARestartDoesNotMakeABanThatHasEnded(t *testing.T) {
	p := netip.PrefixFrom(attacker, 32)
	for name, end := range map[string]func(*night){
		"shortened by an operator": func(n *night) {
			b := ledger.Ban{Prefix: p, Since: n.now, Until: n.now.Add(2 * time.Second), Rule: book.RuleOperator, Source: policy.Operator}
			if err := n.book.Ban(book.Entry{Ban: b, Origin: book.ByOperator}); err != nil {
				n.t.Fatal(err)
			}
		},
		"amended in the kernel": func(n *night) {
			b, _ := n.ledger.Get(p)
			b.Until = n.now.Add(2 * time.Second)
			n.ledger.Add(b)
		},
		"unbanned":               func(n *night) { b, _ := n.ledger.Get(p); n.book.Unban(b, book.Order{By: "anna"}) },
		"evicted":                func(n *night) { b, _ := n.ledger.Get(p); n.book.Evict(b, n.now) },
		"over by its own length": func(n *night) { n.pass(25 * time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNight(t, func(o *Options) { o.Settings.Memory = 48 * time.Hour })
			for range 5 {
				n.try(policy.AuthFailure, attacker, "1000")
			}
			if !n.banned(attacker) {
				t.Fatal("not banned")
			}
			n.pass(time.Second)
			end(n)
			n.pass(3 * time.Second)
			for range 3 {
				n.restart()
				n.pass(3 * time.Second)
				if n.banned(attacker) || len(n.engine.Held()) > 0 {
					b, _ := n.ledger.Get(p)
					t.Fatalf("banned again: %+v, held %+v", b, n.engine.Held())
				}
			}
			n.pass(2 * time.Minute) // beyond the grace
			for range 5 {
				n.try(policy.AuthFailure, attacker, "1000")
			}
			if !n.banned(attacker) {
				t.Error("five failures more do not ban it again")
			}
		})
	}
}

// Offices are banned a moment before the outage of their directory is seen.
func TestALiftedBanStaysLiftedOverARestart(t *testing.T) {
	n := newNight(t, nil)
	for i := range 20 {
		n.try(policy.AuthSuccess, nth(i), fmt.Sprint("home", i))
	}
	n.pass(15 * time.Minute) // younger ones do not count for an outage
	n.try(policy.AuthSuccess, office, "1000")
	for i := range 4 {
		n.try(policy.AuthFailure, office, string(rune('a'+i)))
	}
	if !n.banned(office) {
		t.Fatal("not banned")
	}
	n.restart()
	for i := range 4 {
		n.try(policy.AuthFailure, nth(30), string(rune('a'+i)))
	}
	n.try(policy.AuthSuccess, attacker, "1000")
	for i := range 4 {
		n.try(policy.AuthFailure, attacker, string(rune('a'+i)))
	}
	if !n.banned(attacker) {
		t.Fatal("not banned")
	}
	n.pass(time.Second) // its record is deleted
	for i := range 20 {
		n.try(policy.AuthFailure, nth(i), fmt.Sprint("home", i))
	}
	n.pass(2 * time.Second)
	if n.banned(attacker) || !n.banned(nth(30)) {
		t.Fatalf("lifted: %v, a stranger's: %v", !n.banned(attacker), !n.banned(nth(30)))
	}
	n.restart()
	n.pass(5 * time.Minute)
	if _, known := n.engine.KnownGood(attacker); n.banned(attacker) || !known {
		t.Errorf("after the restart: banned %v, known-good %v", n.banned(attacker), known)
	}
	if o, offended := n.engine.Offence(netip.PrefixFrom(attacker, 32)); offended {
		t.Errorf("the lifted ban is on record: %+v", o)
	}
}

func TestAReleasedBanEndsKnownGoodOverARestart(t *testing.T) {
	n := newNight(t, nil)
	for i := range 20 {
		n.try(policy.AuthSuccess, nth(i), fmt.Sprint("home", i))
	}
	n.pass(15 * time.Minute) // younger ones do not count for an outage
	for i := range 20 {
		n.try(policy.AuthFailure, nth(i), fmt.Sprint("home", i))
	}
	for i := range 4 {
		n.try(policy.AuthFailure, nth(3), string(rune('a'+i)))
	}
	p := netip.PrefixFrom(nth(3), 32)
	n.pass(time.Second) // its record is written
	d, held := n.engine.Release(p, n.now)
	if !held {
		t.Fatal("no ban is held")
	}
	effects{n.Loop}.Due(&d, n.now)
	if !n.banned(nth(3)) {
		t.Fatal("not banned")
	}
	n.restart()
	if g, known := n.engine.KnownGood(nth(3)); known || !n.banned(nth(3)) {
		t.Errorf("after the restart: known-good %+v, banned %v", g, n.banned(nth(3)))
	}
}

func TestHeldBansForUnansweredChallengesOutliveARestart(t *testing.T) {
	n := newNight(t, func(o *Options) { o.Settings.Policy.BanRate = 1 })
	for range 5 {
		n.try(policy.AuthFailure, attacker, "1000")
	}
	for range 60 {
		n.try(policy.Challenge, nth(1), "1000")
	}
	for range 59 {
		n.try(policy.Challenge, nth(2), "1000")
	}
	n.pass(10 * time.Second)
	if held := n.engine.Held(); len(held) != 1 || held[0].Rule.Name != "challenge" {
		t.Fatalf("held %+v", held)
	}
	n.restart()
	if held := n.engine.Held(); len(held)+len(n.ledger.List()) != 2 {
		t.Fatalf("held after the restart %+v, bans %+v", held, n.ledger.List())
	}
	n.try(policy.Challenge, nth(2), "1000")
	n.pass(3 * time.Minute)
	if !n.banned(nth(1)) || !n.banned(nth(2)) {
		t.Errorf("the held ban is made: %v; 59 and 1 challenges are 60: %v", n.banned(nth(1)), n.banned(nth(2)))
	}
}

func TestALowerMaxRetryBansAfterTheRestart(t *testing.T) {
	n := newNight(t, nil)
	for range 4 {
		n.try(policy.AuthFailure, attacker, "1000")
	}
	n.tune = func(o *Options) { o.Settings.Rules[0].MaxRetry = 3 }
	n.restart()
	n.pass(2 * time.Minute)
	if !n.banned(attacker) {
		t.Error("four failures, maxretry is 3 now, and no ban")
	}
}

func TestTheOutageGuardsLimitIsTheSameAfterARestart(t *testing.T) {
	n := newNight(t, nil)
	n.now = n.now.Truncate(time.Hour).Add(30 * time.Minute)
	for i := range 1000 {
		n.try(policy.AuthSuccess, nth(i), fmt.Sprint("home", i))
	}
	want := n.engine.Guards()[policy.OutageGuard].Limit
	n.restart()
	if got := n.engine.Guards()[policy.OutageGuard].Limit; got != want || want != 50 {
		t.Errorf("%d addresses are an outage after the restart, %d before, want 50", got, want)
	}
}

// The clock is stepped between two ticks, while fsban is stopped, or between its attempts and a restart.
func TestAStepOfTheClockChangesNoDecision(t *testing.T) {
	for _, step := range steps {
		for name, play := range map[string]func(*night){
			"live":           func(n *night) { n.step += step; n.pass(time.Second) },
			"then a restart": func(n *night) { n.step += step; n.pass(time.Second); n.restart() },
			"while stopped":  func(n *night) { n.stop(); n.step += step; n.open() },
			"twice": func(n *night) {
				n.step += step
				n.pass(time.Second)
				n.restart()
				n.stop()
				n.step += step / 2
				n.open()
				n.restart()
			},
		} {
			n := newNight(t, nil)
			n.pass(2 * time.Second)
			for range 4 {
				n.try(policy.AuthFailure, attacker, "1000")
				n.try(policy.AuthFailure, nth(1), "1000")
			}
			n.pass(4*time.Minute + 40*time.Second)
			play(n)
			n.try(policy.AuthFailure, attacker, "1000")
			if !n.banned(attacker) {
				t.Errorf("%s, %v: the fifth failure within the findtime does not ban", name, step)
			}
			n.pass(time.Minute)
			n.try(policy.AuthFailure, nth(1), "1000")
			if n.banned(nth(1)) {
				t.Errorf("%s, %v: the fifth failure bans, after the findtime", name, step)
			}
		}
	}
}

// Guards may hold a ban again that an operator has made meanwhile, because the journal is counted without the bans in force.
func TestARestartHoldsNoBanThatIsInForce(t *testing.T) {
	n := newNight(t, func(o *Options) { o.Settings.Policy.BanRate = 1 })
	for i := range 3 {
		for range 5 {
			n.try(policy.AuthFailure, nth(i), "1000")
		}
	}
	p := netip.PrefixFrom(nth(2), 32)
	held := func() bool {
		return slices.ContainsFunc(n.engine.Held(), func(h policy.HeldBan) bool { return h.Prefix == p })
	}
	if !held() {
		t.Fatalf("held %+v", n.engine.Held())
	}
	b := ledger.Ban{Prefix: p, Since: n.now, Until: n.now.Add(time.Hour), Rule: book.RuleOperator, Source: policy.Operator}
	if err := n.book.Ban(book.Entry{Ban: b, Origin: book.ByOperator}); err != nil {
		t.Fatal(err)
	}
	n.restart()
	if !n.banned(nth(2)) || held() {
		t.Errorf("banned %v, held %+v", n.banned(nth(2)), n.engine.Held())
	}
}
