package ledger

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"fsban/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// ban returns a ban with evidence that ends after d, or never.
func ban(p string, d time.Duration) Ban {
	prefix := netip.MustParsePrefix(p)
	b := Ban{
		Prefix: prefix, Since: start, Rule: "auth", Attempts: 5, Source: policy.Event,
		Evidence: []policy.Attempt{
			{Addr: prefix.Addr(), At: start.Add(-time.Second), Kind: policy.AuthFailure, Method: policy.Register, User: "1001", Domain: "pbx.example", UserAgent: "friendly \"scanner\"\n\x00"},
			{Addr: prefix.Addr(), At: start, Kind: policy.AuthFailure, Method: policy.Invite, User: "1002", Profile: "internal"},
		},
	}
	if d != policy.Forever {
		b.Until = start.Add(d)
	}
	return b
}

// open opens a ledger that is closed with the test.
func open(t testing.TB, path string, now time.Time) *Ledger {
	t.Helper()
	l, err := Open(path, now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// flush writes and closes l.
func flush(t testing.TB, l *Ledger) {
	t.Helper()
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// prefixes lists the banned prefixes, in the order of List.
func prefixes(l *Ledger) string {
	var list []string
	for _, b := range l.List() {
		list = append(list, b.Prefix.String())
	}
	return strings.Join(list, " ")
}

func TestBansOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "on", "demand", "fsban.db")
	l := open(t, path, start)
	want := []Ban{ban("192.0.2.7/32", time.Hour), ban("198.51.100.0/24", policy.Forever), ban("2001:db8::/64", 24*time.Hour)}
	want[1].Rule, want[1].Source, want[1].By, want[1].Reason = "operator", policy.Operator, "root", "because of\nyou"
	for _, b := range want {
		l.Add(b)
	}
	l.Add(ban("192.0.2.8/32", time.Hour))
	l.End(netip.MustParsePrefix("192.0.2.8/32"), Ending{})
	flush(t, l)

	now := start.Add(30 * time.Minute)
	l = open(t, path, now)
	if aside := l.SetAside(); aside != "" {
		t.Errorf("set aside as %s", aside)
	}
	for _, b := range want {
		got, err := l.Load(b.Prefix)
		if err != nil || !reflect.DeepEqual(got, b) {
			t.Errorf("loaded\n%+v, %v, want\n%+v", got, err, b)
		}
		if light, ok := l.Get(b.Prefix); !ok || light.Evidence != nil || light.Left(now) != b.Left(now) {
			t.Errorf("in memory %+v, %t", light, ok)
		}
	}
	if v4, v6 := l.Count(); v4 != 2 || v6 != 1 {
		t.Errorf("%d and %d bans, want 2 and 1", v4, v6)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v: others may read who is banned", info.Mode(), err)
	}
}

func TestBansThatAreOverAreDroppedAtOpen(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	for i, d := range []time.Duration{time.Minute, time.Hour, time.Hour + 1, policy.Forever} {
		l.Add(ban(fmt.Sprintf("192.0.2.%d/32", i), d))
	}
	flush(t, l)
	for range 2 {
		l = open(t, path, start.Add(time.Hour))
		if got := prefixes(l); got != "192.0.2.2/32 192.0.2.3/32" {
			t.Errorf("there are %s", got)
		}
		flush(t, l)
	}
	l = open(t, path, start) // with the clock back
	if got := prefixes(l); got != "192.0.2.2/32 192.0.2.3/32" {
		t.Errorf("what was dropped is back: %s", got)
	}
}

// alone runs its caller in a process of its own, and returns true there. Limits that the test sets there are
// its own.
func alone(t *testing.T) bool {
	t.Helper()
	const env = "FSBAN_TEST_ALONE"
	if os.Getenv(env) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), env+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// whileFull does something while no file may grow, in a process of its own.
func whileFull(t *testing.T, do func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY}, &before); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Prlimit(0, unix.RLIMIT_FSIZE, &before, nil); err != nil {
			t.Fatal(err)
		}
	}()
	do()
}

