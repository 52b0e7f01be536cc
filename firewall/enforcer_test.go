package firewall_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

// A kernel is a backend that can be told to fail. Its entries end by themselves, two seconds late, and it cannot hold
// them for longer than a real one.
type kernel struct {
	mu       sync.Mutex
	holds    map[netip.Prefix]time.Time
	setups   []time.Time // when setup was called
	limits   []int
	listings int
	batches  [][]firewall.Order
	lacks    []string // objects that Setup makes next
	noSetup  error
	noApply  error
	noRules  error
	noList   error
	slow     time.Duration // duration of Verify
	verified []time.Time   // times of calls of Verify
	notes    []string
	byWall   bool                   // entries end by the system's clock
	events   chan struct{}          // another program changes something
	refuses  map[netip.Prefix]error // bans
	tap      firewall.Tap
	during   func() // called once, while a batch is applied
	listed   func() // called once, when a listing has been made, before it is handed over
}

func newKernel() *kernel {
	return &kernel{holds: make(map[netip.Prefix]time.Time), refuses: make(map[netip.Prefix]error), events: make(chan struct{})}
}

// change runs f while the enforcer does not use k.
func (k *kernel) change(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

func (*kernel) Name() string { return "kernel" }

func (*kernel) Dropped() map[string]firewall.Dropped { return nil }

func (*kernel) Capacity() (bans int, shared bool) { return 0, false }

func (*kernel) Sizes() map[string]firewall.SetSize { return nil }

func (k *kernel) Setup() (made []string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.setups = append(k.setups, time.Now())
	if k.noSetup != nil {
		return nil, k.noSetup
	}
	made, k.lacks = k.lacks, nil
	return made, nil
}

func (k *kernel) Resize(bans int) {
	k.change(func() { k.limits = append(k.limits, bans) })
}

func (k *kernel) SetTap(tap firewall.Tap) { k.change(func() { k.tap = tap }) }

func (k *kernel) Apply(orders []firewall.Order) (failed []firewall.Order, err error) {
	k.mu.Lock()
	during := k.during
	k.during = nil
	k.mu.Unlock()
	if during != nil {
		during()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.batches = append(k.batches, slices.Clone(orders))
	if k.noApply != nil {
		return orders, k.noApply
	}
	for _, o := range orders {
		switch refused := k.refuses[o.Prefix]; {
		case o.Add && refused != nil:
			failed, err = append(failed, o), fmt.Errorf("add %v: %w", o.Prefix, refused)
		case o.Add && !o.Until.IsZero():
			k.holds[o.Prefix] = time.Now().Add(min(time.Until(o.Until), firewall.MaxTimeout))
		case o.Add:
			k.holds[o.Prefix] = time.Time{}
		default:
			delete(k.holds, o.Prefix)
		}
	}
	return failed, err
}

func (k *kernel) Entries() ([]firewall.Entry, error) {
	k.mu.Lock()
	k.listings++
	err, listed := k.noList, k.listed
	k.listed = nil
	var list []firewall.Entry
	for p, until := range k.holds {
		if until.IsZero() || until.After(time.Now()) {
			list = append(list, firewall.Entry{Prefix: p, Left: firewall.Left(until, time.Now()), ByWall: k.byWall})
		}
	}
	k.mu.Unlock()
	if listed != nil {
		listed()
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (k *kernel) Intact(plausible func(int) bool) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.holds, func(_ netip.Prefix, until time.Time) bool {
		return !until.IsZero() && time.Since(until) > 2*time.Second
	})
	return plausible(len(k.holds)), nil
}

// Verify takes k.slow.
func (k *kernel) Verify(ctx context.Context) firewall.Verification {
	k.mu.Lock()
	slow := k.slow
	k.verified = append(k.verified, time.Now())
	k.mu.Unlock()
	select {
	case <-ctx.Done():
		return firewall.Verification{Err: ctx.Err()}
	case <-time.After(slow):
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return firewall.Verification{Notes: k.notes, Err: k.noRules}
}

func (k *kernel) Watch(ctx context.Context, notice func()) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.events:
			notice()
		}
	}
}

func (*kernel) Teardown() ([]string, error) { return nil, nil }

func (*kernel) Close() error { return nil }

func (k *kernel) held() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := []string{}
	for p := range k.holds {
		list = append(list, p.Addr().String())
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func (k *kernel) until(p string) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.holds[kerneltest.Prefix(p)]
}

func (k *kernel) count() (holds, setups, listings int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.holds), len(k.setups), k.listings
}

var errBroken = errors.New("broken")

func TestEveryOperationIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.slow = time.Second
		k.refuses[kerneltest.Prefix("192.0.2.9")] = errBroken
		var mu sync.Mutex
		told := make(map[string]int)
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{Operated: func(op firewall.Operation, took time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			told[fmt.Sprintf("%s %v %v", op, took, err)]++
		}})
		time.Sleep(2 * time.Second)
		r.ban("192.0.2.7", time.Hour)
		synctest.Wait()
		r.ban("192.0.2.9", time.Hour)
		synctest.Wait()
		want := map[string]int{"setup 0s <nil>": 1, "list 0s <nil>": 1, "verify 1s <nil>": 1, "apply 0s <nil>": 1, "apply 0s add 192.0.2.9/32: broken": 1}
		mu.Lock()
		defer mu.Unlock()
		if !maps.Equal(told, want) {
			t.Errorf("reported %v, want %v", told, want)
		}
	})
}

