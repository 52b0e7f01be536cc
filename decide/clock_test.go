package decide

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fsban/decide/book"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// A kernelByWall is a kernel whose entries end by the system's clock, as the rules of backend rules do. Other kernels' entries end
// by monotonic time, as firewall.Recorder's.
type kernelByWall struct {
	*firewall.Recorder
	host *host
	mu   sync.Mutex
	ends map[netip.Prefix]time.Time
}

func (k *kernelByWall) Apply(orders []firewall.Order) ([]firewall.Order, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range orders {
		switch {
		case !o.Add:
			delete(k.ends, o.Prefix)
		case o.Until.IsZero():
			k.ends[o.Prefix] = o.Until
		default:
			k.ends[o.Prefix] = k.host.wall(time.Now()).Add(time.Until(o.Until)).Round(0)
		}
	}
	return nil, nil
}

func (k *kernelByWall) Entries() ([]firewall.Entry, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []firewall.Entry
	now := k.host.wall(time.Now()).Round(0)
	for p, until := range k.ends {
		if until.IsZero() || until.After(now) {
			list = append(list, firewall.Entry{Prefix: p, Left: firewall.Left(until, now), ByWall: true})
		} else {
			delete(k.ends, p)
		}
	}
	return list, nil
}

func (*kernelByWall) Intact(func(int) bool) (bool, error) { return true, nil }

// A host has a clock that can be set, a kernel, and a loop with ledger and enforcer that can be restarted.
type host struct {
	*Loop
	t        *testing.T
	path     string
	booted   time.Time
	mu       sync.Mutex
	steps    []stepAt // of the system's clock
	backend  firewall.Backend
	enforcer *firewall.Enforcer
	stop     func()
}

func newHost(t *testing.T, byWall bool) *host {
	h := &host{t: t, path: filepath.Join(t.TempDir(), "fsban.db"), booted: time.Now()}
	h.backend = firewall.NewRecorder()
	if byWall {
		h.backend = &kernelByWall{Recorder: firewall.NewRecorder(), host: h, ends: make(map[netip.Prefix]time.Time)}
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

type stepAt struct {
	at time.Time
	by time.Duration
}

// wall returns the reading of the system's clock at a time of the bubble's.
func (h *host) wall(t time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	wall := t.Round(0)
	for _, s := range h.steps {
		if !t.Before(s.at) {
			wall = wall.Add(s.by)
		}
	}
	return wall
}

// setClock sets the system's clock.
func (h *host) setClock(by time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.steps = append(h.steps, stepAt{time.Now(), by})
	h.t.Log(time.Since(h.booted), "clock set by", by)
}

func (h *host) start() {
	clock := NewClock(Boot{ID: "boot", Up: time.Since(h.booted)}, h.wall)
	disk, err := ledger.OpenStepped(h.path, clock.Now(), clock.Missed)
	if err != nil {
		h.t.Fatal(err)
	}
	o := testOptions(disk, clock.Now())
	o.Clock = clock
	h.enforcer = firewall.NewEnforcer(h.backend, firewall.EnforcerOptions{
		Bans: func() iter.Seq2[netip.Prefix, time.Time] { return disk.Each }, Tally: disk.Tally, Clock: clock.Reading,
		Adopt: func(found []firewall.Entry) { h.Found(found) },
		Amend: func(entries []firewall.Entry) { h.Amended(entries) },
	})
	o.Firewall = h.enforcer
	h.Loop = New(o)
	h.Restore(nil, "")
	h.SetAlive(policy.Event, true)
	var stops []func()
	for _, run := range []func(context.Context) error{h.Run, h.enforcer.Run, disk.Run} { // in the order of their ends
		ctx, cancel := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				h.t.Error(err)
			}
		})
		stops = append(stops, func() { cancel(); done.Wait() })
	}
	h.stop = func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// ban orders a ban as the control socket does, and returns when it is over by monotonic time.