// A disk that is full keeps nobody from starting.
func TestAFullDiskDoesNotKeepItFromOpening(t *testing.T) {
	if !alone(t) {
		return
	}
	path := statePath(t)
	l := open(t, path, start)
	l.Add(ban("192.0.2.1/32", time.Minute))
	l.Add(ban("192.0.2.2/32", policy.Forever))
	flush(t, l)
	whileFull(t, func() { l = open(t, path, start.Add(time.Hour)) })
	if got := prefixes(l); got != "192.0.2.2/32" {
		t.Errorf("there are %s", got)
	}
	flush(t, l)
	l = open(t, path, start)
	if got := prefixes(l); got != "192.0.2.2/32" {
		t.Errorf("what was dropped is back: %s", got)
	}
	flush(t, l)
}

func TestRemoveReturnsTheBanOnce(t *testing.T) {
	l := open(t, statePath(t), start)
	l.Add(ban("192.0.2.7/32", time.Hour))
	if b, ok := l.End(netip.MustParsePrefix("192.0.2.7/32"), Ending{}); !ok || b.Rule != "auth" {
		t.Errorf("%+v, %t", b, ok)
	}
	if _, ok := l.End(netip.MustParsePrefix("192.0.2.7/32"), Ending{}); ok {
		t.Error("removed twice")
	}
	if _, err := l.Load(netip.MustParsePrefix("192.0.2.7/32")); err == nil || err.Error() != "192.0.2.7/32 is not banned" {
		t.Errorf("%v", err)
	}
}

func TestExpireReturnsEndedBans(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	l.Add(ban("192.0.2.1/32", time.Minute))
	l.Add(ban("192.0.2.2/32", time.Hour))
	l.Add(ban("192.0.2.3/32", policy.Forever))
	if over := l.Expire(start.Add(time.Minute - 1)); len(over) != 0 {
		t.Errorf("%v ended early", over)
	}
	if over := l.Expire(start.Add(time.Minute)); len(over) != 1 || over[0].Prefix.String() != "192.0.2.1/32" {
		t.Errorf("%v ended", over)
	}
	flush(t, l)
	if got := prefixes(open(t, path, start)); got != "192.0.2.2/32 192.0.2.3/32" {
		t.Errorf("there are %s", got)
	}
}

func TestListIsInOrderOfStart(t *testing.T) {
	l := open(t, statePath(t), start)
	for i, p := range []string{"192.0.2.9/32", "2001:db8::/64", "192.0.2.0/24", "192.0.2.0/32", "10.0.0.0/8"} {
		b := ban(p, time.Hour)
		if i == 0 {
			b.Since = start.Add(-time.Hour)
		}
		l.Add(b)
	}
	if got := prefixes(l); got != "192.0.2.9/32 10.0.0.0/8 192.0.2.0/24 192.0.2.0/32 2001:db8::/64" {
		t.Errorf("listed %s", got)
	}
}

func TestEachStopsOnFalse(t *testing.T) {
	l := open(t, statePath(t), start)
	for i := range 10 {
		l.Add(ban(fmt.Sprintf("192.0.2.%d/32", i), policy.Forever))
	}
	n := 0
	for _, until := range l.Each {
		if n++; !until.IsZero() {
			t.Errorf("ends at %v", until)
		}
		if n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("%d bans were yielded, want 3", n)
	}
}

