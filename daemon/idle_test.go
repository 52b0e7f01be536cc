package daemon

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
)

// Set by make bench-growth.
var idleFor = flag.Duration("idle.for", 0, "watch a quiet fsban for so long; 0: a short form")

// TestIdle measures wake-ups, CPU time and memory of an almost idle daemon. FreeSWITCH sends its heartbeat at the default rate.
func TestIdle(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		length, bans, tracked := time.Second, 1000, 1000
		if *idleFor > 0 {
			length, bans, tracked = *idleFor, 100_000, 1_000_000
		}
		table := "| | wake-ups a second | involuntary | CPU ms a minute | CPU s a day, if all of it were so | RSS MiB | its own MiB | heap MiB |\n|---|---|---|---|---|---|---|---|\n"
		for _, row := range []struct {
			name          string
			bans, tracked int
			day           bool
		}{
			{name: "nothing but heartbeats"},
			{name: fmt.Sprintf("the same with %s bans and %s tracked addresses", digits(bans), digits(tracked)), bans: bans, tracked: tracked},
			{name: "10 registrations a second, a failure every 3 s", day: true},
		} {
			g := grown(t, row.bans, row.tracked)
			c := g.rest(length, row.day)
			table += fmt.Sprintf("| %s | %.1f | %.1f | %.0f | %.0f | %.0f | %.0f | %.0f |\n", row.name,
				c.voluntary+c.involuntary, c.involuntary, 60_000*c.cpu, 86_400*c.cpu, c.rss, c.own, c.heap)
			if row.bans+row.tracked == 0 && !row.day {
				most := 500.0 // soon after the start; above it, a goroutine spins
				if *idleFor > 0 {
					most = 50
				}
				if c.voluntary > most {
					t.Errorf("%.1f wake-ups a second", c.voluntary)
				}
				if c.rss > 25 && *idleFor > 0 {
					t.Errorf("%.1f MiB resident, of 25", c.rss)
				}
			}
			g.program.stop(t)
			g.flush(t)
		}
		t.Log("\n" + table)
	}, "iptables", "ip6tables", "ipset")
}

// A cost is the resource use of a daemon, per second.
type cost struct {
	voluntary, involuntary, cpu float64 // context switches of all threads, and CPU seconds
	rss, own, heap              float64 // MiB at the end; own excludes the program and its files' pages
}

// rest measures g for a duration. day adds an ordinary day's load: phones register, and now and then one fails.
func (g *growth) rest(length time.Duration, day bool) cost {
	g.t.Helper()
	events := []event{{time.Hour, fakeswitch.Heartbeat}}
	if day {
		events = []event{{100 * time.Millisecond, fakeswitch.Success}, {3 * time.Second, fakeswitch.OnePacket}}
	}
	g.live(length/3, events) // let the start's background work finish
	wasCPU, wasSwitches := cpuOf(g.t, g.pid()), switches(g.t, g.pid())
	began := time.Now()
	g.live(length, events)
	took := time.Since(began).Seconds()
	cpu, now := cpuOf(g.t, g.pid()), switches(g.t, g.pid())
	s, err := measure(g.pid())
	if err != nil {
		g.t.Fatal(err)
	}
	return cost{
		voluntary: float64(now[0]-wasSwitches[0]) / took, involuntary: float64(now[1]-wasSwitches[1]) / took,
		cpu: (cpu - wasCPU).Seconds() / took, rss: float64(s.rss) / (1 << 20), own: float64(s.anonymous) / (1 << 20), heap: g.heap(),
	}
}

// An event is a situation and its interval on an ordinary day.
type event struct {
	every time.Duration
	what  fakeswitch.Situation
}

// live plays events of phones for a duration.
func (g *growth) live(length time.Duration, events []event) {
	end := time.After(length)
	timers := make([]<-chan time.Time, 2)
	for i, e := range events {
		ticker := time.NewTicker(e.every)
		defer ticker.Stop()
		timers[i] = ticker.C
	}
	for n := 0; ; n++ {
		i := 0
		select {
		case <-end:
			return
		case <-timers[0]:
		case <-timers[1]:
			i = 1
		}
		user := strconv.Itoa(1000 + n%100)
		g.fs.Emit(events[i].what, fakeswitch.Caller{Addr: netip.AddrFrom4(nthOf(phone, uint32(n%100))), User: user}, time.Now())
	}
}

// switches returns the voluntary and involuntary context switches of all threads of a process.
func switches(t testing.TB, pid int) (n [2]uint64) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatal("no threads", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			for i, want := range []string{"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"} {
				if name == want {
					more, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
					if err != nil {
						t.Fatal(line)
					}
					n[i] += more
				}
			}
		}
	}
	return n
}

// cpuOf returns the CPU time of a process in nanoseconds; /proc has it in steps of 10 ms.
func cpuOf(t testing.TB, pid int) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil { // clock_getcpuclockid(3)
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// digits formats n with thousands separators.
func digits(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