// A switch takes the new backend with the bans as commit leaves them. After an error, and without a Run that takes the order, the old
// one stays and works.
func TestASwitchIsCompleteOrHasNoEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := newKernel(), newKernel()
		bans := newBook()
		idle := firewall.NewEnforcer(old, firewall.EnforcerOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := idle.Switch(ctx, next, func() error { return nil }); !errors.Is(err, context.DeadlineExceeded) || idle.Backend() != firewall.Backend(old) {
			t.Errorf("nobody takes the order: %v", err)
		}
		r := enforce(t, old, bans, firewall.EnforcerOptions{})
		r.ban("192.0.2.7", time.Hour)
		synctest.Wait()
		if err := r.Switch(t.Context(), next, func() error { return errBroken }); !errors.Is(err, errBroken) || r.Backend() != firewall.Backend(old) {
			t.Errorf("commit fails: %v", err)
		}
		r.ban("192.0.2.8", time.Hour)
		synctest.Wait()
		if got := old.held(); got != "192.0.2.7 192.0.2.8" || next.held() != "" {
			t.Errorf("the old backend holds %q, the next %q", got, next.held())
		}
		if err := r.Switch(t.Context(), next, func() error { r.unban("192.0.2.7"); return nil }); err != nil || r.Backend() != firewall.Backend(next) {
			t.Errorf("a switch: %v", err)
		}
		synctest.Wait()
		if got := next.held(); got != "192.0.2.8" {
			t.Errorf("the next backend holds %q", got)
		}
	})
}

func TestStatusReportsEnforcing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		if s := firewall.NewEnforcer(k, firewall.EnforcerOptions{}).Status(); s.Enforcing || s.Err == nil {
			t.Errorf("before the first set-up: %+v", s)
		}
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		began := time.Now()
		if s := r.Status(); !s.Enforcing || s.Err != nil || !s.Since.Equal(began) || s.Backend != "kernel" {
			t.Errorf("after it: %+v", s)
		}
		r.ban("192.0.2.7", time.Hour)
		r.ban("192.0.2.8", firewall.Forever)
		synctest.Wait()
		r.unban("192.0.2.7")
		synctest.Wait()
		if got := k.held(); got != "192.0.2.8" {
			t.Errorf("the kernel holds %q", got)
		}
		if bans, unbans := r.applied(); bans != 2 || unbans != 1 {
			t.Errorf("%d bans and %d unbans were reported, want 2 and 1", bans, unbans)
		}
		time.Sleep(time.Hour)
		if s := r.Status(); !s.Since.Equal(began) || s.Repairs+s.Restored+s.Failures != 0 || len(r.reported()) != 1 {
			t.Errorf("after a quiet hour: %+v, reported %d times", s, len(r.reported()))
		}
	})
}

func TestOrdersOutliveAKernelThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		k.change(func() { k.noApply = errBroken })
		for i := range 100 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
		}
		time.Sleep(time.Minute)
		s := r.Status()
		if s.Enforcing || !errors.Is(s.Err, errBroken) || s.Pending != 100 || s.Failures < 5 {
			t.Errorf("while it fails: %+v", s)
		}
		if bans, _ := r.applied(); bans != 0 {
			t.Errorf("%d bans were reported as in force", bans)
		}
		k.change(func() { k.noApply = nil })
		time.Sleep(10 * time.Second)
		if s := r.Status(); !s.Enforcing || s.Err != nil || s.Pending != 0 || s.Restored != 0 {
			t.Errorf("afterwards: %+v", s)
		}
		bans, _ := r.applied()
		if holds, _, _ := k.count(); bans != 100 || holds != 100 {
			t.Errorf("%d bans reported, %d in the kernel, want 100", bans, holds)
		}
	})
}

func TestOrdersOutliveAFailedSetUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.noSetup, k.noApply = errBroken, errors.New("no set")
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		r.ban("192.0.2.7", time.Hour)
		time.Sleep(time.Second)
		if s := r.Status(); s.Enforcing || !errors.Is(s.Err, errBroken) || s.Pending != 1 {
			t.Errorf("while it cannot be set up: %+v", s)
		}
		k.change(func() { k.noSetup, k.noApply = nil, nil })
		time.Sleep(2 * time.Second)
		if s := r.Status(); !s.Enforcing || s.Pending != 0 || k.held() != "192.0.2.7" {
			t.Errorf("afterwards: %+v, the kernel holds %q", s, k.held())
		}
	})
}

func TestSetsAreFilledWhileRulesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		k.change(func() { k.noSetup = errBroken })
		time.Sleep(time.Minute)
		r.ban("192.0.2.7", time.Hour)
		synctest.Wait()
		if s := r.Status(); s.Enforcing || !errors.Is(s.Err, errBroken) || k.held() != "192.0.2.7" {
			t.Errorf("%+v, the kernel holds %q", s, k.held())
		}
	})
}

func TestNewerOrderWinsOverTheOneThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		k.change(func() { k.noApply = errBroken })
		r.ban("192.0.2.1", time.Hour)
		r.ban("192.0.2.2", time.Hour)
		r.ban("192.0.2.3", time.Hour)
		synctest.Wait()
		r.ban("192.0.2.1", 2*time.Hour)
		r.unban("192.0.2.2")
		want := time.Now().Add(2 * time.Hour)
		time.Sleep(5 * time.Second)
		if s := r.Status(); s.Pending != 3 {
			t.Errorf("%d orders wait, want the newest of each of three prefixes", s.Pending)
		}
		k.change(func() { k.noApply, k.batches = nil, nil })
		time.Sleep(10 * time.Second)
		if until := k.until("192.0.2.1"); k.held() != "192.0.2.1 192.0.2.3" || !until.Equal(want) {
			t.Errorf("the kernel holds %q, the first until %v", k.held(), until)
		}
		r.stop()
		for _, o := range slices.Concat(k.batches...) {
			if o.Prefix == kerneltest.Prefix("192.0.2.2") && o.Add || o.Prefix == kerneltest.Prefix("192.0.2.1") && !o.Until.Equal(want) {
				t.Errorf("an order that was replaced came through: %+v", o)
			}
		}
	})
}

func TestOrderGivenWhileAnOlderOneFailsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		k.change(func() {
			k.refuses[kerneltest.Prefix("192.0.2.1")] = errBroken
			k.during = func() { r.unban("192.0.2.1") }
		})
		r.ban("192.0.2.1", time.Hour)
		synctest.Wait()
		k.change(func() { delete(k.refuses, kerneltest.Prefix("192.0.2.1")) })
		time.Sleep(time.Minute)
		if s := r.Status(); !s.Enforcing || s.Pending != 0 || k.held() != "" {
			t.Errorf("%+v, the kernel holds %q, want nothing", s, k.held())
		}
	})
}

func TestRefusedBanHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		k.change(func() { k.refuses[kerneltest.Prefix("192.0.2.2")] = firewall.ErrSetFull })
		for i := range 5 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
		}
		synctest.Wait()
		if got := k.held(); got != "192.0.2.0 192.0.2.1 192.0.2.3 192.0.2.4" {
			t.Errorf("the kernel holds %q", got)
		}
		if s := r.Status(); s.Enforcing || !errors.Is(s.Err, firewall.ErrSetFull) || s.Pending != 1 {
			t.Errorf("%+v", s)
		}
		r.ban("192.0.2.9", time.Hour)
		synctest.Wait()
		if s := r.Status(); s.Enforcing || !errors.Is(s.Err, firewall.ErrSetFull) {
			t.Errorf("a success hides that another ban is refused: %+v", s)
		}
		k.change(func() { clear(k.refuses) })
		time.Sleep(10 * time.Second)
		if s := r.Status(); !s.Enforcing || s.Pending != 0 || s.Restored != 0 || !strings.Contains(k.held(), "192.0.2.2") {
			t.Errorf("with room again: %+v, the kernel holds %q", s, k.held())
		}
	})
}

func TestRefusedBansPutNoCheckOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		k.change(func() { k.noApply = firewall.ErrSetFull })
		for i := range 600 { // a minute of an attack on a full set
			r.ban(fmt.Sprintf("192.0.%d.%d", i/256, i%256), time.Hour)
			time.Sleep(97 * time.Millisecond) // never at the instant of a check: a ban that is written and not yet ordered looks like one that is lost
		}
		if _, n, _ := k.count(); n < 6 {
			t.Errorf("%d checks in a minute", n)
		}
		if n := len(r.reported()); n > 2 {
			t.Errorf("the same reason was reported %d times", n)
		}
	})
}

func TestTriesSlowDownToRetryMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.noSetup = errBroken
		began := time.Now()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{RetryMin: time.Second, RetryMax: 4 * time.Second})
		time.Sleep(16 * time.Second)
		k.change(func() { k.noSetup = nil })
		time.Sleep(30 * time.Second)
		r.stop()
		var got []string
		for _, at := range k.setups {
			got = append(got, at.Sub(began).String())
		}
		if want := "0s 1s 3s 7s 11s 15s 19s 29s 39s"; strings.Join(got, " ") != want {
			t.Errorf("checks at %v, want %s", got, want)
		}
	})
}

func TestStartRestoresAndAdopts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.holds[kerneltest.Prefix("192.0.2.1")] = time.Now().Add(time.Hour)       // known
		k.holds[kerneltest.Prefix("192.0.2.2")] = time.Now().Add(time.Hour)       // of an earlier run
		k.holds[kerneltest.Prefix("192.0.2.3")] = time.Time{}                     // by hand
		k.holds[kerneltest.Prefix("192.0.2.4")] = time.Now().Add(2 * time.Second) // almost over
		b := newBook()
		b.write(kerneltest.Prefix("192.0.2.1"), time.Now().Add(time.Hour))
		b.write(kerneltest.Prefix("192.0.2.5"), time.Now().Add(time.Hour)) // lost with a reboot
		b.write(kerneltest.Prefix("192.0.2.6"), time.Now())                // over
		r := enforce(t, k, b, firewall.EnforcerOptions{})
		synctest.Wait()
		if got := k.held(); got != "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5" {
			t.Errorf("the kernel holds %q", got)
		}
		var adopted []string
		for _, e := range r.adopted {
			adopted = append(adopted, fmt.Sprint(e.Prefix.Addr(), " ", e.Left))
		}
		slices.Sort(adopted)
		if want := []string{"192.0.2.2 1h0m0s", "192.0.2.3 -1ns"}; !slices.Equal(adopted, want) {
			t.Errorf("adopted %q, want %q", adopted, want)
		}
		if s := r.Status(); !s.Enforcing || s.Restored != 0 {
			t.Errorf("%+v", s)
		}
		if bans, _ := r.applied(); bans != 0 {
			t.Errorf("%d restored bans were reported as new", bans)
		}
	})
}

