package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A disk holds the state that a decision loop saves for the next process: records, the journal, and the active bans.
type disk struct {
	known    map[netip.Prefix]KnownGood
	offences map[netip.Prefix]Offence
	journal  []journalEntry
	bans     map[netip.Prefix]time.Time // zero: without end
}

// A noted is an attempt that counted, or a prefix that began again from zero.
type journalEntry struct {
	attempt  Attempt
	unbanned netip.Prefix
	at       time.Time
}

func newDisk() *disk {
	return &disk{known: make(map[netip.Prefix]KnownGood), offences: make(map[netip.Prefix]Offence), bans: make(map[netip.Prefix]time.Time)}
}

// save writes the records that e has changed.
func (k *disk) save(e *Engine) {
	known, offences := e.Unsaved()
	for _, r := range known {
		if delete(k.known, r.Prefix); r.Value != nil {
			k.known[r.Prefix] = *r.Value
		}
	}
	for _, r := range offences {
		if delete(k.offences, r.Prefix); r.Value != nil {
			k.offences[r.Prefix] = *r.Value
		}
	}
}

// banned reports whether p is banned; then its attempts do not count.
func (k *disk) banned(p netip.Prefix, now time.Time) bool {
	until, ok := k.bans[p]
	return ok && (until.IsZero() || now.Before(until))
}

// take handles a decision as a decision loop does, on an attempt if there was one.
func (k *disk) take(e *Engine, d *Decision, a *Attempt, now time.Time) {
	if d.Unanswered != nil {
		a = d.Unanswered
	}
	if d.Journal {
		k.journal = append(k.journal, journalEntry{attempt: *a})
	}
	switch d.Verdict {
	case BanNow:
		if d.Until.IsZero() || d.Until.After(now) {
			k.bans[d.Prefix] = d.Until
		}
	case Lift:
		k.unban(e, d.Prefix, now)
	}
}

func (k *disk) unban(e *Engine, p netip.Prefix, now time.Time) {
	delete(k.bans, p)
	e.Forget(p, now)
	k.journal = append(k.journal, journalEntry{unbanned: p, at: now})
}

// restart returns an engine that has restored everything.
func (k *disk) restart(g *guarded) *Engine {
	e := NewEngine(g.rules, g.list, g.o)
	known := slices.SortedFunc(maps.Values(k.known), func(a, b KnownGood) int {
		return later(a.Last, a.Suspected).Compare(later(b.Last, b.Suspected))
	})
	for _, g := range known {
		e.SetKnownGood(g)
	}
	for _, o := range slices.SortedFunc(maps.Values(k.offences), func(a, b Offence) int { return a.Since.Compare(b.Since) }) {
		e.SetOffence(o)
	}
	for _, j := range k.journal {
		if j.unbanned.IsValid() {
			e.ReplayForget(j.unbanned, j.at)
		} else {
			e.Replay(j.attempt)
		}
	}
	return e
}

// A loop is an engine with its disk.
type loop struct {
	*disk
	e *Engine
}

// A happening is something that happens in a loop.
type step struct {
	a            Attempt
	action, pick int
}

func (g *guarded) happen() step {
	g.at = g.at.Add(time.Duration(g.c(3000)) * time.Millisecond)
	a := randomAttempt(g.c, g.at.Add(-time.Duration(g.c(2)*g.c(4000))*time.Millisecond))
	a.Addr = g.addr()
	return step{a, g.c(200), g.c(4)}
}

// do returns the decisions that h leads to, as far as they do not depend on reports.
func (l *loop) do(h *step, now time.Time, seen map[Verdict]int) (said []string) {
	e, held, p := l.e, l.e.Held(), l.e.Prefix(h.a.Addr)
	var decisions []Decision
	var own int // index of the decision on h.a, behind the decisions due before it
	switch {
	case h.action < 4: // an operator unbans
		l.unban(e, p, now)
	case h.action < 8 && len(held) > 0: // releases a held ban
		d, _ := e.Release(held[h.pick%len(held)].Prefix, now)
		decisions = []Decision{d}
	case h.action < 12 && len(held) > 0: // discards one
		p := held[h.pick%len(held)].Prefix
		e.Discard(p)
		l.unban(e, p, now)
	case h.action < 16: // shortens all bans
		for p := range l.bans {
			l.bans[p] = now
		}
	case h.action < 60:
		decisions = e.Advance(now)
	case l.banned(p, now):
		said = append(said, "banned")
	default:
		d := e.Observe(h.a)
		decisions = append(e.Due(), d)
		own = len(decisions)
	}
	for i := range decisions {
		d := &decisions[i]
		seen[d.Verdict]++
		rule := ""
		if d.Rule != nil {
			rule = d.Rule.Name
		}
		if d.Never != nil { // spared attempts are not in the journal
			continue
		}
		said = append(said, fmt.Sprint(d.Verdict, d.Prefix, rule, d.Count, d.Guard, d.KnownGood, d.Offence, d.Until))
		var attempt *Attempt
		if i == own-1 {
			attempt = &h.a
		}
		l.take(e, d, attempt, now)
	}
	l.save(e)
	return said
}

