package firewall_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fsban/decide"
	"fsban/firewall"
	"fsban/internal/kerneltest"
)

// A wallClock is a system clock that can be set, for a decide.Clock. A suspended host has the same effect as a step forward: the
// kernel's timeouts and Go's monotonic time stand still, and the system's clock does not.
type wallClock struct{ offset atomic.Int64 }

func (w *wallClock) at(t time.Time) time.Time { return t.Round(0).Add(time.Duration(w.offset.Load())) }

// A steppedRig is a rig whose bans end by a clock that can be stepped.
type steppedRig struct {
	*rig
	kind    string
	wall    *wallClock
	clock   *decide.Clock
	applied atomic.Int64 // batches of orders
	amended atomic.Int64 // entries that Amend was called with

	mu      sync.Mutex
	ends    map[netip.Prefix]time.Time // of the bans, by monotonic time; zero: without end
	inForce map[netip.Prefix]time.Time // those of ends that the kernel has taken
}

func startStepped(t *testing.T, kind string) *steppedRig {
	t.Helper()
	s := &steppedRig{kind: kind, wall: new(wallClock), ends: make(map[netip.Prefix]time.Time)}
	s.clock = decide.NewClock(decide.Boot{}, s.wall.at)
	b := newBook()
	s.rig = enforce(t, &gate{Backend: openKind(t, kind, firewall.Options{})}, b, firewall.EnforcerOptions{
		Check: 50 * time.Millisecond, RetryMin: 20 * time.Millisecond, RetryMax: 50 * time.Millisecond, Clock: s.clock.Reading,
		Amend: func(entries []firewall.Entry) { s.amended.Add(int64(len(entries))) },
		Operated: func(op firewall.Operation, _ time.Duration, _ error) {
			if op == firewall.Apply {
				s.applied.Add(1)
			}
		},
	})
	s.until("enforcing", func() bool { return s.Status().Enforcing })
	return s
}

// ban bans as the decision loop does.
func (s *steppedRig) ban(p string, d time.Duration) {
	prefix, until, end := kerneltest.Prefix(p), time.Time{}, time.Time{}
	if d != firewall.Forever {
		until, end = s.clock.Now().Add(d), time.Now().Add(d)
	}
	s.mu.Lock()
	s.ends[prefix] = end
	s.mu.Unlock()
	s.book.write(prefix, until)
	s.Ban(prefix, until, firewall.Cause{Read: time.Now()})
}

// taken waits until the kernel has taken all bans.
func (s *steppedRig) taken() {
	s.t.Helper()
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inForce = maps.Clone(s.ends)
}

// step sets the system's clock. The rules of backend rules end by that clock, which no test can set: they are given the ends that
// they would have by it.
func (s *steppedRig) step(by time.Duration) {
	s.t.Helper()
	g := s.backend.(*gate)
	g.mu.Lock()
	defer g.mu.Unlock()
	s.wall.offset.Add(int64(by))
	if !strings.HasPrefix(s.kind, "rules") {
		return
	}
	const stop = "2006-01-02T15:04:05"
	for _, program := range []string{"iptables", "ip6tables"} {
		for line := range strings.Lines(kerneltest.Command(s.t, program+" -t raw -S FSBAN")) {
			before, rest, ends := strings.Cut(strings.TrimSpace(line), "--datestop ")
			if !ends {
				continue
			}
			text, after, _ := strings.Cut(rest, " ")
			end, err := time.Parse(stop, text)
			if err != nil {
				s.t.Fatal(err)
			}
			rule := strings.TrimPrefix(before, "-A ")
			kerneltest.Command(s.t, program+" -t raw -A "+rule+"--datestop "+end.Add(-by).Format(stop)+" "+after)
			kerneltest.Command(s.t, program+" -t raw -D "+rule+"--datestop "+text+" "+after)
		}
	}
}

// follow moves all bans by the step, as the decision loop does.
func (s *steppedRig) follow() {
	s.clock.Follow(func(_ time.Time, by time.Duration) {
		s.book.mu.Lock()
		defer s.book.mu.Unlock()
		for p, until := range s.book.bans {
			if !until.IsZero() {
				s.book.bans[p] = until.Add(by)
			}
		}
	})
}

// disagreement describes the first ban that is missing in the kernel, should not be there, or has another end than it should.
func (s *steppedRig) disagreement() string {
	before := time.Now()
	entries, err := s.backend.Entries()
	if err != nil {
		return err.Error()
	}
	took := time.Since(before)
	kernel := make(map[netip.Prefix]time.Duration)
	for _, e := range entries {
		kernel[e.Prefix] = e.Left
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, end := range s.ends {
		left, there := kernel[p]
		delete(kernel, p)
		want := end.Sub(before)
		switch {
		case end.IsZero() && (!there || left != firewall.Forever):
			return fmt.Sprintf("%v: %v with %v left, want a ban without end", p, there, left)
		case end.IsZero() || want.Abs() < 2*time.Second+took: // about to end
		case there != (want > 0):
			return fmt.Sprintf("%v is in the kernel: %v, with %v left of the ban", p, there, want)
		case there && (left-want).Abs() > 2*time.Second+took:
			return fmt.Sprintf("%v: %v left, want %v", p, left, want)
		}
	}
	for p := range kernel {
		return fmt.Sprintf("%v is in the kernel, and was never banned", p)
	}
	return ""
}

// agree waits until there is no disagreement.
func (s *steppedRig) agree(when string) {
	s.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		last := s.disagreement()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: %s", when, last)
		}
	}
}

