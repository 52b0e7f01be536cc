package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lengthOf is the length of a file.
func lengthOf(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// The file grows with its live contents, not with its history.
func TestTheFileIsBounded(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	l.slack = 64 << 10
	longest := int64(0)
	for round := range 200 {
		for i := range 50 {
			p := fmt.Sprintf("10.0.%d.%d/32", round, i)
			l.Add(ban(p, time.Hour))
			if err := l.Keep(Known, netip.MustParsePrefix(p), round); err != nil {
				t.Fatal(err)
			}
			if round > 0 {
				gone := netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/32", round-1, i))
				l.End(gone, Ending{})
				if err := l.Keep(Known, gone, nil); err != nil {
					t.Fatal(err)
				}
			}
			l.Note(attempt("1000", start), start.Add(time.Duration(round)*time.Second))
		}
		l.Seal(make([]byte, 1000), start.Add(time.Duration(round-2)*time.Second))
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, lengthOf(t, path))
	}
	want := holds(t, l)
	if live := l.stored.live; longest > 2*live+l.slack+64<<10 || live > 50<<10 {
		t.Errorf("%d bytes, of %d that count", longest, live)
	}
	flush(t, l)
	l = open(t, path, start)
	if got := holds(t, l); !slices.Equal(got, want) {
		t.Errorf("%d lines after a restart, %d before", len(got), len(want))
	}
	if l.tryCompact(); l.compact != nil || l.store.end > 2*l.stored.live {
		t.Errorf("%d bytes once compacted, of %d that count, %v", l.store.end, l.stored.live, l.compact)
	}
	if got := holds(t, l); !slices.Equal(got, want) {
		t.Errorf("%d lines once compacted, %d before", len(got), len(want))
	}
}

// The live length, which decides when to compact, does not drift.
func TestTheLiveLengthIsThatOfACompactedFile(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		p := fmt.Sprintf("10.0.0.%d/32", rnd.IntN(100))
		prefix := netip.MustParsePrefix(p)
		switch rnd.IntN(6) {
		case 0, 1:
			l.Add(ban(p, time.Duration(1+rnd.IntN(100))*time.Minute))
		case 2:
			l.End(prefix, Ending{})
		case 3:
			b, _ := l.Get(prefix)
			l.Amend(prefix, b.Until, b.Until.Add(time.Hour))
		case 4:
			if err := l.Keep(Known, prefix, strings.Repeat("x", rnd.IntN(100))); err != nil {
				t.Fatal(err)
			}
		case 5:
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		before := l.stored.live
		if l.tryCompact(); l.compact != nil {
			t.Fatal(l.compact)
		}
		if real := l.store.end - int64(len(header)); before != real || l.stored.live != real {
			t.Errorf("%d bytes count, before it was compacted %d, really %d", l.stored.live, before, real)
		}
		flush(t, l)
		l = open(t, path, start)
	}
}