func TestEvidenceIsOfThisBanAndNoEarlierOne(t *testing.T) {
	l := open(t, statePath(t), start)
	p := netip.MustParsePrefix("192.0.2.7/32")
	l.Add(ban("192.0.2.7/32", time.Hour))
	if got, err := l.Load(p); err != nil || len(got.Evidence) != 2 {
		t.Errorf("before it is written: %+v, %v", got, err)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	second := Ban{Prefix: p, Since: start.Add(time.Minute), Rule: "operator", Source: policy.Operator, Reason: "again"}
	l.Add(second)
	for range 2 {
		if got, err := l.Load(p); err != nil || !reflect.DeepEqual(got, second) {
			t.Errorf("loaded %+v, %v, want %+v", got, err, second)
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASecondProcessIsRefused(t *testing.T) {
	path := statePath(t)
	open(t, path, start)
	_, err := Open(path, start)
	if want := "state file " + path + " is held by another process: is a second fsban running?"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestPlaceThatCannotBeUsedIsAnError(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "fsban.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(file, "fsban.db"):          "state directory (state.directory): mkdir " + file + ": not a directory",
		filepath.Join(file, "below", "fsban.db"): "state directory (state.directory): mkdir " + file + ": not a directory",
		filepath.Join(dir, "fsban.db"):           "state file (state.directory): open " + dir + "/fsban.db: is a directory",
		"/proc/self/fsban.db":                    "state file (state.directory): open /proc/self/fsban.db: no such file or directory",
	} {
		if _, err := Open(path, start); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestChangesThatCannotBeWrittenStayPending(t *testing.T) {
	for name, fault := range map[string]fault{
		"full":           {write: syscall.ENOSPC},
		"full, in part":  {write: syscall.ENOSPC, part: 30},
		"read-only":      {write: syscall.EROFS},
		"broken":         {write: syscall.EIO},
		"not synced":     {sync: syscall.EIO},
		"not cut":        {truncate: syscall.EIO, write: syscall.EIO},
		"no information": {stat: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			path := statePath(t)
			l := open(t, path, start)
			l.Add(ban("192.0.2.1/32", time.Hour))
			l.Add(ban("192.0.2.2/32", time.Hour))
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			disk := spoil(l, fault)
			l.End(netip.MustParsePrefix("192.0.2.1/32"), Ending{})
			l.Add(ban("192.0.2.3/32", time.Hour))
			want := "write to the state file " + path + ": " + cmp.Or(fault.stat, fault.write, fault.sync).Error()
			for n := range uint64(3) {
				if err := l.Flush(); err == nil || err.Error() != want {
					t.Errorf("%v, want %s", err, want)
				}
				if failed, err := l.Failures(); err == nil || err.Error() != want || failed != n+1 {
					t.Errorf("%v after %d failures", err, failed)
				}
			}
			l.Add(ban("192.0.2.3/32", 2*time.Hour)) // newer than the pending ban
			disk.mend()
			flush(t, l)
			if failed, err := l.Failures(); err != nil || failed != 3 {
				t.Errorf("%v after %d failures", err, failed)
			}
			l = open(t, path, start)
			if got := prefixes(l); got != "192.0.2.2/32 192.0.2.3/32" || l.SetAside() != "" {
				t.Errorf("there are %s; set aside as %q", got, l.SetAside())
			}
			if b, err := l.Load(netip.MustParsePrefix("192.0.2.3/32")); err != nil || b.Left(start) != 2*time.Hour || len(b.Evidence) != 2 {
				t.Errorf("%v left, want the newer ban's 2h; %v", b.Left(start), err)
			}
		})
	}
}

func TestChangeDuringAWriteThatFailsIsTheOneThatStays(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	l.Add(ban("192.0.2.2/32", time.Hour))
	l.Add(ban("192.0.2.1/32", time.Hour))
	disk := spoil(l, fault{write: syscall.ENOSPC, during: func() { l.End(netip.MustParsePrefix("192.0.2.1/32"), Ending{}) }})
	if err := l.Flush(); err == nil {
		t.Error("it could be written to a full disk")
	}
	disk.mend()
	flush(t, l)
	if got := prefixes(open(t, path, start)); got != "192.0.2.2/32" {
		t.Errorf("there are %s", got)
	}
}

func TestRunWritesInTimeAndAtItsEnd(t *testing.T) {
	path := statePath(t)
	synctest.Test(t, func(t *testing.T) {
		l := open(t, path, start)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		l.Add(ban("192.0.2.1/32", time.Hour))
		time.Sleep(flushEvery + time.Millisecond)
		synctest.Wait()
		if n := waiting(l); n != 0 {
			t.Errorf("%d changes are not written after %v", n, flushEvery)
		}
		l.Add(ban("192.0.2.2/32", time.Hour))
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if got := prefixes(open(t, path, start)); got != "192.0.2.1/32 192.0.2.2/32" {
		t.Errorf("there are %s", got)
	}
}

func TestRunRetriesFailedWrites(t *testing.T) {
	path := statePath(t)
	synctest.Test(t, func(t *testing.T) {
		l := open(t, path, start)
		spoil(l, fault{write: syscall.EIO})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- l.Run(ctx) }()
		l.Add(ban("192.0.2.1/32", time.Hour))
		time.Sleep(time.Minute)
		if failed, err := l.Failures(); err == nil || failed < 10 || failed > 14 {
			t.Errorf("%d tries in a minute, the last: %v", failed, err)
		}
		cancel()
		if err := <-done; err == nil {
			t.Error("Run ended well with a ban unwritten")
		}
	})
}

func waiting(l *Ledger) int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.pending)
}

// Any sequence of changes, with restarts between them, leaves the same bans as a map.
func TestAnySequenceIsRemembered(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		path := statePath(t)
		l, now := open(t, path, start), start
		want := make(map[netip.Prefix]Ban)
		for range 200 {
			p := fmt.Sprintf("192.0.2.%d/32", rnd.IntN(30))
			if rnd.IntN(2) == 0 {
				p = fmt.Sprintf("2001:db8:%x::/64", rnd.IntN(30))
			}
			prefix := netip.MustParsePrefix(p)
			switch rnd.IntN(10) {
			case 0, 1, 2, 3:
				b := ban(p, now.Sub(start)+time.Duration(1+rnd.IntN(100))*time.Minute)
				b.Attempts = rnd.IntN(1000)
				l.Add(b)
				want[prefix] = b
			case 4, 5:
				_, there := want[prefix]
				if _, ok := l.End(prefix, Ending{}); ok != there {
					t.Fatalf("seed %d: removed %v: %t, want %t", seed, prefix, ok, there)
				}
				delete(want, prefix)
			case 6:
				now = now.Add(time.Minute)
				l.Expire(now)
				for p, b := range want {
					if b.Over(now) {
						delete(want, p)
					}
				}
			case 7, 8:
				if err := l.Flush(); err != nil {
					t.Fatal(err)
				}
			case 9:
				flush(t, l)
				l = open(t, path, now)
			}
		}
		flush(t, l)
		l = open(t, path, now)
		v4 := 0
		for p, b := range want {
			if got, err := l.Load(p); err != nil || !reflect.DeepEqual(got, b) {
				t.Fatalf("seed %d: loaded\n%+v, %v, want\n%+v", seed, got, err, b)
			}
			if p.Addr().Is4() {
				v4++
			}
		}
		if n4, n6 := l.Count(); n4 != v4 || n6 != len(want)-v4 {
			t.Fatalf("seed %d: %d and %d bans, want %d and %d", seed, n4, n6, v4, len(want)-v4)
		}
	}
}

func TestManyGoroutinesLoseNothing(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 500 {
				p := fmt.Sprintf("192.0.%d.%d/32", w, i%100)
				l.Add(ban(p, time.Hour))
				l.Add(ban(fmt.Sprintf("198.51.100.%d/32", i%10), time.Minute))
				if i%3 == 0 {
					l.End(netip.MustParsePrefix(p), Ending{})
				}
				if i%50 == 0 {
					_ = l.Flush()
					l.Expire(start.Add(time.Minute))
					l.List()
				}
				_, _ = l.Load(netip.MustParsePrefix(p))
				for range l.Each {
					break
				}
				l.Count()
				_, _ = l.Failures()
			}
		})
	}
	writers.Wait()
	l.Expire(start.Add(time.Minute))
	want := l.List()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l = open(t, path, start)
	got := l.List()
	same := slices.EqualFunc(want, got, func(a, b Ban) bool { return a.Prefix == b.Prefix && a.Until.Equal(b.Until) })
	if !same || len(got) == 0 {
		t.Errorf("%d bans after a restart, %d before", len(got), len(want))
	}
}