func (h *host) ban(p netip.Prefix, d time.Duration) time.Time {
	h.t.Helper()
	if _, err := h.Ban(h.t.Context(), BanOrder{Prefix: p, BanTime: d}); err != nil {
		h.t.Fatal(err)
	}
	if d == policy.Forever {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// kernelLeft returns the remaining times in the kernel.
func (h *host) kernelLeft() map[netip.Prefix]time.Duration {
	list, err := h.backend.Entries()
	if err != nil {
		h.t.Fatal(err)
	}
	left := make(map[netip.Prefix]time.Duration)
	for _, e := range list {
		left[e.Prefix] = e.Left
	}
	return left
}

// agree compares ledger and kernel with the bans that should be in force, and their ends by monotonic time.
func (h *host) agree(want map[netip.Prefix]time.Time) {
	h.t.Helper()
	kernel, now := h.kernelLeft(), time.Now()
	near := func(a, b time.Duration) bool { return a == b || a > 0 && b > 0 && (a-b).Abs() < 3*time.Second }
	for p, end := range want {
		left := policy.Forever
		if !end.IsZero() {
			if left = end.Sub(now); left < 3*time.Second { // about to end
				delete(kernel, p)
				continue
			}
		}
		b, ok := h.ledger.Get(p)
		if !ok || !near(b.Left(h.Now()), left) {
			h.t.Errorf("%v: in the ledger %v with %v left, want %v", p, ok, b.Left(h.Now()), left)
		}
		if in, ok := kernel[p]; !ok || !near(in, left) {
			h.t.Errorf("%v: in the kernel %v with %v left, want %v", p, ok, in, left)
		}
		delete(kernel, p)
	}
	if len(kernel) > 0 {
		h.t.Errorf("the kernel holds more: %v", kernel)
	}
	for _, b := range h.ledger.List() {
		if b.Left(h.Now()) < 2*time.Second && !b.Until.IsZero() {
			continue // about to end
		}
		if _, ok := want[b.Prefix]; !ok || b.Rule == book.RuleKernel {
			h.t.Errorf("the ledger holds %+v", b)
		}
	}
}

var steps = []time.Duration{-2 * time.Hour, -90 * time.Second, -5 * time.Second, 5 * time.Second, 90 * time.Second, 2 * time.Hour, 400 * 24 * time.Hour}

// onEachKernel runs f with a clock that is set back or forward, with entries that end by monotonic time and by the clock.
func onEachKernel(t *testing.T, f func(h *host, step time.Duration)) {
	for _, byWall := range []bool{false, true} {
		for _, step := range steps {
			t.Run(fmt.Sprintf("by wall %v, %v", byWall, step), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { f(newHost(t, byWall), step) })
			})
		}
	}
}

func prefixOf(i int) netip.Prefix { return netip.PrefixFrom(nth(i), 32) }

func TestBansLastAsLongAsBeforeAStepOfTheClock(t *testing.T) {
	onEachKernel(t, func(h *host, step time.Duration) {
		time.Sleep(15 * time.Second)
		want := map[netip.Prefix]time.Time{prefixOf(1): h.ban(prefixOf(1), 4*time.Second), prefixOf(2): h.ban(prefixOf(2), 10*time.Minute), prefixOf(3): h.ban(prefixOf(3), policy.Forever)}
		h.setClock(step)
		want[prefixOf(4)] = h.ban(prefixOf(4), time.Minute) // before the loop knows
		time.Sleep(5 * time.Second)
		delete(want, prefixOf(1))
		time.Sleep(20 * time.Second)
		h.agree(want)
		h.setClock(-step)
		time.Sleep(25 * time.Second)
		h.agree(want)
		time.Sleep(20 * time.Second)
		delete(want, prefixOf(4))
		h.agree(want)
		if _, found, _, err := h.Unban(h.t.Context(), prefixOf(2), book.Order{By: "anna"}); !found || err != nil {
			h.t.Fatal(found, err)
		}
		delete(want, prefixOf(2))
		time.Sleep(15 * time.Second)
		h.agree(want)
	})
}