// An entry that its owner unbans is removed and reported each time that it is found, and Bans never yields it.
func TestRejectedEntriesAreRemovedEachTime(t *testing.T) {
	for name, end := range map[string]time.Duration{"endless": firewall.Forever, "for an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, b := newKernel(), newBook()
				put := func() {
					k.change(func() {
						until := time.Time{}
						if end != firewall.Forever {
							until = time.Now().Add(end)
						}
						k.holds[kerneltest.Prefix("192.0.2.1")] = until
					})
				}
				put()
				k.holds[kerneltest.Prefix("192.0.2.2")] = time.Now().Add(time.Hour)
				r := rejecting(t, k, b, firewall.EnforcerOptions{}, func(p netip.Prefix) bool { return p == kerneltest.Prefix("192.0.2.1") })
				for n := range 5 {
					synctest.Wait()
					if got := k.held(); got != "192.0.2.2" {
						t.Errorf("the kernel holds %q", got)
					}
					if s := r.Status(); !s.Enforcing || s.Pending != 0 {
						t.Errorf("%+v", s)
					}
					if _, there := b.bans[kerneltest.Prefix("192.0.2.1")]; there || r.removals() != n+1 || len(r.adopted) != 1 {
						t.Errorf("banned: %v, removed %d times, adopted %v", there, r.removals(), r.adopted)
					}
					put()
					time.Sleep(11 * time.Second)
				}
			})
		})
	}
}

// A ban that the owner orders after the unban of an entry that was found stays.
func TestABanIsNewerThanARejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := newKernel(), newBook()
		var r *rig
		rejected := 0
		r = rejecting(t, k, b, firewall.EnforcerOptions{}, func(p netip.Prefix) bool {
			if rejected++; rejected == 1 {
				time.AfterFunc(0, func() {
					b.write(p, time.Now().Add(time.Hour))
					r.Ban(p, time.Now().Add(time.Hour), firewall.Cause{})
				})
			}
			return true
		})
		synctest.Wait()
		k.change(func() { k.holds[kerneltest.Prefix("192.0.2.1")] = time.Time{} })
		time.Sleep(time.Minute)
		if got := k.until("192.0.2.1"); got.IsZero() || rejected != 1 {
			t.Errorf("the kernel holds it until %v, rejected %d times", got, rejected)
		}
	})
}

func TestRemovedEntriesAreRestored(t *testing.T) {
	for name, test := range map[string]struct {
		damage            func(*kernel)
		repairs, restored uint64
	}{
		"one entry":   {func(k *kernel) { delete(k.holds, kerneltest.Prefix("192.0.2.1")) }, 0, 1},
		"all entries": {func(k *kernel) { clear(k.holds) }, 0, 3},
		"the rules":   {func(k *kernel) { k.lacks = []string{"rule", "jump"} }, 2, 0},
		"everything":  {func(k *kernel) { clear(k.holds); k.lacks = []string{"set", "rule", "jump"} }, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKernel()
				r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
				for i := range 3 {
					r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
				}
				synctest.Wait()
				k.change(func() { test.damage(k) })
				time.Sleep(11 * time.Second)
				if k.held() != "192.0.2.0 192.0.2.1 192.0.2.2" {
					t.Errorf("the kernel holds %q", k.held())
				}
				if s := r.Status(); s.Repairs != test.repairs || s.Restored != test.restored || !s.Enforcing {
					t.Errorf("%d repaired and %d restored, want %d and %d: %+v", s.Repairs, s.Restored, test.repairs, test.restored, s)
				}
				if told := r.reported(); len(told) != 2 || told[1].Repairs != test.repairs || told[1].Restored != test.restored {
					t.Errorf("told %+v, want the start and the repair", told)
				}
			})
		})
	}
}

func TestRefusedBansDoNotHideThatOthersAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		for i := range 20 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
		}
		synctest.Wait()
		k.change(func() { k.refuses[kerneltest.Prefix("192.0.2.99")] = errBroken })
		r.ban("192.0.2.99", time.Hour)
		synctest.Wait()
		k.change(func() { clear(k.holds) })
		time.Sleep(20 * time.Second)
		if n, _, _ := k.count(); n != 20 {
			t.Errorf("%d bans are in force, want 20", n)
		}
		if s := r.Status(); s.Pending != 1 || s.Restored != 20 {
			t.Errorf("%+v", s)
		}
	})
}

func TestRefusedBansNeedNoListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.refuses[kerneltest.Prefix("192.0.2.99")] = errBroken
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		r.ban("192.0.2.99", time.Hour)
		for i := range 50 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
		}
		time.Sleep(10 * time.Minute)
		if holds, setups, n := k.count(); n > 10 || setups < 50 || holds != 50 {
			t.Errorf("%d listings in %d checks, want one a minute; %d bans in force", n, setups, holds)
		}
	})
}

