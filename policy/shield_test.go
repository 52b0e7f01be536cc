package policy

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A shield forges attempts while a guesser tries a password from his own address.
type shield struct {
	*world
	next    int // number of the next address
	guesses int
}

// requests has each of n new addresses send times REGISTERs with a scanner's name.
func (f *shield) requests(n, times int) {
	for range n {
		f.next++
		for range times {
			f.attemptAs(Challenge, address(f.next), "100", "friendly-scanner")
		}
	}
}

// guess has the guesser try a password and reports whether he is banned.
func (f *shield) guess() bool {
	f.guesses++
	f.attempt(AuthFailure, stranger, "1000")
	return f.banned(stranger)
}

// Forged packets fill the bans of every minute. Before persistence decided, the guesser made 11,461 guesses in ten minutes of the first
// flood, and 35,000 in the second.
func TestAFloodDoesNotShieldAGuesser(t *testing.T) {
	second := func(f *shield, per int) bool { // a second of guesses, per of them
		for range per {
			if f.guess() {
				return true
			}
			f.pass(time.Second / time.Duration(per))
		}
		return false
	}
	for name, c := range map[string]struct {
		flood func(f *shield, second int)
		per   int // guesses a second
		most  int // guesses until he is banned
	}{
		"5 packets a second, in step with the ban rate": {func(f *shield, s int) {
			if s%61 == 0 {
				f.requests(100, 3)
			}
			if s%25 == 0 {
				f.requests(1, 3)
			}
		}, 19, 10},
		"3,000 packets a second":                 {func(f *shield, _ int) { f.requests(1000, 3) }, 19, 10},
		"3,000 packets a second, a slow guesser": {func(f *shield, _ int) { f.requests(1000, 3) }, 1, 10},
		"addresses that go on once, 100 a minute": {func(f *shield, s int) {
			if s%61 == 0 {
				f.requests(100, 6)
			}
			if s%25 == 0 {
				f.requests(1, 6)
			}
		}, 19, 60},
		"addresses that go on five times, 20 a second": {func(f *shield, _ int) { f.requests(20, 18) }, 19, 60},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &shield{world: newWorld(t, NeverBan{}, Options{})}
			for s := range 600 {
				c.flood(f, s)
				if s > 60 && second(f, c.per) {
					break
				}
				if s <= 60 {
					f.pass(time.Second)
				}
			}
			t.Logf("%d guesses until the ban, %d forged addresses", f.guesses, f.next)
			if !f.banned(stranger) || f.guesses > c.most {
				t.Errorf("%d guesses, banned: %t; want %d at most", f.guesses, f.banned(stranger), c.most)
			}
		})
	}
}

// With a tap he is banned at the fifth guess.
func TestAFloodDoesNotDelayTheBanOfAProvenGuesser(t *testing.T) {
	f := &shield{world: newWorld(t, NeverBan{}, Options{})}
	for range 70 {
		f.requests(1000, 3)
		f.pass(time.Second)
	}
	for range 4 {
		f.proved(AuthFailure, NonceProof, stranger, "1000")
	}
	if f.banned(stranger) {
		t.Error("banned too early")
	}
	if d := f.proved(AuthFailure, NonceProof, stranger, "1000"); d.Verdict != BanNow {
		t.Errorf("the fifth guess: %v", d.Verdict)
	}
}

// The bans of those who go on are made first, and shown first.
func TestHeldBansAreSortedByEvidence(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: 1})
	floodOf(w, 0, 20) // one is banned, the others are held
	for n := range 4 {
		floodOf(w, 15, 1+n%2) // 15 goes on four times, 16 twice
	}
	list := w.e.Held()
	if len(list) == 0 || list[0].Firings < 2 {
		t.Fatalf("%+v", list)
	}
	for i := range len(list) - 1 {
		if list[i].Firings < list[i+1].Firings {
			t.Errorf("%d firings before %d", list[i].Firings, list[i+1].Firings)
		}
	}
}

// A table of held bans that is full keeps those who go on.
func TestAFullTableOfHeldBansKeepsThoseWhoGoOn(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: 1, MaxHeld: 10})
	floodOf(w, 0, 8)
	for range 4 {
		floodOf(w, 3, 3)
	}
	floodOf(w, 100, 500)
	n := 0
	for _, h := range w.e.Held() {
		if h.Prefix.Contains(address(4)) || h.Prefix.Contains(address(5)) {
			n++
		}
	}
	if s := w.e.Stats(); n != 2 || s.Held != 10 || s.HeldLost < 480 {
		t.Errorf("%d of two are still held, %+v", n, s)
	}
}

// For every sequence of forged attempts, a proven guesser with 20 failures in 5 minutes is banned.
func TestNoForgedAttemptsHideAProvenGuesser(t *testing.T) {
	t.Parallel()
	seen := make(map[string]int)
	for seed := range sequences(2000, 200) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t, NeverBan{}, Options{
			BanRate: 1 + r.IntN(5), MaxHeld: 1 + r.IntN(20), KeepEvidence: 64, OutageMin: 1 + r.IntN(3),
		})
		for i := range 5 {
			w.proved(AuthSuccess, UnknownProof, address(i), extension(i))
		}
		long := func(d Decision) bool { return d.Prefix.Contains(stranger) && !d.Short } // a short one does not end the search
		left, end := 20, w.now.Add(5*time.Minute)
		for left > 0 && !slices.ContainsFunc(w.bans, long) {
			for range r.IntN(30) { // forged, also in the guesser's name
				a := randomAttempt(r.IntN, w.now.Add(-time.Duration(r.IntN(3000))*time.Millisecond))
				a.Proof = []Proof{NoProof, UnknownProof}[r.IntN(2)]
				if a.Kind == AuthSuccess {
					a.Kind = Exploit
				}
				switch r.IntN(4) {
				case 0:
					a.Addr = stranger
				case 1:
					a.Addr = address(r.IntN(50))
				}
				w.collect(w.e.Observe(a))
			}
			left--
			w.proved(AuthFailure, []Proof{NonceProof, TCPProof}[r.IntN(2)], stranger, extension(r.IntN(3)))
			w.pass(time.Duration(r.Int64N(int64(max(end.Sub(w.now), 1)) / int64(left+1))))
		}
		i := slices.IndexFunc(w.bans, long)
		if i < 0 {
			t.Fatalf("seed %d: not banned after 20 proven guesses; held %+v", seed, w.e.Held())
		}
		seen[w.bans[i].Rule.Name]++
		seen["held"] += w.held
	}
	if t.Logf("%v", seen); seen["auth"] == 0 || seen["held"] == 0 {
		t.Error("the sequences show too little")
	}
}
