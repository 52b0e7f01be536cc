package decide

import (
	"net/netip"
	"testing"
	"time"

	"fsban/ledger"
	"fsban/policy"
)

// Attempts in the journal make no ban again that the ledger has seen end, whatever else has changed.
func TestARestartDoesNotMakeAnEndedBanOfAnotherKind(t *testing.T) {
	fail := func(n *night, users, times int) {
		for i := range times {
			n.try(policy.AuthFailure, attacker, string(rune('a'+i%users)))
		}
	}
	setBanTime := func(o *Options, d time.Duration) {
		for i := range o.Settings.Rules {
			o.Settings.Rules[i].BanTime = d
		}
	}
	evict := func(n *night) {
		b, _ := n.ledger.Get(netip.PrefixFrom(attacker, 32))
		n.book.Evict(b, n.now)
	}
	for name, c := range map[string]struct {
		before, after func(*Options)
		attack, end   func(*night)
		rule          string
	}{
		"over, and bantime is longer now": {
			func(o *Options) { setBanTime(o, time.Hour) }, func(o *Options) { setBanTime(o, 48*time.Hour) },
			func(n *night) { fail(n, 1, 5) }, func(n *night) { n.pass(61 * time.Minute) }, "auth",
		},
		"evicted, and bantime is longer now": {
			func(o *Options) { setBanTime(o, time.Hour) }, func(o *Options) { setBanTime(o, policy.Forever) },
			func(n *night) { fail(n, 1, 5) }, evict, "auth",
		},
		"of an office": {
			nil, nil,
			func(n *night) { n.try(policy.AuthSuccess, attacker, "1000"); fail(n, 2, 100) }, evict, "office",
		},
		"amended in the kernel, and the offence is forgotten": {
			func(o *Options) { o.Settings.Policy.MaxOffenders = 1 }, func(o *Options) { o.Settings.Policy.MaxOffenders = 1 },
			func(n *night) { fail(n, 1, 5) },
			func(n *night) {
				b, _ := n.ledger.Get(netip.PrefixFrom(attacker, 32))
				b.Until = n.now.Add(2 * time.Second)
				n.ledger.Add(b)
				for range 5 {
					n.try(policy.AuthFailure, nth(1), "1000")
				}
			}, "auth",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tune := func(change func(*Options)) func(*Options) {
				return func(o *Options) {
					o.Settings.Memory, o.Settings.History.Keep, o.Settings.History.Max = 48*time.Hour, 48*time.Hour, 100
					if change != nil {
						change(o)
					}
				}
			}
			n := newNight(t, tune(c.before))
			c.attack(n)
			b, banned := n.ledger.Get(netip.PrefixFrom(attacker, 32))
			if !banned || b.Rule != c.rule {
				t.Fatalf("ban %+v, want one by rule %s", b, c.rule)
			}
			n.pass(time.Second)
			c.end(n)
			n.pass(3 * time.Second)
			n.tune = tune(c.after)
			for range 3 {
				n.restart()
				n.pass(3 * time.Second)
				if list, _, _ := n.ledger.History(ledger.Query{}); len(list) == 0 {
					t.Fatal("no ended ban in the history")
				}
				for _, h := range n.engine.Held() {
					t.Errorf("held %v", h.Prefix)
				}
				if n.banned(attacker) {
					t.Fatal("banned again")
				}
			}
		})
	}
}