// Changes and readers do not notice that the file is replaced.
func TestCompactionBesideEverythingElse(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	l.slack = 4 << 10
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	var all sync.WaitGroup
	for w := range 3 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range 1500 {
				p := fmt.Sprintf("10.%d.0.%d/32", w, rnd.IntN(100))
				prefix := netip.MustParsePrefix(p)
				switch rnd.IntN(6) {
				case 0, 1:
					l.Add(ban(p, time.Duration(1+rnd.IntN(100))*time.Minute))
				case 2:
					l.End(prefix, Ending{})
				case 3:
					b, _ := l.Get(prefix)
					l.Amend(prefix, b.Until, b.Until.Add(time.Second))
				case 4:
					if b, err := l.Load(prefix); err == nil && len(b.Evidence) != 2 || err != nil && !errors.Is(err, ErrNotBanned) {
						t.Errorf("%+v, %v", b, err)
					}
				case 5:
					_ = l.Keep(Known, prefix, i)
					l.Sweep(Known, func(p netip.Prefix) bool { return p.Addr().As4()[3]%2 == 0 })
				}
				if i%10 == 0 {
					if err := l.Flush(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	want := l.List()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := l.Failures(); err != nil {
		t.Error(err)
	}
	l = open(t, path, start)
	if len(want) == 0 || len(l.List()) != len(want) || l.SetAside() != "" {
		t.Errorf("%d bans after a restart, %d before; set aside as %q", len(l.List()), len(want), l.SetAside())
	}
	for _, b := range want {
		b.Evidence = ban(b.Prefix.String(), time.Hour).Evidence
		if got, err := l.Load(b.Prefix); err != nil || !reflect.DeepEqual(got, b) {
			t.Errorf("loaded\n%+v, %v, want\n%+v", got, err, b)
		}
	}
}

// A ban that changes during a compaction is in the new file, in its old or its new state.
func TestAChangeDuringACompactionIsNeverMissing(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	for i := range 8 {
		l.Add(ban(fmt.Sprintf("192.0.2.%d/32", i), time.Hour))
	}
	l.End(netip.MustParsePrefix("192.0.2.7/32"), Ending{})
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	p := func(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i)) }
	changes := func() {
		l.Add(ban("192.0.2.1/32", 2*time.Hour))
		l.Amend(p(2), start.Add(time.Hour), start.Add(3*time.Hour))
		l.End(p(3), Ending{})
		l.End(p(4), Ending{})
		l.Add(ban("192.0.2.4/32", 2*time.Hour))
		l.Add(ban("192.0.2.9/32", time.Hour))
	}
	changes()
	if l.tryCompact(); l.compact != nil {
		t.Fatal(l.compact)
	}
	for _, i := range []int{0, 1, 2, 4, 5, 6, 9} {
		if b, err := l.Load(p(i)); err != nil || len(b.Evidence) != 2 {
			t.Errorf("%+v, %v", b, err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	crashed, _ := openBytes(t, data)
	for _, i := range []int{0, 1, 2, 3, 4, 5, 6} {
		if b, err := crashed.Load(p(i)); err != nil || len(b.Evidence) != 2 {
			t.Errorf("after a crash: %+v, %v", b, err)
		}
	}
	flush(t, l)
	l = open(t, path, start)
	for i, want := range []time.Duration{1, 2, 3, 0, 2, 1, 1, 0, 0, 1} {
		b, err := l.Load(p(i))
		if (err == nil) != (want > 0) || err == nil && (b.Left(start) != want*time.Hour || len(b.Evidence) != 2) {
			t.Errorf("%d: %+v, %v", i, b, err)
		}
	}
}

// Without room for another file the old one is used on, and that is reported until one can be made.
func TestACompactionThatFailsLeavesTheFileInUse(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	l.slack = 4 << 10
	if err := os.Mkdir(path+temporary, 0o700); err != nil {
		t.Fatal(err)
	}
	add := func(from, n int) {
		t.Helper()
		for i := from; i < from+n; i++ {
			l.Add(ban("192.0.2.1/32", time.Hour+time.Duration(i)))
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(0, 100)
	tries, err := l.Failures()
	want := "compact the state file " + path + ": remove " + path + temporary + ": is a directory"
	if err == nil || err.Error() != want || tries != 1 {
		t.Errorf("%v after %d tries", err, tries)
	}
	if err := os.Remove(path + temporary); err != nil {
		t.Fatal(err)
	}
	l.notBefore = time.Time{} // a minute later
	add(100, 100)
	if _, err := l.Failures(); err != nil || lengthOf(t, path) > 8<<10 {
		t.Errorf("%v; %d bytes", err, lengthOf(t, path))
	}
	flush(t, l)
	if b, err := open(t, path, start).Load(netip.MustParsePrefix("192.0.2.1/32")); err != nil || b.Left(start) != time.Hour+199 {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestTheLockOutlivesACompaction(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	l.Add(ban("192.0.2.1/32", time.Hour))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Open(path, start); err == nil || !strings.Contains(err.Error(), "is held by another process") {
			t.Fatal(err)
		}
		if l.tryCompact(); l.compact != nil {
			t.Fatal(l.compact)
		}
	}
}

// A state file may be a link to one on another disk.
func TestALinkStaysALink(t *testing.T) {
	path, link := statePath(t), statePath(t)
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l := open(t, link, start)
		l.Add(ban("192.0.2.1/32", time.Hour))
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if l.tryCompact(); l.compact != nil {
			t.Fatal(l.compact)
		}
		flush(t, l)
		if target, err := os.Readlink(link); err != nil || target != path {
			t.Errorf("%s, %v", target, err)
		}
	}
}

const worker = "FSBAN_TEST_LEDGER"

// TestWorker is the process that TestAKilledProcessLosesNothingThatWasFlushed kills. It bans, amends and unbans in a ring of
// prefixes, and prints the number of each round that is on disk.
func TestWorker(t *testing.T) {
	path := os.Getenv(worker)
	if path == "" {
		return
	}
	l := open(t, path, start)
	l.slack = 2 << 10
	state, _, err := l.Journal(func(Entry) {})
	if err != nil {
		t.Fatal(err)
	}
	sealed, _ := strconv.Atoi(string(state)) // the last frame of a round: a kill may have interrupted the write of the next one
	for n := sealed + 1; ; n++ {
		for _, b := range roundOf(n) {
			l.Add(b)
		}
		l.End(workersPrefix(n-3), Ending{})
		_ = l.Keep(Known, workersPrefix(n), n)
		_ = l.Keep(Known, workersPrefix(n-3), nil)
		l.Note(attempt(fmt.Sprint(n), start), start)
		l.Seal(fmt.Append(nil, n), start)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("round", n)
	}
}

var workersMark = netip.MustParsePrefix("192.0.2.1/32")

func workersPrefix(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
}

func roundOf(n int) []Ban {
	mark := ban(workersMark.String(), time.Hour)
	mark.Attempts = n
	return []Ban{ban(workersPrefix(n).String(), time.Hour), mark}
}

func TestAKilledProcessLosesNothingThatWasFlushed(t *testing.T) {
	path := statePath(t)
	rnd := rand.New(rand.NewPCG(5, 6))
	last := 0
	for life := range 12 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestWorker$")
		cmd.Env = append(os.Environ(), worker+"="+path)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		lines, rounds := bufio.NewScanner(out), 20+rnd.IntN(100)
		for lines.Scan() {
			n, err := strconv.Atoi(strings.TrimPrefix(lines.Text(), "round "))
			if err != nil {
				t.Fatalf("life %d: %s", life, lines.Text())
			}
			last = n
			if rounds--; rounds == 0 {
				_ = cmd.Process.Signal(syscall.SIGKILL)
			}
		}
		_ = cmd.Wait()
		l := open(t, path, start)
		mark, _ := l.Get(workersMark)
		n := mark.Attempts
		if n < last || n > last+1 || l.SetAside() != "" || l.Skipped() != 0 {
			t.Fatalf("life %d: round %d was flushed, the file holds %d; set aside as %q", life, last, n, l.SetAside())
		}
		for i := range 3 { // the next round, of which a part may be on disk, unbans the oldest
			if b, err := l.Load(workersPrefix(last - i)); err != nil && i != 2 || err == nil && len(b.Evidence) != 2 {
				t.Errorf("life %d: %v, %+v", life, err, b)
			}
		}
		if _, banned := l.Get(workersPrefix(last - 3)); banned {
			t.Errorf("life %d: an unban is lost", life)
		}
		if got := strings.Fields(recordsOf(t, l, Known)); len(got) < 3 || len(got) > 4 {
			t.Errorf("life %d: records %v", life, got)
		}
		entries, state, _ := strings.Cut(journalOf(t, l), " | ")
		sealed, _ := strconv.Atoi(state)
		if want := fmt.Sprint(sealed); sealed < last || !strings.HasSuffix(entries, " "+want) || len(strings.Fields(entries)) != sealed {
			t.Errorf("life %d: sealed %d of %d", life, sealed, last)
		}
		if size := lengthOf(t, path); size > 2*l.stored.live+64<<10 {
			t.Errorf("life %d: %d bytes, of %d that count", life, size, l.stored.live)
		}
		flush(t, l)
	}
}
