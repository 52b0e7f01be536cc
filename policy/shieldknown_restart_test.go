package policy

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// newOffices returns a world with known-good offices, and the disk that a decision loop would keep for it.
func newOffices(t *testing.T, n int) (*world, *disk, *guarded) {
	g := &guarded{rules: DefaultRules(), o: Options{OutageMin: -1, Records: true}}
	w := newWorld(t, g.list, g.o)
	for i := range n {
		w.attempt(AuthSuccess, address(i), extension(i))
	}
	w.pass(time.Minute)
	k := newDisk()
	k.save(w.e)
	return w, k, g
}

// misuse fails at four users of each office.
func misuse(w *world, k *disk, first, n int) {
	for i := first; i < first+n; i++ {
		for user := range 4 {
			w.now = w.now.Add(time.Millisecond)
			a := Attempt{Addr: address(i), Kind: AuthFailure, User: extension(1000 + user), At: w.now}
			d := w.e.Observe(a)
			w.collect(d)
			k.take(w.e, &d, &a, w.now)
			k.save(w.e)
		}
	}
}

func TestBansOfKnownGoodAddressesCountForTheirRateAfterARestart(t *testing.T) {
	w, k, g := newOffices(t, 40)
	misuse(w, k, 0, 10)
	if len(w.bans) != 10 || w.held != 0 {
		t.Fatalf("%d bans, %d held", len(w.bans), w.held)
	}
	for range 3 {
		w.e = k.restart(g)
		w.pass(time.Second)
		if n := w.e.Guards()[KnownGoodGuard].Current; n != 10 {
			t.Fatalf("%d bans count after a restart, want 10", n)
		}
		if n := w.e.Guards()[RateGuard].Current; n != 0 {
			t.Fatalf("%d bans count for the ban rate after a restart", n)
		}
	}
	misuse(w, k, 10, 10)
	if len(w.bans) != 10 || w.held != 10 {
		t.Errorf("%d bans, %d held after a restart", len(w.bans), w.held)
	}
}

func TestHeldBansOfKnownGoodAddressesOutliveARestart(t *testing.T) {
	for name, c := range map[string]struct {
		between time.Duration // between the held ban and the restart
		again   bool          // the offices go on
		kept    int           // held or made when the guard has ended
	}{
		"those that go on":                {0, true, 1},
		"those that do not go on":         {0, false, 0},
		"those that were dropped already": {5 * time.Minute, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w, k, g := newOffices(t, 40)
			misuse(w, k, 0, 11)
			w.pass(c.between)
			before := heldPrefixes(w.e)
			w.e = k.restart(g)
			w.e.Advance(w.now)
			if after := heldPrefixes(w.e); !slices.Equal(before, after) {
				t.Fatalf("held before a restart %v, after it %v", before, after)
			}
			if c.again { // the firing from before the restart counts
				misuse(w, k, 10, 1)
			}
			w.pass(20 * time.Minute)
			if n := len(w.bans) - 10; n != c.kept || len(w.e.Held()) != 0 {
				t.Errorf("%d more bans, want %d; held %v", n, c.kept, heldPrefixes(w.e))
			}
		})
	}
}

// A replay cannot always see an outage again. Without a full rate of bans, no guard but the outage's can have held a known-good address.
func TestAnOfficeThatAnOutageHeldIsNotBannedAfterARestart(t *testing.T) {
	w, k, g := newOffices(t, 40)
	misuse(w, k, 0, 9)
	for range 3 { // in the journal, without a ban on record
		for user := range 4 {
			w.now = w.now.Add(time.Second)
			k.journal = append(k.journal, journalEntry{attempt: Attempt{Addr: office, Kind: AuthFailure, User: extension(user), At: w.now}})
		}
	}
	k.known[netip.PrefixFrom(office, 32)] = KnownGood{Prefix: netip.PrefixFrom(office, 32), Since: start, Last: w.now}
	w.e = k.restart(g)
	w.pass(time.Minute)
	if len(w.bans) != 9 || len(w.e.Held()) != 0 {
		t.Errorf("%d bans, held %v", len(w.bans), heldPrefixes(w.e))
	}
}

func heldPrefixes(e *Engine) (list []string) {
	for _, h := range e.Held() {
		list = append(list, h.Prefix.String()+" "+h.Guard.String())
	}
	slices.Sort(list)
	return list
}
