package daemon

import (
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/decide"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/ledger"
)

// Set by make bench-growth.
var growthTo = flag.Int("growth.to", 0, "up to so many bans, and so many tracked addresses; 0: a short form")

// TestGrowth measures how costs grow with the number of bans and of tracked addresses, and asserts the limits of memory.
func TestGrowth(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		sizes := []int{1000}
		if *growthTo > 0 {
			sizes = slices.DeleteFunc([]int{1, 100, 10_000, 100_000, 1_000_000}, func(n int) bool { return n > *growthTo })
		}
		var ofBans, ofTracked []map[string]float64
		for _, n := range sizes {
			ofBans = append(ofBans, costsOf(t, n, 0))
			ofTracked = append(ofTracked, costsOf(t, 0, n))
		}
		t.Log("\n" + costTable("bans", sizes, ofBans) + "\n" + costTable("tracked addresses", sizes, ofTracked))
		for i, n := range sizes {
			limit := func(most int, name string, costs map[string]float64, mib float64) {
				if n <= most && costs[costOwn] > mib {
					t.Errorf("%s %s: %.0f MiB, of %.0f", digits(n), name, costs[costOwn], mib)
				}
			}
			limit(100_000, "bans", ofBans[i], 60)
			limit(1_000_000, "tracked addresses", ofTracked[i], 200)
		}
	}, "iptables", "ip6tables", "ipset")
}

const (
	costStart  = "start until all is in force, ms"
	costEvent  = "CPU of an event, µs"
	costP50    = "one more ban, p50 µs"
	costP99    = "one more ban, p99 µs"
	costRest   = "CPU at rest, ms a minute"
	costRSS    = "RSS, MiB"
	costOwn    = "of it its own, MiB"
	costHeap   = "heap, MiB"
	costScrape = "a scrape, ms"
	costStatus = "`fsban status`, ms"
	costList   = "`fsban list --limit 10`, ms"
	costFile   = "state file, MiB"
)

var costs = []string{costStart, costEvent, costP50, costP99, costRest, costRSS, costOwn, costHeap, costScrape, costStatus, costList, costFile}

// costTable returns a table of each cost by size, as a multiple of the cost at size one.
func costTable(name string, sizes []int, of []map[string]float64) string {
	text, line := "| "+name, "|---"
	for _, n := range sizes {
		text += " | " + digits(n)
		line += "|---"
	}
	text += " |\n" + line + "|\n"
	for _, what := range costs {
		if of[0][what] == 0 {
			continue
		}
		text += "| " + what
		for _, c := range of {
			ratio := c[what] / of[0][what]
			times := fmt.Sprintf("%.2g", ratio)
			if ratio >= 100 {
				times = fmt.Sprintf("%.0f", ratio)
			}
			text += fmt.Sprintf(" | %s× (%.*f)", times, places(c[what]), c[what])
		}
		text += " |\n"
	}
	return text
}

func places(v float64) int {
	switch {
	case v < 1:
		return 2
	case v < 100:
		return 1
	}
	return 0
}

// costsOf measures a daemon with the given numbers of bans and tracked addresses.
func costsOf(t *testing.T, bans, tracked int) map[string]float64 {
	t.Helper()
	g := grown(t, bans, tracked)
	c := make(map[string]float64)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	if bans > 0 {
		c[costStart] = ms(g.started)
	}
	length := time.Second
	if *growthTo > 0 {
		length = 15 * time.Second
	}
	rest := g.rest(length, false)
	c[costRest], c[costRSS], c[costOwn], c[costHeap] = 60_000*rest.cpu, rest.rss, rest.own, rest.heap
	c[costScrape] = ms(median(func() { g.metrics() }))
	c[costStatus] = ms(median(func() { g.command("status") }))
	if bans > 0 {
		c[costList] = ms(median(func() { g.command("list", "--limit", "10") }))
	}
	c[costEvent] = g.event()
	g.program.stop(t)
	file, err := os.Stat(filepath.Join(g.dir, "fsban.db"))
	if err != nil {
		t.Fatal(err)
	}
	c[costFile] = float64(file.Size()) / (1 << 20)
	if bans > 0 {
		c[costP50], c[costP99] = g.oneMore()
	}
	g.flush(t)
	for what, v := range c {
		if !(v > 0) {
			t.Errorf("%d bans, %d tracked addresses: %s: %v", bans, tracked, what, v)
		}
	}
	return c
}