// watch looks for bans that the kernel has taken and ends more than a second early, until ctx ends, and describes the first.
func (s *steppedRig) watch(ctx context.Context) (early string) {
	for ctx.Err() == nil {
		s.mu.Lock()
		expected := maps.Clone(s.inForce)
		s.mu.Unlock()
		entries, err := s.backend.Entries()
		if err != nil {
			return err.Error()
		}
		after := time.Now()
		for _, e := range entries {
			delete(expected, e.Prefix)
		}
		for p, end := range expected {
			if end.IsZero() || end.Sub(after) > time.Second {
				return fmt.Sprintf("%v ended %v early", p, end.Sub(after))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return ""
}

// After a step of the system's clock, and after a suspend, each ban lasts as long as before in the real kernel: none ends early,
// stays, or is written again and again.
func TestStepsOfTheClockChangeNoBanInTheKernel(t *testing.T) {
	kerneltest.Parallel(t)
	var all sync.WaitGroup
	for _, kind := range kinds { // side by side: they mostly wait for the kernel's timeouts
		all.Go(func() {
			t.Run(kind, func(t *testing.T) {
				onNamespace(t, kind, func(t *testing.T) { playSteps(t, kind) })
			})
		})
	}
	all.Wait()
}

// A clock that is set back revives the entry of a ban that has just ended, if the kernel ends it by that clock. Such an entry is
// removed, not adopted, whether Bans still yields the ban or not.
func TestABanThatHasEndedIsNotRevivedByAStepOfTheClock(t *testing.T) {
	for name, test := range map[string]struct {
		yields bool
		ended  time.Duration // before the step
	}{
		"the ban is yielded": {true, time.Millisecond}, "it ended long ago": {true, 5 * time.Second}, "it is not yielded": {false, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, b, wall := newKernel(), newBook(), new(wallClock)
				k.byWall = true
				clock := decide.NewClock(decide.Boot{}, wall.at)
				r := enforce(t, k, b, firewall.EnforcerOptions{Clock: clock.Reading})
				synctest.Wait()
				r.ban("192.0.2.1", time.Minute)
				r.ban("192.0.2.2", time.Hour)
				time.Sleep(time.Minute + test.ended)
				if !test.yields {
					b.strike(kerneltest.Prefix("192.0.2.1"))
				}
				const by = -2 * time.Hour
				wall.offset.Add(int64(by))
				k.change(func() {
					for _, p := range []string{"192.0.2.1", "192.0.2.2"} { // the kernel may have removed the first one
						k.holds[kerneltest.Prefix(p)] = time.Now().Add(-by)
					}
				})
				clock.Follow(func(time.Time, time.Duration) {
					b.mu.Lock()
					defer b.mu.Unlock()
					for p, until := range b.bans {
						b.bans[p] = until.Add(by)
					}
				})
				time.Sleep(3 * firewall.CompareEvery)
				synctest.Wait()
				if got := k.held(); got != "192.0.2.2" || len(r.adoptions()) > 0 || r.removals() != 1 {
					t.Errorf("the kernel holds %q; adopted %v, removed %d", got, r.adoptions(), r.removals())
				}
				if left := time.Until(k.until("192.0.2.2")); left > time.Hour {
					t.Errorf("%v left of the other ban", left)
				}
			})
		})
	}
}

func playSteps(t *testing.T, kind string) {
	s := startStepped(t, kind)
	for p, d := range map[string]time.Duration{"192.0.2.1": time.Hour, "192.0.2.2": firewall.Forever, "2001:db8::/64": 3 * time.Hour} {
		s.ban(p, d)
	}
	s.taken()
	ctx, cancel := context.WithCancel(t.Context())
	early := make(chan string, 1)
	if strings.HasPrefix(kind, "rules") {
		early <- "" // until the next check a rule has the end that the step gave it
	} else {
		go func() { early <- s.watch(ctx) }()
	}
	for i, by := range []time.Duration{2 * time.Hour, -2 * time.Hour, 400 * 24 * time.Hour, -90 * time.Second} {
		s.ban(fmt.Sprintf("198.51.100.%d", i), 6*time.Second)
		s.taken()
		s.step(by)
		s.ban(fmt.Sprintf("203.0.113.%d", i), 10*time.Minute) // before bans have followed
		s.taken()
		s.follow()
		s.agree("after a step of " + by.String())
		s.checked()
		applied, restored := s.applied.Load(), s.Status().Restored
		for range 3 {
			s.checked()
		}
		if now := s.applied.Load(); now != applied || s.Status().Restored != restored {
			t.Errorf("after a step of %v: %d batches of orders in four checks, %d bans restored", by, now-applied, s.Status().Restored-restored)
		}
	}
	for _, wait := range []time.Duration{4 * time.Second, 5 * time.Second} { // the short bans end
		time.Sleep(wait)
		s.agree("at the end")
	}
	cancel()
	if e := <-early; e != "" {
		t.Error(e)
	}
	if n := s.amended.Load(); n > 0 || len(s.adoptions()) > 0 {
		t.Errorf("%d entries amended, %v adopted", n, s.adoptions())
	}
	if n := s.removals(); n > 0 && !strings.HasPrefix(kind, "rules") { // there a step can revive the rule of a ban that has ended
		t.Errorf("%d entries rejected", n)
	}
}
