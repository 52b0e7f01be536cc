package daemon

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/ledger"
)

// A night is 10,000 failures of 300 addresses, each reported three times, with random delays: by sofia's event, by mod_cti's
// line on the log stream, and by its file. It takes 20 s.
const (
	nightFailures  = 10_000
	nightAddresses = 300
	nightLength    = 20 * time.Second
	nightRagged    = 60 * time.Millisecond
)

// A happening is a scheduled action.
type happening struct {
	after time.Duration
	do    func()
}

// A night is the schedule of TestANightCountsExactly, with the expected counts.
type night struct {
	t        *testing.T
	fs       *fakeswitch.Switch
	address  string // of fs
	cfg      config.Config
	client   *control.Client
	log      *ctiWriter
	daemon   process
	rng      *rand.Rand
	begin    time.Time
	schedule []happening

	truth map[netip.Addr]int
	story map[netip.Addr][]string // of each address: failures and counted attempts, by time
	tales []func()                // add the failures to story
}

// TestANightCountsExactly plays a night while a script breaks and restores the event socket, kills and restarts the daemon, and
// rotates and truncates the log. Every failure must be counted exactly once.
func TestANightCountsExactly(t *testing.T) {
	t.Parallel()
	n := newNight(t)
	n.addFailures()
	n.addFaults()
	n.play()
	n.end()
	n.compare(n.count())
	if t.Failed() {
		t.Logf("the last daemon's log:\n%s", n.daemon.log)
	}
}