// Two engines without guards see the same history. The second is restarted at random moments.
func TestARestartChangesNoDecision(t *testing.T) {
	t.Parallel()
	sequences := sequences(200, 40)
	seen, restarts := make(map[Verdict]int), 0
	for seed := range sequences {
		g := newGuarded(rand.New(rand.NewPCG(seed, 16)).IntN)
		g.o.Records, g.o.OutageMin, g.o.BanRate = true, -1, -1
		g.o.SuspiciousAfter = -1 // failures of never-ban addresses make a login suspicious, and are not in the journal
		g.o.IPv4Prefix = 32      // a host that counts alone for a while leaves its attempts in the count of its network
		steady := &loop{newDisk(), NewEngine(g.rules, g.list, g.o)}
		restarted := &loop{newDisk(), NewEngine(g.rules, g.list, g.o)}
		for i := range 400 {
			h := g.happen()
			want, got := steady.do(&h, g.at, seen), restarted.do(&h, g.at, seen)
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d, %+v: after a restart\n%v, without\n%v", seed, i, g.o, got, want)
			}
			if g.c(20) != 0 {
				continue
			}
			advance := step{action: 59} // due decisions are journaled within a second
			steady.do(&advance, g.at, seen)
			restarted.do(&advance, g.at, seen)
			if restarted.e.Stats().Waiting > 0 {
				continue // a challenge that waits is lost
			}
			restarts++
			restarted.e = restarted.restart(g)
			if got := restarted.do(&advance, g.at, seen); len(got) > 0 {
				t.Fatalf("seed %d, step %d: a restart decides %v", seed, i, got)
			}
		}
	}
	for _, v := range []Verdict{Counted, BanNow, Excused, SparedBan} {
		if seen[v] == 0 {
			t.Errorf("no decision is %v: the sequences show too little", v)
		}
	}
	t.Logf("%d restarts", restarts)
}

// With guards, a restarted engine holds the same bans and has the same limits.
func TestARestartKeepsHeldBansAndLimits(t *testing.T) {
	t.Parallel()
	sequences := sequences(200, 40)
	seen, kept := make(map[Verdict]int), 0
	for seed := range sequences {
		g := newGuarded(rand.New(rand.NewPCG(seed, 17)).IntN)
		g.o.Records, g.o.MaxHeld, g.o.IPv4Prefix = true, 100, 32
		l := &loop{newDisk(), NewEngine(g.rules, g.list, g.o)}
		for i := range 400 {
			h := g.happen()
			l.do(&h, g.at, seen)
			if g.c(20) != 0 || l.e.Stats().Waiting > 0 {
				continue
			}
			next := l.restart(g)
			prefixes := func(e *Engine) (list []string) {
				for _, h := range e.Held() {
					if e.isKnown(keyOf(h.Prefix)) || h.endedBy(l.e.now) {
						continue // it will not be made
					}
					list = append(list, fmt.Sprint(h.Prefix, h.Rule.Name))
				}
				slices.Sort(list)
				return list
			}
			if got, want := prefixes(next), prefixes(l.e); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: held after a restart\n%v, before\n%v", seed, i, got, want)
			} else {
				kept += len(got)
			}
			if got, want := next.Guards()[OutageGuard].Limit, l.e.Guards()[OutageGuard].Limit; got != want {
				t.Fatalf("seed %d, step %d: %d addresses are an outage after a restart, %d before", seed, i, got, want)
			}
		}
	}
	if kept < 10 || seen[Lift] == 0 {
		t.Errorf("%d held bans, %d lifted: the sequences show too little", kept, seen[Lift])
	}
}

// An attempt that was read after the grace, and made in it, has counted.
func TestAnAttemptAtTheEdgeOfAGraceCountsInAReplay(t *testing.T) {
	addr, at := netip.MustParseAddr("192.0.2.7"), time.Unix(1_795_348_800, 0)
	late := Attempt{Addr: addr, Kind: AuthFailure, User: "1000", At: at.Add(DefaultOptions().Grace - time.Second)}
	for name, play := range map[string]func(*Engine){
		"live": func(e *Engine) {
			e.Forget(netip.PrefixFrom(addr, 32), at)
			e.Advance(late.At.Add(2 * time.Second))
			for range 4 {
				e.Observe(late)
			}
		},
		"replayed": func(e *Engine) {
			e.ReplayForget(netip.PrefixFrom(addr, 32), at)
			for range 4 {
				e.Replay(late)
			}
		},
	} {
		e := NewEngine(DefaultRules(), NeverBan{}, DefaultOptions())
		play(e)
		fifth := late
		fifth.At = late.At.Add(3 * time.Second)
		if d := e.Observe(fifth); d.Verdict != BanNow {
			t.Errorf("%s: the fifth failure: %v", name, d.Verdict)
		}
	}
}