func TestUnbanIsNotUndoneByACheckRightBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		r.ban("192.0.2.1", time.Hour)
		r.ban("192.0.2.2", time.Hour)
		time.Sleep(10*time.Second - time.Nanosecond)
		// The check comes between the two halves of an unban, and has reason to look closely.
		r.Unban(kerneltest.Prefix("192.0.2.1"), time.Now())
		k.change(func() { delete(k.holds, kerneltest.Prefix("192.0.2.2")) })
		time.Sleep(time.Second)
		r.book.strike(kerneltest.Prefix("192.0.2.1"))
		time.Sleep(time.Minute)
		if k.held() != "192.0.2.2" || len(r.adopted) != 0 {
			t.Errorf("the kernel holds %q, adopted %v", k.held(), r.adopted)
		}
	})
}

func TestBanLongerThanTheKernelCanHoldNeverEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{Check: time.Hour})
		r.ban("192.0.2.1", 100*24*time.Hour)
		end := time.Now().Add(100 * 24 * time.Hour)
		for time.Now().Before(end) {
			synctest.Wait()
			if k.until("192.0.2.1").Before(time.Now()) {
				t.Fatalf("it ended %v before its time", time.Until(end))
			}
			time.Sleep(time.Hour)
		}
		if s := r.Status(); s.Restored != 0 {
			t.Errorf("%d bans were restored, want renewals alone", s.Restored)
		}
	})
}

func TestWrongEndIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.holds[kerneltest.Prefix("192.0.2.1")] = time.Now().Add(time.Minute)
		k.holds[kerneltest.Prefix("192.0.2.2")] = time.Time{}
		k.holds[kerneltest.Prefix("192.0.2.3")] = time.Now().Add(time.Hour)
		b := newBook()
		until := time.Now().Add(24 * time.Hour)
		b.write(kerneltest.Prefix("192.0.2.1"), until)
		b.write(kerneltest.Prefix("192.0.2.2"), until)
		b.write(kerneltest.Prefix("192.0.2.3"), time.Time{})
		enforce(t, k, b, firewall.EnforcerOptions{}).stop()
		if !maps.Equal(k.holds, b.bans) {
			t.Errorf("the kernel holds %v, want %v", k.holds, b.bans)
		}
	})
}

func TestEndChangedByHandIsAdopted(t *testing.T) {
	for name, test := range map[string]struct {
		book, kernel time.Duration
		atStart      bool
		amended      bool
	}{
		"later":                         {2 * time.Hour, 3 * time.Hour, false, true},
		"never":                         {2 * time.Hour, firewall.Forever, false, true},
		"earlier":                       {3 * time.Hour, 2 * time.Hour, false, true},
		"no longer never":               {firewall.Forever, 2 * time.Hour, false, true},
		"a little":                      {3 * time.Hour, 3*time.Hour - 30*time.Second, false, false},
		"later, before the start":       {2 * time.Hour, 3 * time.Hour, true, true},
		"never, before the start":       {2 * time.Hour, firewall.Forever, true, true},
		"earlier, before the start":     {3 * time.Hour, 2 * time.Hour, true, false},
		"too long for the kernel":       {100 * 24 * time.Hour, firewall.MaxTimeout / 3, false, false},
		"longer than too long":          {100 * 24 * time.Hour, firewall.Forever, false, true},
		"not ordered yet, at the start": {firewall.Forever, 2 * time.Hour, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end := func(d time.Duration) time.Time {
					if d == firewall.Forever {
						return time.Time{}
					}
					return time.Now().Add(d)
				}
				k, b := newKernel(), newBook()
				b.write(kerneltest.Prefix("192.0.2.1"), end(test.book))
				if test.atStart {
					k.holds[kerneltest.Prefix("192.0.2.1")] = end(test.kernel)
				}
				var amended []firewall.Entry
				r := enforce(t, k, b, firewall.EnforcerOptions{Amend: func(entries []firewall.Entry) {
					amended = append(amended, entries...)
					b.write(entries[0].Prefix, end(entries[0].Left))
				}})
				if !test.atStart {
					time.Sleep(time.Minute)
					k.change(func() { k.holds[kerneltest.Prefix("192.0.2.1")] = end(test.kernel) })
				}
				time.Sleep(firewall.CompareEvery + time.Minute)
				r.stop()
				if got := len(amended) == 1; got != test.amended || len(amended) > 1 {
					t.Errorf("amended %v", amended)
				}
				if is, should := k.until("192.0.2.1"), b.bans[kerneltest.Prefix("192.0.2.1")]; is.Sub(should).Abs() > firewall.Drift && time.Until(should) < firewall.MaxTimeout {
					t.Errorf("the kernel holds it until %v, the book until %v", is, should)
				}
				if s := r.Status(); s.Restored != 0 || !s.Enforcing {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestBansDoNotWaitForAVerification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.slow = 3 * time.Minute
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		r.ban("192.0.2.1", time.Hour)
		synctest.Wait()
		if s := r.Status(); k.held() != "192.0.2.1" || s.Enforcing || len(r.reported()) != 0 {
			t.Errorf("before the rules were seen: %+v, the kernel holds %q, told %v", s, k.held(), r.reported())
		}
		time.Sleep(k.slow + time.Second)
		if s := r.Status(); !s.Enforcing || len(r.reported()) != 1 {
			t.Errorf("after it: %+v, told %v", s, r.reported())
		}
		for i := range 60 {
			r.ban(fmt.Sprintf("198.51.100.%d", i), time.Hour)
			synctest.Wait()
			if n, _, _ := k.count(); n != 2+i || r.Status().Pending != 0 {
				t.Fatalf("%d bans are in force after %d", n, 2+i)
			}
			time.Sleep(time.Second)
		}
		if _, n, _ := k.count(); n < 20 {
			t.Errorf("%d checks of the sets in four minutes", n)
		}
		r.stop() // at once: the look under way is broken off
		if len(k.verified) > 2 {
			t.Errorf("the rules were looked at %d times at once", len(k.verified))
		}
	})
}

func TestBansDoNotWaitForAllThatIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10*firewall.RestoreAtOnce + 1
		k, b := newKernel(), newBook()
		for i := range n {
			b.write(nth(i), time.Time{})
		}
		begun := make(chan *rig, 1)
		k.during = func() { (<-begun).ban("192.0.2.1", time.Hour) }
		r := enforce(t, k, b, firewall.EnforcerOptions{Check: time.Hour})
		begun <- r
		synctest.Wait()
		r.stop()
		if len(k.batches) != 11 || len(k.holds) != n+1 || r.Status().Pending != 0 {
			t.Fatalf("%d batches, %d bans: %+v", len(k.batches), len(k.holds), r.Status())
		}
		if !slices.ContainsFunc(k.batches[1], func(o firewall.Order) bool { return o.Prefix == kerneltest.Prefix("192.0.2.1") }) {
			t.Error("a ban ordered during the first batch is not in the second")
		}
	})
}