func newNight(t *testing.T) *night {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	for i := range cfg.Policy.Ruleset { // no bans: a ban would end the counting
		cfg.Policy.Ruleset[i].Enabled = cfg.Policy.Ruleset[i].Name == "auth"
	}
	cfg.Policy.MaxRetry = 1000
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "log", "cti_fail2ban.log")
	if err := os.Mkdir(filepath.Dir(cfg.CTILog.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	client := control.NewClient(cfg.Control.Socket)
	t.Cleanup(func() { client.Close() })
	seed := cmp.Or(*chaosSeed, 1)
	t.Logf("seed %d: another one with -chaos.seed", seed)
	n := &night{
		t: t, fs: fs, address: fs.Addr(), cfg: cfg, client: client, log: &ctiWriter{t: t, path: cfg.CTILog.Path, client: client},
		rng: rand.New(rand.NewPCG(seed, seed)), truth: make(map[netip.Addr]int), story: make(map[netip.Addr][]string),
	}
	n.log.open()
	n.spawn()
	n.subscribed()
	n.begin = time.Now().Add(100 * time.Millisecond)
	return n
}

func (n *night) upTo(d time.Duration) time.Duration { return time.Duration(n.rng.Int64N(int64(d))) }

// addFailures schedules each failure with its three reports.
func (n *night) addFailures() {
	for range nightFailures {
		after := n.upTo(nightLength)
		at := sync.OnceValue(func() time.Time { return n.begin.Add(after) })
		addr := netip.AddrFrom4([4]byte{203, 0, 113 + byte(n.rng.IntN(2)), byte(n.rng.IntN(nightAddresses / 2))})
		n.truth[addr]++
		c := fakeswitch.Caller{Addr: addr, User: fmt.Sprint(1000 + n.rng.IntN(3))}
		n.tales = append(n.tales, func() {
			n.story[addr] = append(n.story[addr], fmt.Sprintf("%v %s failed", at().UnixMicro(), c.User))
		})
		n.schedule = append(n.schedule,
			happening{after + n.upTo(nightRagged), func() { n.fs.Emit(fakeswitch.WrongPassword, c, at()) }},
			happening{after + n.upTo(nightRagged), func() { n.fs.Emit(fakeswitch.CTILine, c, at()) }},
			happening{after + n.upTo(nightRagged), func() { n.log.failure(c, at()) }})
	}
}

// addFaults schedules the script of faults.
func (n *night) addFaults() {
	for _, f := range []happening{
		{800 * time.Millisecond, func() { n.fs.End(fakeswitch.Kill) }},
		{1500 * time.Millisecond, n.log.rotate},
		{2000 * time.Millisecond, n.socketDies(fakeswitch.HalfFrame)},
		{2600 * time.Millisecond, n.socketBack},
		{3300 * time.Millisecond, n.kill},
		{3500 * time.Millisecond, n.log.rotate}, // while no daemon reads
		{3700 * time.Millisecond, n.spawn},
		{4600 * time.Millisecond, n.log.removeAndCreate},
		{5200 * time.Millisecond, n.socketDies(fakeswitch.Reset)},
		{5400 * time.Millisecond, n.kill},
		{5450 * time.Millisecond, n.spawn}, // only the file is readable
		{6000 * time.Millisecond, n.socketBack},
		{6400 * time.Millisecond, n.subscribed},
		{6800 * time.Millisecond, n.log.copyTruncate}, // the event socket is active: nothing is lost
		{7400 * time.Millisecond, n.socketDies(fakeswitch.Kill)},
		{7800 * time.Millisecond, func() { // the file is active
			n.log.copyTruncate()
			n.log.discarded++
		}},
		{8200 * time.Millisecond, n.socketBack},
		{8600 * time.Millisecond, func() { n.fs.End(fakeswitch.Reload) }},
		{9000 * time.Millisecond, n.kill},
		{9001 * time.Millisecond, n.spawn},
	} {
		n.schedule = append(n.schedule, happening{2 * f.after, f.do})
	}
}

func (n *night) spawn() { n.daemon = spawn(n.t, &n.cfg) }

func (n *night) kill() {
	if err := n.daemon.cmd.Process.Kill(); err != nil {
		n.t.Fatal(err)
	}
	_ = n.daemon.cmd.Wait()
}

func (n *night) subscribed() {
	if err := n.fs.WaitSubscribed(n.t.Context(), "sofia::register_failure"); err != nil {
		n.t.Fatal(err)
	}
}

func (n *night) socketDies(how fakeswitch.Ending) func() {
	return func() {
		n.fs.CloseListener()
		n.fs.End(how)
	}
}

func (n *night) socketBack() {
	if err := n.fs.Listen(n.address); err != nil {
		n.t.Fatal(err)
	}
}

// play runs the schedule.
func (n *night) play() {
	slices.SortStableFunc(n.schedule, func(a, b happening) int { return int(a.after - b.after) })
	for _, h := range n.schedule {
		time.Sleep(time.Until(n.begin.Add(h.after)))
		began := time.Now()
		h.do()
		// No failures during a long wait: one reported long after it happened would count as a new one.
		if waited := time.Since(began); waited > 100*time.Millisecond {
			n.begin = n.begin.Add(waited)
		}
	}
}

// end stops the daemon after the last reports are read and written to disk.
func (n *night) end() {
	n.subscribed()
	n.log.caughtUp()
	for before, now := uint64(0), told(n.t, n.client); now != before; before, now = now, told(n.t, n.client) {
		time.Sleep(2 * time.Second)
	}
	if err := n.daemon.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		n.t.Fatal(err)
	}
	if err := n.daemon.cmd.Wait(); err != nil {
		n.t.Fatalf("%v\n%s", err, n.daemon.log)
	}
}

// count returns the attempts of each address in the journal.
func (n *night) count() map[netip.Addr]int {
	l, err := ledger.Open(filepath.Join(n.cfg.State.Directory, "fsban.db"), time.Now())
	if err != nil {
		n.t.Fatal(err)
	}
	defer l.Close()
	counted := make(map[netip.Addr]int)
	if _, unreadable, err := l.Journal(func(e ledger.Entry) {
		a := &e.Attempt
		counted[a.Addr]++
		n.story[a.Addr] = append(n.story[a.Addr], fmt.Sprintf("%v %s was counted, reported by %v", a.At.UnixMicro(), a.User, a.Source))
	}); err != nil || unreadable > 0 {
		n.t.Fatal(err, unreadable)
	}
	return counted
}

