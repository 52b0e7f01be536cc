package daemon

import (
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

	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/ledger"
)

// A night is ten thousand failures of three hundred addresses, each told three times, in ragged order: by sofia's events,
// by mod_cti's line on the log stream, and by its file. It takes twenty seconds.
const (
	nightFailures  = 10_000
	nightAddresses = 300
	nightLength    = 20 * time.Second
	nightRagged    = 60 * time.Millisecond
)

// A happening is what comes next in the night.
type happening struct {
	after time.Duration
	do    func()
}

// TestANightCountsExactly plays a night while a script kills and restores the event socket, kills the daemon with SIGKILL
// and starts it again, and rotates and truncates the log. What was counted of each address must be what it did.
func TestANightCountsExactly(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	address := fs.Addr()
	cfg := configFor(t, fs)
	for i := range cfg.Policy.Ruleset { // nobody is banned: a ban would end the counting
		cfg.Policy.Ruleset[i].Enabled = cfg.Policy.Ruleset[i].Name == "auth"
	}
	cfg.Policy.MaxRetry = 1000
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "log", "cti_fail2ban.log")
	if err := os.Mkdir(filepath.Dir(cfg.CTILog.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	client := control.NewClient(cfg.Control.Socket)
	defer client.Close()
	log := &ctiWriter{t: t, path: cfg.CTILog.Path, client: client}
	log.open()
	p := spawn(t, &cfg)
	subscribed := func() {
		if err := fs.WaitSubscribed(t.Context(), "sofia::register_failure"); err != nil {
			t.Fatal(err)
		}
	}
	subscribed()

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, seed))
	upTo := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
	truth := make(map[netip.Addr]int)
	story := make(map[netip.Addr][]string) // of each, what was counted and what it did, by time
	var tales []func()                     // that tell the latter
	var night []happening
	begin := time.Now().Add(100 * time.Millisecond)
	for range nightFailures {
		after := upTo(nightLength)
		at := sync.OnceValue(func() time.Time { return begin.Add(after) })
		addr := netip.AddrFrom4([4]byte{203, 0, 113 + byte(rng.IntN(2)), byte(rng.IntN(nightAddresses / 2))})
		truth[addr]++
		c := fakeswitch.Caller{Addr: addr, User: fmt.Sprint(1000 + rng.IntN(3))}
		tales = append(tales, func() {
			story[addr] = append(story[addr], fmt.Sprintf("%v %s failed", at().UnixMicro(), c.User))
		})
		night = append(night,
			happening{after + upTo(nightRagged), func() { fs.Emit(fakeswitch.WrongPassword, c, at()) }},
			happening{after + upTo(nightRagged), func() { fs.Emit(fakeswitch.CTILine, c, at()) }},
			happening{after + upTo(nightRagged), func() { log.failure(c, at()) }})
	}
	script := func(after time.Duration, do func()) { night = append(night, happening{2 * after, do}) }
	kill := func() {
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait()
	}
	again := func() { p = spawn(t, &cfg) }
	socketDies := func(how fakeswitch.Ending) func() {
		return func() {
			fs.CloseListener()
			fs.End(how)
		}
	}
	socketBack := func() {
		if err := fs.Listen(address); err != nil {
			t.Fatal(err)
		}
	}
	script(800*time.Millisecond, func() { fs.End(fakeswitch.Kill) })
	script(1500*time.Millisecond, log.rotate)
	script(2000*time.Millisecond, socketDies(fakeswitch.HalfFrame))
	script(2600*time.Millisecond, socketBack)
	script(3300*time.Millisecond, kill)
	script(3500*time.Millisecond, log.rotate) // while nobody reads
	script(3700*time.Millisecond, again)
	script(4600*time.Millisecond, log.removeAndCreate)
	script(5200*time.Millisecond, socketDies(fakeswitch.Reset))
	script(5400*time.Millisecond, kill)
	script(5450*time.Millisecond, again) // the file alone
	script(6000*time.Millisecond, socketBack)
	script(6400*time.Millisecond, subscribed)
	script(6800*time.Millisecond, log.copyTruncate) // events speak: nothing is lost
	script(7400*time.Millisecond, socketDies(fakeswitch.Kill))
	script(7800*time.Millisecond, func() { // the file speaks
		log.copyTruncate()
		log.discarded++
	})
	script(8200*time.Millisecond, socketBack)
	script(8600*time.Millisecond, func() { fs.End(fakeswitch.Reload) })
	script(9000*time.Millisecond, kill)
	script(9001*time.Millisecond, again)
	slices.SortStableFunc(night, func(a, b happening) int { return int(a.after - b.after) })
	for _, h := range night {
		time.Sleep(time.Until(begin.Add(h.after)))
		began := time.Now()
		h.do()
		// Where something had to be waited for, nobody failed meanwhile: else what was told of long after it happened would look
		// like what happened then.
		if waited := time.Since(began); waited > 100*time.Millisecond {
			begin = begin.Add(waited)
		}
	}
	// What the sources told last must be read, and sealed.
	subscribed()
	log.caughtUp()
	for before, now := uint64(0), told(t, client); now != before; before, now = now, told(t, client) {
		time.Sleep(2 * time.Second)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, p.log)
	}

	counted := make(map[netip.Addr]int)
	total := 0
	l, err := ledger.Open(filepath.Join(cfg.State.Directory, "fsban.db"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, unreadable, err := l.Journal(func(e ledger.Entry) {
		a := &e.Attempt
		counted[a.Addr]++
		total++
		story[a.Addr] = append(story[a.Addr], fmt.Sprintf("%v %s was counted, told by %v", a.At.UnixMicro(), a.User, a.Source))
	}); err != nil || unreadable > 0 {
		t.Fatal(err, unreadable)
	}
	// A truncation costs a line at most, where the file alone spoke.
	t.Logf("%d of %d counted; %d lines may be lost to copytruncate", total, nightFailures, log.discarded)
	off := 0
	for addr, n := range truth {
		if counted[addr] > n || counted[addr] < n-log.discarded {
			t.Errorf("%v: %d counted of %d", addr, counted[addr], n)
		}
		off += n - counted[addr]
	}
	if off < 0 || off > log.discarded || len(counted) > len(truth) {
		t.Errorf("%d failures are missing, %d may be; %d addresses of %d", off, log.discarded, len(counted), len(truth))
	}
	if t.Failed() {
		for _, tell := range tales {
			tell()
		}
		for addr, n := range truth {
			if counted[addr] != n {
				slices.Sort(story[addr])
				t.Logf("%v, by microseconds:\n%s", addr, strings.Join(story[addr], "\n"))
			}
		}
		t.Logf("the last daemon's log:\n%s", p.log)
	}
}

// told is how many attempts the daemon knows of.
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

// A ctiWriter writes mod_cti's file, and has it rotated.
type ctiWriter struct {
	t         *testing.T
	path      string
	file      *os.File
	client    *control.Client // of the daemon that reads it
	wrote     time.Time       // the last line
	rotations int
	discarded int
}

// caughtUp waits until the daemon has read the last line that was written: a line since then, and no more for a second. What
// is removed or cut before that is lost, for whoever reads it.
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

// nothing writes a line that is none, and has the log be looked at once more.
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

// rotate renames the file. The writer writes on to it for a while, as a program does that is told a moment later.
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

// copyTruncate does what logrotate does. What is written between the two is gone, here nothing; but the first line of the
// file that is cut may be the end of one, as far as a reader can know, so it is not believed.
func (w *ctiWriter) copyTruncate() {
	w.caughtUp()
	w.rotations++
	data, err := os.ReadFile(w.path)
	w.check(err, os.WriteFile(fmt.Sprintf("%s.%d", w.path, 100-w.rotations), data, 0o644), os.Truncate(w.path, 0))
}
