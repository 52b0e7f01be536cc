package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// A report is the tables being made.
type report struct {
	bytes.Buffer
	all figures
	err error // a figure that is missing
}

// report prints the tables.
func (o *options) report(out io.Writer, all figures) error {
	r := &report{all: all}
	r.head(o)
	r.latency(o)
	r.lines(o)
	r.bans(o)
	r.memory(o)
	r.idle(o)
	if r.err != nil {
		return r.err
	}
	_, err := r.WriteTo(out)
	return err
}

func (r *report) printf(format string, args ...any) { fmt.Fprintf(&r.Buffer, format+"\n", args...) }

// at is the figure of a job below which that share of them are: 0.5 is the median.
func (r *report) at(j job, name string, share float64) float64 {
	values := slices.Clone(r.all[j.String()+" "+name])
	if len(values) == 0 {
		r.err = fmt.Errorf("there is no figure %s of %s", name, j)
		return 0
	}
	slices.Sort(values)
	if share == 0.5 && len(values)%2 == 0 {
		return (values[len(values)/2-1] + values[len(values)/2]) / 2
	}
	return values[min(len(values)-1, int(float64(len(values))*share))]
}

func (r *report) median(j job, name string) float64 { return r.at(j, name, 0.5) }

func (r *report) head(o *options) {
	version, _ := exec.Command("fail2ban-server", "--version").Output()
	load, _ := os.ReadFile("/proc/loadavg")
	busy, _, _ := strings.Cut(string(load), " ")
	first, _, _ := strings.Cut(string(version), "\n")
	_, number, _ := strings.Cut(first, " v")
	r.printf("fail2ban %s with pyinotify; medians of %d rounds; memory, idling and %s bans once; %d cores, load %s at the end.\n",
		number, o.rounds, thousands(o.manyBans), runtime.NumCPU(), busy)
}

func (r *report) latency(o *options) {
	f2b := job{"latency", "fail2ban", o.attackers}
	r.printf("| from the fifth failure to the first packet that is stopped | of fail2ban's p50 | p50 ms | p99 ms | attackers " +
		"|\n|---|---|---|---|---|")
	for _, row := range [][2]string{{"fsban, event socket", "events"}, {"fsban, log", "log"}, {"fail2ban, log", "fail2ban"}} {
		j := job{"latency", row[1], o.attackers}
		p50, p99 := r.median(j, "latency"), r.at(j, "latency", 0.99)
		r.printf("| %s | %s | %s | %s | %s |", row[0], digits(p50/r.median(f2b, "latency")), digits(p50*1000), digits(p99*1000),
			thousands(o.attackers*o.rounds))
	}
}

func (r *report) lines(o *options) {
	f2b := job{"lines", "fail2ban", o.f2bLines}
	r.printf("\n| lines counted, %d of an address | how many | lines/s of CPU, to fail2ban's | lines/s, to fail2ban's | peak, to fail2ban's "+
		"| lines/s of CPU | lines/s | peak MiB |\n|---|---|---|---|---|---|---|---|", o.perAddress)
	for _, row := range []struct {
		what string
		job
	}{
		{"fsban", job{"lines", "log", o.f2bLines}}, {"fsban", job{"lines", "log", o.fsLines}},
		{"`fsban replay`", job{"replay", "log", o.fsLines}}, {"fail2ban", f2b},
	} {
		rate := func(j job, name string) float64 { return float64(j.N) / r.median(j, name) }
		peak := " " // of as many lines only
		if row.N == f2b.N {
			peak = " " + digits(r.median(row.job, "peak")/r.median(f2b, "peak")) + " "
		}
		r.printf("| %s | %s | %s | %s |%s| %s | %s | %s |", row.what, thousands(row.N), digits(rate(row.job, "cpu")/rate(f2b, "cpu")),
			digits(rate(row.job, "s")/rate(f2b, "s")), peak, digits(rate(row.job, "cpu")), digits(rate(row.job, "s")),
			digits(r.median(row.job, "peak")))
	}
}

func (r *report) bans(o *options) {
	f2b := job{"bans", "fail2ban", o.f2bBans}
	ours := []job{{"bans", "log", o.f2bBans}, {"bans", "log", o.fsBans}, {"bans", "log", o.manyBans}}
	each := func(j job) float64 { return r.median(j, "burst") / float64(j.N) }
	r.printf("\n| fifth failures written at once | how many | of fail2ban's, a ban | s until all are banned | ms a ban " +
		"|\n|---|---|---|---|---|")
	for _, j := range append(slices.Clone(ours), f2b) {
		r.printf("| %s | %s | %s | %s | %s |", j.who(), thousands(j.N), digits(each(j)/each(f2b)), digits(r.median(j, "burst")),
			digits(each(j)*1000))
	}
	r.printf("\n| restart with bans in force | how many | of fail2ban's s until ready | s to stop | s until ready | s until " +
		"all are in force " +
		"again | banned could send, s | of their packets passed |\n|---|---|---|---|---|---|---|---|")
	for _, j := range append(slices.Clone(ours), f2b) {
		r.printf("| %s | %s | %s | %s | %s | %s | %s | %.0f of %.0f |", j.who(), thousands(j.N),
			digits(r.median(j, "ready")/r.median(f2b, "ready")),
			digits(r.median(j, "stop")), digits(r.median(j, "ready")), digits(r.median(j, "in force")), digits(r.median(j, "open")),
			r.median(j, "passed"), r.median(j, "sent"))
	}
}

func (j job) who() string {
	if j.Guard == "fail2ban" {
		return "fail2ban"
	}
	return "fsban"
}

func (r *report) memory(o *options) {
	f2b, ours := job{"memory", "fail2ban", o.f2bBans}, job{"memory", "log", o.f2bBans}
	r.printf("\n| %s bans in force, and %s addresses that failed once | of fail2ban's | fsban | fail2ban |\n|---|---|---|---|",
		thousands(o.f2bBans), thousands(o.tracked))
	for _, row := range [][2]string{
		{"memory before, MiB", "fresh"}, {"memory, MiB", "rss"}, {"peak memory, MiB", "peak"},
		{"CPU for all of it, with the programs that it ran, s", "cpu"},
	} {
		r.compare(row[0], f2b, ours, row[1], 1)
	}
}

func (r *report) idle(o *options) {
	f2b, ours := job{"idle", "fail2ban", 0}, job{"idle", "events", 0}
	r.printf("\n| nothing happens, for %v | of fail2ban's | fsban | fail2ban |\n|---|---|---|---|", o.quiet)
	r.compare("CPU, ms a second", f2b, ours, "cpu", 1000)
	r.compare("wake-ups a second", f2b, ours, "wakeups", 1)
	r.compare("memory, MiB", f2b, ours, "rss", 1)
}

// compare prints a row of a figure of both, in a unit of which there are so many.
func (r *report) compare(what string, f2b, ours job, name string, unit float64) {
	a, b := r.median(ours, name)*unit, r.median(f2b, name)*unit
	r.printf("| %s | %s | %s | %s |", what, digits(a/b), digits(a), digits(b))
}

// digits writes a figure with two of them at least.
func digits(x float64) string {
	switch {
	case x == 1: // the reference
		return "1"
	case x >= 1000:
		return thousands(int(x + 0.5))
	case x >= 9.95:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 1:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'g', 2, 64)
}

// thousands writes a number as the documents do.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