// A listing is ignored for prefixes of orders that are applied while it runs: their entries are neither restored nor adopted.
func TestOrdersDoNotWaitForAListing(t *testing.T) {
	for name, atStart := range map[string]bool{"the first": true, "a later one": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, b := newKernel(), newBook()
				hold := func(p string, until time.Time) {
					b.write(kerneltest.Prefix(p), until)
					k.holds[kerneltest.Prefix(p)] = until
				}
				end := time.Now().Add(time.Hour)
				hold("192.0.2.1", end)
				hold("192.0.2.2", end)
				hold("192.0.2.3", end)
				hold("192.0.2.4", end)
				hold("192.0.2.5", time.Now().Add(30*time.Second))
				begun, release := make(chan struct{}), make(chan struct{})
				slow := func() { close(begun); <-release }
				if atStart {
					k.listed = slow
				}
				r := enforce(t, k, b, firewall.EnforcerOptions{})
				if !atStart {
					synctest.Wait()
					k.change(func() { k.listed = slow; k.holds[kerneltest.Prefix("192.0.2.99")] = end })
				}
				<-begun
				// The listing has been made, and is not handed over yet.
				r.ban("192.0.2.7", time.Hour)   // not in it
				r.unban("192.0.2.2")            // in it
				r.ban("192.0.2.3", 2*time.Hour) // in it with another end
				r.unban("192.0.2.4")
				r.ban("192.0.2.8", time.Hour) // neither before nor after
				synctest.Wait()
				r.unban("192.0.2.8")
				r.ban("192.0.2.4", 3*time.Hour)
				synctest.Wait()
				if bans, unbans := r.applied(); bans != 4 || unbans != 3 || r.Status().Pending != 0 {
					t.Errorf("during the listing %d bans and %d unbans came into force, want 4 and 3", bans, unbans)
				}
				want := "192.0.2.1 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.7"
				if !atStart {
					want += " 192.0.2.99"
				}
				if got := k.held(); got != want {
					t.Errorf("during the listing the kernel holds %q, want %q", got, want)
				}
				if got := r.Status().Enforcing; got == atStart {
					t.Errorf("during the listing enforcing is %v", got)
				}
				time.Sleep(29 * time.Second) // more checks, and a ban that is almost over
				b.strike(kerneltest.Prefix("192.0.2.5"))
				before := len(k.batches)
				close(release)
				synctest.Wait()
				if n := len(k.batches); n != before {
					t.Errorf("the listing led to %v", k.batches[before:])
				}
				time.Sleep(time.Minute)
				want = strings.Replace(want, "192.0.2.5 ", "", 1)
				if got := k.held(); got != want || !k.until("192.0.2.3").Equal(b.bans[kerneltest.Prefix("192.0.2.3")]) || !k.until("192.0.2.4").Equal(b.bans[kerneltest.Prefix("192.0.2.4")]) {
					t.Errorf("afterwards the kernel holds %q, want %q, until %v", got, want, k.holds)
				}
				for _, entry := range r.adopted {
					if entry.Prefix != kerneltest.Prefix("192.0.2.99") {
						t.Errorf("adopted %v", entry)
					}
				}
				if s := r.Status(); !s.Enforcing || s.Restored != 0 || s.Pending != 0 || len(r.adopted) == 0 != atStart {
					t.Errorf("afterwards: %+v, adopted %v", s, r.adopted)
				}
			})
		})
	}
}