// compare asserts that counts equal failures. Each truncation while only the file is active may lose one line.
func (n *night) compare(counted map[netip.Addr]int) {
	lines, total, missing := n.log.discarded, 0, 0
	for addr, failures := range n.truth {
		if counted[addr] > failures || counted[addr] < failures-lines {
			n.t.Errorf("%v: %d counted of %d", addr, counted[addr], failures)
		}
		total += counted[addr]
		missing += failures - counted[addr]
	}
	n.t.Logf("%d of %d counted; %d lines may be lost to copytruncate", total, nightFailures, lines)
	if missing < 0 || missing > lines || len(counted) > len(n.truth) {
		n.t.Errorf("%d failures are missing, %d may be; %d addresses of %d", missing, lines, len(counted), len(n.truth))
	}
	if !n.t.Failed() {
		return
	}
	for _, tell := range n.tales {
		tell()
	}
	for addr, failures := range n.truth {
		if counted[addr] != failures {
			slices.Sort(n.story[addr])
			n.t.Logf("%v, by microseconds:\n%s", addr, strings.Join(n.story[addr], "\n"))
		}
	}
}

// told returns the number of attempts that the daemon has received.
func told(t *testing.T, client *control.Client) (n uint64) {
	t.Helper()
	s, err := client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, attempts := range s.Attempts {
		n += attempts
	}
	return n
}

// A ctiWriter writes and rotates mod_cti's file.
type ctiWriter struct {
	t         *testing.T
	path      string
	file      *os.File
	client    *control.Client // of the daemon that reads it
	wrote     time.Time       // the last line
	rotations int
	discarded int
}

// caughtUp waits until the daemon has read the last line written: it has read a later line, and none for a second. Lines
// removed or truncated before that are lost to any reader.
func (w *ctiWriter) caughtUp() {
	w.t.Helper()
	var nudged, read, since time.Time
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		now := time.Now()
		if now.Sub(nudged) > 5*time.Second {
			w.nothing()
			nudged = now
		}
		s, err := w.client.Status(w.t.Context())
		for _, s := range s.Sources {
			if s.Name == "cti_log" && !s.LastEvent.Equal(read) {
				read, since = s.LastEvent, now
			}
		}
		if err == nil && read.After(w.wrote) && now.Sub(since) > time.Second {
			return
		}
		if now.After(end) {
			w.t.Fatalf("the line of %v was never read: %v, %+v", w.wrote, err, s.Sources)
		}
	}
}

func (w *ctiWriter) check(errs ...error) {
	w.t.Helper()
	for _, err := range errs {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// nothing appends an unrelated line, so that the daemon reads the log again.
func (w *ctiWriter) nothing() {
	_, err := fmt.Fprintln(w.file, "a line that is none")
	w.check(err)
}

func (w *ctiWriter) open() {
	var err error
	w.file, err = os.OpenFile(w.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	w.check(err)
}

func (w *ctiWriter) failure(c fakeswitch.Caller, at time.Time) {
	w.wrote = time.Now()
	_, err := fmt.Fprintf(w.file, "ip[%s] user[%s] at[%s] Registration failed\n", c.Addr, c.User, at.Format("2006-01-02T15:04:05.000000-0700"))
	w.check(err)
}

// rotate renames the file. The writer appends to the old file for a while, like a program that reopens its log later.
func (w *ctiWriter) rotate() {
	w.rotations++
	w.check(os.Rename(w.path, fmt.Sprintf("%s.%d", w.path, 100-w.rotations)))
	old := w.file
	for range 20 {
		_, err := fmt.Fprintln(old, "a late line that is none")
		w.check(err)
	}
	w.check(old.Close())
	w.open()
}

func (w *ctiWriter) removeAndCreate() {
	w.caughtUp()
	w.check(os.Remove(w.path), w.file.Close())
	w.open()
}

// copyTruncate rotates as logrotate does. Lines written between copy and truncation would be lost; here there are none. A
// reader discards the first line after a truncation, because it may be the end of a longer one.
func (w *ctiWriter) copyTruncate() {
	w.caughtUp()
	w.rotations++
	data, err := os.ReadFile(w.path)
	w.check(err, os.WriteFile(fmt.Sprintf("%s.%d", w.path, 100-w.rotations), data, 0o644), os.Truncate(w.path, 0))
}
