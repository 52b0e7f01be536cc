package decide

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"fsban/decide/book"
	"fsban/policy"
)

var search = flag.Int("search", 1, "play so many times the usual number of random sequences with restarts")

// Two loops see the same history of attempts, unbans and reloads. The clock of the second one is stepped, and it is restarted at random
// moments. Without guards, which a replay sees only in part, both make and end the same bans.
func TestARestartAmidReloadsAndStepsChangesNoDecision(t *testing.T) {
	var p amid
	for seed := range 10 * *search {
		p.play(t, uint64(seed))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%+v", p)
	if p.bans == 0 || p.unbans == 0 || p.reloads == 0 || p.steps == 0 || p.restarts == 0 || p.stopped == 0 {
		t.Errorf("%+v: the sequences show too little", p)
	}
}

// amid counts the events of the sequences.
type amid struct{ bans, unbans, reloads, steps, restarts, stopped int }

func (p *amid) play(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 41))
	settings := testOptions(nil, time.Time{}).Settings
	settings.Policy.BanRate, settings.Policy.OutageMin, settings.Policy.SuspiciousAfter = -1, -1, -1
	settings.Policy.KnownGoodBanRate, settings.Policy.Jitter = -1, -1 // the seed of the jitter is another after each start
	now := time.Now()
	open := func() *night {
		n := &night{t: t, path: filepath.Join(t.TempDir(), "fsban.db"), began: now, now: now}
		n.tune = func(o *Options) { o.Settings = settings }
		n.open()
		return n
	}
	steady, restarted := open(), open()
	both := []*night{steady, restarted}
	for i := range 150 {
		addr, user := nth(r.IntN(6)), fmt.Sprint(r.IntN(3))
		kind := [...]policy.Kind{policy.AuthSuccess, policy.Challenge, policy.ACLReject, policy.AuthFailure}[min(r.IntN(6), 3)]
		seconds, by := time.Duration(r.IntN(10))*time.Second, time.Duration(r.IntN(49)-24)*time.Hour
		action := r.IntN(40)
		if action == 1 {
			p.reloads++
			settings.Rules = reloaded(r, settings.Rules)
		}
		for _, n := range both {
			switch {
			case action == 0:
				n.order(func() error {
					_, found, _, err := n.Unban(t.Context(), netip.PrefixFrom(addr, 32), book.Order{By: "anna"})
					if found {
						p.unbans++
					}
					return err
				})
			case action == 1:
				n.order(func() error { return n.Apply(t.Context(), settings) })
			case action < 8:
				n.pass(seconds)
			default:
				n.try(kind, addr, user)
			}
		}
		switch {
		case action == 2:
			p.steps++
			restarted.step += by
			steady.tick()
			restarted.tick()
		case (action == 1 || action > 36) && restarted.engine.Stats().Waiting == 0: // challenges that wait are lost
			p.restarts++
			steady.tick()
			restarted.stop()
			if r.IntN(3) == 0 {
				p.stopped++
				restarted.step += by
			}
			restarted.open()
		}
		p.bans += len(steady.ledger.List())
		if got, want := restarted.left(), steady.left(); got != want {
			t.Errorf("seed %d, step %d: after restarts %s, without %s", seed, i, got, want)
			break
		}
	}
	for _, n := range both {
		n.stop()
	}
}

// reloaded returns rules with other lengths of bans. A lower maxretry would ban at the next attempt, or at the next start.
func reloaded(r *rand.Rand, rules []policy.Rule) []policy.Rule {
	next := append([]policy.Rule(nil), rules...)
	for i := range next {
		next[i].BanTime = time.Duration(5+r.IntN(600)) * time.Second
		next[i].MaxRetry += r.IntN(2)
	}
	return next
}

// order has the loop carry out an order.
func (n *night) order(f func() error) {
	n.t.Helper()
	go func() { (<-n.requests)() }()
	if err := f(); err != nil {
		n.t.Fatal(err)
	}
}

// left returns the bans and the time that each lasts.
func (n *night) left() string {
	list := make(map[netip.Prefix]string)
	for _, b := range n.ledger.List() {
		if !b.Over(n.time()) {
			list[b.Prefix] = fmt.Sprint(b.Rule, " ", b.Until.Sub(n.time()).Round(time.Second))
			if b.Until.IsZero() {
				list[b.Prefix] = b.Rule
			}
		}
	}
	return fmt.Sprint(list)
}