// The same listing repairs the entries of all other prefixes.
func TestListingRepairsOtherEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		for i := range 5 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
		}
		synctest.Wait()
		release := make(chan struct{})
		k.change(func() {
			clear(k.holds)
			k.lacks = []string{"set"}
			k.listed = func() { <-release }
		})
		time.Sleep(11 * time.Second)
		r.ban("192.0.2.3", time.Hour)
		r.unban("192.0.2.4")
		synctest.Wait()
		if told := r.reported(); len(told) != 1 {
			t.Errorf("told %+v before all was repaired", told)
		}
		close(release)
		synctest.Wait()
		if got := k.held(); got != "192.0.2.0 192.0.2.1 192.0.2.2 192.0.2.3" {
			t.Errorf("the kernel holds %q", got)
		}
		if s, told := r.Status(), r.reported(); s.Restored != 3 || s.Repairs != 1 || !s.Enforcing || len(told) != 2 || told[1].Restored != 3 {
			t.Errorf("%+v, told %+v", s, told)
		}
	})
}

func TestFailedListingIsReportedAndRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := newKernel(), newBook()
		k.noList = errBroken
		b.write(kerneltest.Prefix("192.0.2.1"), time.Time{})
		r := enforce(t, k, b, firewall.EnforcerOptions{})
		r.ban("192.0.2.2", time.Hour)
		time.Sleep(time.Minute)
		s := r.Status()
		if _, _, n := k.count(); s.Enforcing || !errors.Is(s.Err, errBroken) || n < 8 || n > 20 || s.Failures != uint64(n) {
			t.Errorf("after %d listings: %+v", n, s)
		}
		if got := k.held(); got != "192.0.2.2" {
			t.Errorf("the kernel holds %q", got)
		}
		k.change(func() { k.noList = nil })
		time.Sleep(11 * time.Second)
		if s := r.Status(); !s.Enforcing || s.Restored != 0 || k.held() != "192.0.2.1 192.0.2.2" {
			t.Errorf("afterwards: %+v, the kernel holds %q", s, k.held())
		}
	})
}

func TestEndDuringAListingLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := newKernel(), newBook()
		b.write(kerneltest.Prefix("192.0.2.1"), time.Time{}) // lost with a reboot
		begun, release := make(chan struct{}), make(chan struct{})
		k.listed = func() { close(begun); <-release }
		r := enforce(t, k, b, firewall.EnforcerOptions{})
		<-begun
		r.ban("192.0.2.2", time.Hour)
		time.AfterFunc(time.Second, func() { close(release) })
		r.stop()
		if got := k.held(); got != "192.0.2.1 192.0.2.2" {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestFailedVerificationIsReportedAndRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.noRules = errBroken
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		if s := r.Status(); s.Enforcing || !errors.Is(s.Err, errBroken) || s.Failures != 1 {
			t.Errorf("while they fail: %+v", s)
		}
		time.Sleep(time.Second)
		k.change(func() {
			if n := len(k.verified); n < 3 {
				t.Errorf("tried %d times in a second", n)
			}
			k.noRules = nil
		})
		time.Sleep(10 * time.Second)
		if s := r.Status(); !s.Enforcing || s.Err != nil || s.Repairs != 0 {
			t.Errorf("afterwards: %+v", s)
		}
	})
}

func TestNotesAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		time.Sleep(time.Minute)
		k.change(func() { k.notes = []string{"somebody insists"} })
		time.Sleep(time.Minute)
		told := r.reported()
		if s := r.Status(); len(told) != 2 || !slices.Equal(told[1].Notes, k.notes) || !slices.Equal(s.Notes, k.notes) || !s.Enforcing {
			t.Errorf("%+v, told %+v", s, told)
		}
	})
}

func TestForeignChangesAreCheckedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{Check: time.Hour})
		time.Sleep(time.Minute)
		_, before, _ := k.count()
		began := time.Now()
		k.events <- struct{}{}
		synctest.Wait()
		if _, n, _ := k.count(); n != before+1 || time.Since(began) > 0 {
			t.Errorf("%d checks after the first change, want one at once", n-before)
		}
		for time.Since(began) < 10*time.Second {
			k.events <- struct{}{}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if _, n, _ := k.count(); n-before < 10 || n-before > 12 {
			t.Errorf("%d checks in a storm of 10 s", n-before)
		}
		r.stop()
	})
}

func TestBansThatEndNeedNoListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		for i := range 500 {
			r.ban(fmt.Sprintf("192.0.%d.%d", i/256, i%256), time.Duration(i)*time.Second+30*time.Second)
		}
		for range 600 {
			time.Sleep(time.Second)
			for p, until := range r.book.all() {
				if !until.After(time.Now()) {
					r.book.strike(p)
				}
			}
		}
		if _, _, n := k.count(); n > 11 || k.held() != "" {
			t.Errorf("%d listings in ten minutes, want one at the start and one a minute; the kernel holds %q", n, k.held())
		}
		if s := r.Status(); s.Restored != 0 || len(r.adopted) != 0 {
			t.Errorf("%+v, adopted %v", s, r.adopted)
		}
	})
}

func TestChangedIsCalledOnceForEachReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		time.Sleep(time.Minute)
		k.change(func() { k.noSetup = fmt.Errorf("first try: %w", errBroken) })
		time.Sleep(time.Minute)
		k.change(func() { k.noSetup = fmt.Errorf("next try: %w", errBroken) })
		time.Sleep(time.Minute)
		k.change(func() { k.noSetup = errors.New("something else") })
		time.Sleep(time.Minute)
		k.change(func() { k.noSetup = nil })
		time.Sleep(time.Minute)
		var got []string
		for _, s := range r.reported() {
			got = append(got, fmt.Sprint(s.Enforcing, " ", s.Err))
		}
		if want := []string{"true <nil>", "false first try: broken", "false something else", "true <nil>"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

func TestEndOfRunTriesWhatIsPendingOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		k.change(func() { k.refuses[kerneltest.Prefix("192.0.2.1")] = errBroken })
		r.ban("192.0.2.1", time.Hour)
		synctest.Wait()
		k.change(func() { clear(k.refuses) })
		r.ban("192.0.2.2", time.Hour)
		r.stop()
		if got := k.held(); got != "192.0.2.1 192.0.2.2" {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

// With many callers and random failures, the kernel holds the bans of the book in the end.
func TestKernelAndBookAgreeAfterAnyStorm(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			k := newKernel()
			r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var callers sync.WaitGroup
			for c := range uint64(4) {
				callers.Go(func() {
					rnd := rand.New(rand.NewPCG(seed, c))
					for ctx.Err() == nil {
						p := fmt.Sprintf("192.0.%d.%d", c, rnd.IntN(20)) // two decisions on one prefix never overlap
						if rnd.IntN(2) == 0 {
							r.ban(p, time.Hour)
						} else {
							r.unban(p)
						}
						time.Sleep(time.Duration(rnd.IntN(200)) * time.Millisecond)
					}
				})
			}
			rnd := rand.New(rand.NewPCG(seed, 99))
			for ctx.Err() == nil {
				k.change(func() {
					k.noApply, k.noSetup = nil, nil
					clear(k.refuses)
					switch rnd.IntN(6) {
					case 0:
						k.noApply = errBroken
					case 1:
						k.noSetup = errBroken
					case 2:
						k.refuses[kerneltest.Prefix(fmt.Sprintf("192.0.%d.%d", rnd.IntN(4), rnd.IntN(20)))] = errBroken
					case 3:
						clear(k.holds)
						k.lacks = []string{"set"}
					}
				})
				time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			}
			callers.Wait()
			k.change(func() { k.noApply, k.noSetup = nil, nil; clear(k.refuses) })
			time.Sleep(30 * time.Second)
			k.mu.Lock()
			defer k.mu.Unlock()
			if !maps.EqualFunc(k.holds, r.book.bans, func(a, b time.Time) bool { return a.Sub(b).Abs() < firewall.Drift }) {
				t.Errorf("seed %d: the kernel holds %v, the book says %v", seed, k.holds, r.book.bans)
			}
			if s := r.Status(); !s.Enforcing || s.Pending != 0 || len(r.adopted) != 0 {
				t.Errorf("seed %d: %+v, adopted %v", seed, s, r.adopted)
			}
		})
	}
}

func TestVerificationInterruptedByTheStopIsNoFailure(t *testing.T) {
	for range 50 { // which of the two is heard first is chance
		synctest.Test(t, func(t *testing.T) {
			k := newKernel()
			r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
			synctest.Wait()
			k.change(func() { k.slow = time.Minute })
			time.Sleep(15 * time.Second)
			r.stop()
			if s := r.Status(); !s.Enforcing || s.Failures > 0 || len(r.reported()) != 1 {
				t.Fatalf("%+v, told %+v", s, r.reported())
			}
		})
	}
}

func TestSetChangesCheckAndMaxBans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{Check: time.Hour})
		synctest.Wait()
		_, before, _ := k.count()
		if err := r.Set(t.Context(), time.Minute, 77); err != nil {
			t.Fatal(err)
		}
		if _, setups, _ := k.count(); setups != before+1 || !slices.Equal(k.limits, []int{77}) {
			t.Errorf("%d looks at the kernel, limits %v", setups-before, k.limits)
		}
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if _, setups, _ := k.count(); setups != before+11 {
			t.Errorf("%d looks at the kernel in ten minutes", setups-before-1)
		}
	})
}

// A ban that comes after an unban of the same address is put back like any other when it is lost before the next check.
func TestBanAfterAnUnbanIsRestored(t *testing.T) {
	for kind, damage := range map[string]string{"nftables": "nft flush set inet fsban fsban4", "rules nft": "iptables -t raw -F FSBAN", "nft": "ipset flush fsban4;nft flush ruleset"} {
		t.Run(kind, func(t *testing.T) {
			onBackendOf(t, kind, func(t *testing.T) {
				book := newBook()
				book.write(kerneltest.Prefix("192.0.2.1"), time.Time{})
				r := enforce(t, openKind(t, kind, firewall.Options{}), book, firewall.EnforcerOptions{Check: time.Hour})
				r.until("in force", func() bool { s := r.Status(); return s.Enforcing && s.Pending == 0 })
				r.unban("192.0.2.1")
				r.settle()
				r.ban("192.0.2.1", time.Hour)
				r.settle()
				for line := range strings.SplitSeq(damage, ";") { // the enforcer is notified of the last one
					kerneltest.Command(t, line)
				}
				r.until("put back", func() bool { return slices.Equal(kerneltest.Banned(t, r.backend), []string{"192.0.2.1/32"}) })
			})
		})
	}
}