func TestBansLastAsLongAsBeforeAStepOfTheClockWhileStopped(t *testing.T) {
	onEachKernel(t, func(h *host, step time.Duration) {
		want := map[netip.Prefix]time.Time{prefixOf(2): h.ban(prefixOf(2), 10*time.Minute), prefixOf(3): h.ban(prefixOf(3), policy.Forever)}
		if _, _, err := h.Allow(h.t.Context(), AllowOrder{Prefix: prefixOf(9), By: "anna", Time: 10 * time.Minute}); err != nil {
			h.t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		for range 2 { // the second time nothing has happened
			h.stop()
			h.setClock(step)
			step = 0
			time.Sleep(10 * time.Second)
			h.start()
			time.Sleep(15 * time.Second)
			h.agree(want)
		}
		time.Sleep(8 * time.Minute)
		if _, err := h.Ban(h.t.Context(), BanOrder{Prefix: prefixOf(9), BanTime: time.Second}); err == nil {
			h.t.Error("the allowance ended early")
		}
		time.Sleep(2 * time.Minute)
		h.agree(map[netip.Prefix]time.Time{prefixOf(3): {}})
		h.ban(prefixOf(9), time.Second)
	})
}

// Over a boot only a clock that was set back shows.
func TestAClockThatIsSetBackOverABootExtendsNoBan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, false)
		end := h.ban(prefixOf(1), 10*time.Minute)
		time.Sleep(2 * time.Second)
		h.stop()
		h.setClock(-50 * 365 * 24 * time.Hour)
		h.booted = time.Now()
		state := h.resume.sealed
		h.backend = firewall.NewRecorder()
		c := NewClock(Boot{ID: "another"}, h.wall)
		if by := c.Missed(state); (by + 50*365*24*time.Hour).Abs() > time.Minute {
			t.Errorf("missed %v", by)
		}
		disk, err := ledger.OpenStepped(h.path, c.Now(), c.Missed)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = disk.Close() }()
		if b, ok := disk.Get(prefixOf(1)); !ok || (b.Left(c.Now())-time.Until(end)).Abs() > time.Minute {
			t.Errorf("%v, with %v left", ok, b.Left(c.Now()))
		}
		h.stop = func() {}
	})
}

func TestSmallDifferencesAreNoStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, false)
		h.setClock(900 * time.Millisecond)
		time.Sleep(2 * time.Second)
		if _, n := h.clock.Reading(); n != 0 {
			t.Errorf("%d steps", n/2)
		}
		h.setClock(900 * time.Millisecond)
		time.Sleep(2 * time.Second)
		if _, n := h.clock.Reading(); n != 2 {
			t.Errorf("%d steps of 1.8 s in two parts", n/2)
		}
	})
}

// An attempt is read, and the clock stepped before the loop takes it.
func TestAnAttemptMovesWithTheClock(t *testing.T) {
	for _, step := range steps {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(t, false)
			time.Sleep(2 * time.Second)
			for i := range 5 {
				now := time.Now()
				time.Sleep(time.Millisecond)
				switch i {
				case 2: // read after the step, decided on before the loop has followed
					h.setClock(step)
					now = time.Now()
				case 3: // read before the step, decided on after the loop has followed
					h.setClock(step)
					time.Sleep(2 * time.Second)
				}
				h.Offer(policy.Attempt{Addr: attacker, At: h.wall(now), Kind: policy.AuthFailure, User: "1000"}, now)
				synctest.Wait()
			}
			if _, banned := h.ledger.Get(netip.PrefixFrom(attacker, 32)); !banned {
				t.Errorf("stepped by %v: five failures do not ban", step)
			}
		})
	}
}

// Under random orders, clock steps and restarts, ledger and kernel hold the ordered bans, and none is adopted.
func TestNoSequenceOfStepsChangesABan(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playSteps(t, seed) })
		})
	}
}

func playSteps(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 15))
	h := newHost(t, seed%2 == 1)
	want := make(map[netip.Prefix]time.Time)
	for range 60 {
		p, order := prefixOf(r.IntN(12)), r.IntN(8)
		t.Log(time.Since(h.booted), order, p)
		switch order {
		case 0, 1:
			want[p] = h.ban(p, time.Duration(5+r.IntN(600))*time.Second)
		case 2:
			want[p] = h.ban(p, policy.Forever)
		case 3:
			if _, _, _, err := h.Unban(t.Context(), p, book.Order{By: "anna"}); err != nil {
				t.Fatal(err)
			}
			delete(want, p)
		case 4, 5:
			h.setClock(time.Duration(r.Int64N(int64(6*time.Hour))) - 3*time.Hour)
		case 6:
			h.stop()
			if r.IntN(2) == 0 {
				h.setClock(time.Duration(r.Int64N(int64(6*time.Hour))) - 3*time.Hour)
			}
			time.Sleep(time.Duration(r.IntN(20)) * time.Second)
			h.start()
		case 7:
			time.Sleep(time.Duration(r.IntN(100)) * time.Second)
		}
		time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
		if r.IntN(4) > 0 {
			continue
		}
		time.Sleep(25 * time.Second)
		for p, end := range want {
			if !end.IsZero() && !end.After(time.Now()) {
				delete(want, p)
			}
		}
		if h.agree(want); t.Failed() {
			return
		}
	}
}