// median returns the median duration of five calls of f.
func median(f func()) time.Duration {
	var took []time.Duration
	for range 5 {
		began := time.Now()
		f()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// A growth is a daemon with many bans or tracked addresses.
type growth struct {
	soak
	yaml    string
	started time.Duration // until all bans were in force
	failed  uint32        // strangers that have failed so far
}

// grown starts a daemon with the given number of bans in its state file, and reports one failure of each of the tracked
// addresses.
func grown(t *testing.T, bans, tracked int) *growth {
	t.Helper()
	fs := newSwitch(t, fakeswitch.Options{Heartbeat: 20 * time.Second})
	dir := configFor(t, fs).State.Directory
	g := &growth{soak: soak{t: t, fs: fs, dir: dir, client: control.NewClient(filepath.Join(dir, "s"))}}
	g.yaml = fmt.Sprintf(`
freeswitch: {address: %q}
cti_log: {path: "off"}
firewall: {backend: iptables, max_bans: 2000000}
state: {directory: %q}
control: {socket: %q}
http: {listen: "127.0.0.1:0"}
log: {level: error}
`, fs.Addr(), dir, filepath.Join(dir, "s"))
	buildProgram(t, dir)
	g.remember(bans)
	g.restart(bans) // with an empty kernel
	if bans > 0 {   // a restart is measured with the bans in the kernel
		g.program.stop(t)
		g.restart(bans)
	}
	g.track(tracked)
	return g
}

// remember writes bans to the state file, with ends spread over a day, the first in an hour.
func (g *growth) remember(bans int) {
	l, err := ledger.Open(filepath.Join(g.dir, "fsban.db"), time.Now())
	if err != nil {
		g.t.Fatal(err)
	}
	now := time.Now()
	for i := range bans {
		until := now.Add(time.Hour + 24*time.Hour/time.Duration(bans)*time.Duration(i))
		l.Add(ledger.Ban{Prefix: netip.PrefixFrom(nth(10, i), 32), Since: now, Until: until, Rule: "auth", Attempts: 5})
	}
	if err := cmp.Or(l.Flush(), l.Close()); err != nil {
		g.t.Fatal(err)
	}
}

// restart starts the daemon and waits until the given number of bans is in force.
func (g *growth) restart(bans int) {
	g.t.Helper()
	g.program = runProgram(g.t, g.dir, g.yaml)
	began := time.Now()
	for deadline := began.Add(2 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
		status, err := g.client.Status(g.t.Context())
		if err == nil && status.Ready && status.Firewall.Enforcing && status.Firewall.Pending == 0 && status.Bans.IPv4 == bans {
			break
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("not all is in force: %v %+v\n%s", err, status, g.program.said(g.t))
		}
	}
	g.started = time.Since(began)
	g.client.Close()
}

func (g *growth) pid() int { return g.program.cmd.Process.Pid }

// strangers reports one failure of each of n new addresses.
func (g *growth) strangers(n int) {
	if g.acts == nil {
		g.acts = map[fakeswitch.Situation]*act{fakeswitch.OnePacket: newAct(g.t, fakeswitch.OnePacket, "", "")}
	}
	g.batch = g.batch[:0]
	for range n {
		g.failed++
		g.batch = g.acts[fakeswitch.OnePacket].append(g.batch, nthOf(stranger, g.failed), g.failed%1000, g.failed%1000, time.Now())
	}
	g.fs.EmitRaw(g.batch)
}

// track reports failures of new addresses until n addresses are tracked or the table is full.
func (g *growth) track(n int) {
	g.t.Helper()
	for have, full := 0, false; have < n && !full; {
		more := min(n-have, 4000) // less than the capacity of the queue
		g.strangers(more)
		for was, same := have, 0; have < was+more && same < 500; same++ { // the outer loop replaces dropped attempts
			time.Sleep(2 * time.Millisecond)
			status, err := g.client.Status(g.t.Context())
			if err != nil {
				g.t.Fatalf("%v\n%s", err, g.program.said(g.t))
			}
			if status.Policy.Tracked > have {
				have, same = status.Policy.Tracked, 0
			}
			full = status.Policy.Evicted > 0
		}
	}
	g.client.Close()
}

// event returns the CPU time of one event in microseconds, wake-ups included: failures of new addresses, 10,000 a second.
func (g *growth) event() float64 {
	length := time.Second
	if *growthTo > 0 {
		length = 5 * time.Second
	}
	read := g.metrics().sum("fsban_events_total")
	told, cpu := g.failed, cpuOf(g.t, g.pid())
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for begun := time.Now(); time.Since(begun) < length; {
		<-ticker.C
		g.strangers(100)
	}
	events := float64(g.failed - told)
	g.eventually("it has read what was told", func() error {
		if now := g.metrics().sum("fsban_events_total") - read; now < events {
			return fmt.Errorf("%v events of %v", now, events)
		}
		return nil
	})
	return float64((cpuOf(g.t, g.pid()) - cpu).Microseconds()) / events
}

// oneMore returns the latency in microseconds of one more ban, from the order until the kernel holds it, in a daemon with the
// same state.
func (g *growth) oneMore() (p50, p99 float64) {
	g.t.Helper()
	cfg := configFor(g.t, g.fs)
	cfg.Firewall.Backend, cfg.Firewall.MaxBans = config.BackendIPTables, 2_000_000
	cfg.State.Directory = g.dir
	applied := &appliedBans{at: make(chan time.Time, 1)}
	r := startWith(g.t, g.fs, cfg, Options{}, func(d *Daemon) {
		applied.Histogram, d.metrics.latency = d.metrics.latency, applied
	})
	r.ready()
	r.eventually("all is in force", func() bool { return r.enforcer.Status().Pending == 0 })
	for i := range 1000 {
		if _, err := r.loop.Ban(g.t.Context(), decide.BanOrder{Prefix: netip.PrefixFrom(nth(172, i), 32), BanTime: time.Hour, Force: true}); err != nil {
			g.t.Fatal(err)
		}
		<-applied.at
	}
	if err := r.stop(); err != nil {
		g.t.Error(err)
	}
	slices.Sort(applied.own)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return us(applied.own[len(applied.own)/2]), us(applied.own[len(applied.own)*99/100])
}

// command runs fsban as an operator does.
func (g *growth) command(args ...string) {
	g.t.Helper()
	cmd := exec.CommandContext(g.t.Context(), filepath.Join(g.dir, "fsban"), append(args, "--config", filepath.Join(g.dir, "config.yaml"))...)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) == 0 {
		g.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func (g *growth) heap() float64 { return g.metrics()["go_memstats_heap_alloc_bytes"] / (1 << 20) }

// flush removes the daemon's bans from the kernel.
func (g *growth) flush(t *testing.T) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "ipset", "flush", "fsban4").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
