package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// figures are the measured values, by name: seconds, MiB or numbers.
type figures map[string][]float64

func (f figures) add(name string, value float64) { f[name] = append(f[name], value) }

func (f figures) since(name string, from, to time.Time) { f.add(name, to.Sub(from).Seconds()) }

// A job is a row of a table measured with one guard, in a network namespace of its own.
type job struct {
	Row   string
	Guard string
	N     int // attackers, lines or bans
}

func (j job) String() string { return fmt.Sprintf("%s/%s/%d", j.Row, j.Guard, j.N) }

// params are the parameters that all jobs share.
type params struct {
	fsban      string // the program
	perAddress int    // lines
	tracked    int    // addresses with one failure each, in addition to the bans
	quiet      time.Duration
	settle     time.Duration // for the work of a guard at its start
	timeout    time.Duration // of a job
}

// rows are the measurements. Each gets a guard that has started and settled; replay needs none.
var rows = map[string]func(context.Context, guard, job, params) (figures, error){
	"latency": latency,
	"lines":   lines,
	"bans":    bans,
	"memory":  memory,
	"idle":    idle,
}

// run performs a job inside its namespaces, with the files in dir.
func (j job) run(ctx context.Context, dir string, p params) (figures, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("not within %v", p.timeout))
	defer cancel()
	if j.Row == "replay" {
		return replay(ctx, j, dir, p)
	}
	if err := assign(); err != nil {
		return nil, err
	}
	g, err := newGuard(j.Guard, dir, p.fsban)
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.start(ctx); err != nil {
		return nil, err
	}
	if err := sleep(ctx, p.settle); err != nil {
		return nil, err
	}
	f, err := rows[j.Row](ctx, g, j, p)
	if err != nil {
		return nil, err
	}
	if f2b, ok := g.(*fail2ban); ok && f2b.backend == "pyinotify" {
		f.add("pyinotify", 1)
	}
	return f, g.stop()
}

// upTo returns the numbers of the first n attackers, beginning with from.
func upTo(from, n int) (all []int) {
	for i := from; i < n; i++ {
		all = append(all, i)
	}
	return all
}

// failOften reports that many failures of each attacker and waits until they are counted, in addition to the earlier ones in
// before.
func failOften(ctx context.Context, g guard, attackers []int, times int, before *int) error {
	for range times {
		if err := g.fail(attackers); err != nil {
			return err
		}
	}
	*before += len(attackers) * times
	_, err := untilCounted(ctx, g, *before)
	return err
}

// maxretry is the failure on which both ban.
const maxretry = 5

// latency measures the time from the write of the fifth failure to the log or the socket until the first packet is dropped, for
// n attackers in turn. A random pause precedes each, because both guards poll.
func latency(ctx context.Context, g guard, j job, _ params) (figures, error) {
	const together = 50 // attackers that get their first failures in one write; all are banned within findtime
	w, err := newWire(5060)
	if err != nil {
		return nil, err
	}
	defer w.close()
	f, counted := make(figures), 0
	for from := 0; from < j.N; from += together {
		group := upTo(from, min(j.N, from+together))
		if err := failOften(ctx, g, group, maxretry-1, &counted); err != nil {
			return nil, err
		}
		for _, n := range group {
			if err := sleep(ctx, rand.N(250*time.Millisecond)); err != nil {
				return nil, err
			}
			began := time.Now()
			if err := g.fail([]int{n}); err != nil {
				return nil, err
			}
			at, err := w.held(ctx, n)
			if err != nil {
				return nil, err
			}
			f.since("latency", began, at)
		}
		counted += len(group)
	}
	return f, disagree(ctx, g, j.N)
}

// lines measures reading, matching and counting of lines without a ban. Five lines of one more address follow: when its packets
// are dropped, all lines are read. That needs no queries, which would cost fsban more CPU time than the lines.
func lines(ctx context.Context, g guard, j job, p params) (figures, error) {
	w, err := newWire(5060)
	if err != nil {
		return nil, err
	}
	defer w.close()
	log := busyLog(j.N, p.perAddress)
	for range maxretry {
		log = appendLine(log, 0, time.Now())
	}
	before, err := g.process().usage()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := write(g, log); err != nil {
		return nil, err
	}
	at, err := w.held(ctx, 0)
	if err != nil {
		return nil, err
	}
	after, err := g.process().usage()
	if err != nil {
		return nil, err
	}
	counted, err := untilCounted(ctx, g, j.N+maxretry)
	if err != nil {
		return nil, err
	}
	if _, ok := g.(*fail2ban); ok {
		at = counted // excludes the latency of the ban: fail2ban logs the time at which it found the last failure
	}
	f := make(figures)
	f.since("s", began, at)
	f.add("cpu", (after.cpu - before.cpu).Seconds())
	f.add("peak", after.peak)
	return f, disagree(ctx, g, 1)
}

// replay measures fsban replay on the same lines as a file: the daemon's parser and policy without its other work. The figures
// include the start of the program.
func replay(ctx context.Context, j job, dir string, p params) (figures, error) {
	log, config := filepath.Join(dir, "log"), filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(log, busyLog(j.N, p.perAddress), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, []byte("firewall: {enforce: false}\n"), 0o600); err != nil {
		return nil, err
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, p.fsban, "replay", "--config", config, "--json", log)
	cmd.Stderr = &said
	began := time.Now()
	out, err := cmd.Output()
	ended := time.Now()
	if err != nil {
		return nil, fmt.Errorf("fsban replay: %w: %s", err, said.Bytes())
	}
	var result struct {
		Attempts map[string]int    `json:"attempts"`
		Bans     []json.RawMessage `json:"bans"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return nil, fmt.Errorf("fsban replay: %w", err)
	}
	if n := result.Attempts["auth_failure"]; n != j.N || len(result.Bans) > 0 {
		return nil, fmt.Errorf("fsban replay counted %d failures of %d, and would ban %d addresses", n, j.N, len(result.Bans))
	}
	f := make(figures)
	f.since("s", began, ended)
	f.add("cpu", (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
	f.add("peak", float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)/1024)
	return f, nil
}

// busyLog returns mod_cti's log of a busy moment that has just passed. A thousand addresses take turns until each has
// perAddress lines; then the next thousand follow. The first attacker is not among them.
func busyLog(lines, perAddress int) (b []byte) {
	const moment = 20 * time.Second
	began := time.Now().Add(-moment)
	for i := range lines {
		n := 1 + i/(1000*perAddress)*1000 + i%1000
		b = appendLine(b, n, began.Add(moment/time.Duration(lines)*time.Duration(i)))
	}
	return b
}

// write appends to the log that g reads.
func write(g guard, b []byte) error {
	switch g := g.(type) {
	case *fail2ban:
		return g.write(b)
	case *fsban:
		return g.write(b)
	}
	return fmt.Errorf("%T reads no log", g)
}

// bans measures many bans at once, and a restart with them. All attackers have failed four times before; the time begins with
// one write of everybody's fifth failure.
func bans(ctx context.Context, g guard, j job, p params) (figures, error) {
	w, err := newWire(5060)
	if err != nil {
		return nil, err
	}
	defer w.close()
	attackers, counted := upTo(0, j.N), 0
	if err := failOften(ctx, g, attackers, maxretry-1, &counted); err != nil {
		return nil, err
	}
	f := make(figures)
	began := time.Now()
	if err := g.fail(attackers); err != nil {
		return nil, err
	}
	at, err := w.allHeld(ctx, j.N)
	if err != nil {
		return nil, err
	}
	f.since("burst", began, at)
	if err := disagree(ctx, g, j.N); err != nil {
		return nil, err
	}
	if err := sleep(ctx, p.settle); err != nil {
		return nil, err
	}
	if err := restart(ctx, g, w, j.N, f); err != nil {
		return nil, err
	}
	return f, disagree(ctx, g, j.N)
}

// restart stops g and starts it again while banned addresses keep sending.
func restart(ctx context.Context, g guard, w *wire, n int, f figures) error {
	s, err := startStream(ctx, 5061, n)
	if err != nil {
		return err
	}
	defer func() { _ = s.end() }()
	began := time.Now()
	if err := g.stop(); err != nil {
		return err
	}
	stopped := time.Now()
	type result struct {
		at  time.Time
		err error
	}
	held := make(chan result, 1)
	go func() {
		at, err := w.allHeld(ctx, n)
		held <- result{at, err}
	}()
	err = g.start(ctx)
	ready := time.Now()
	r := <-held // ctx bounds it
	if err != nil {
		return err
	}
	if r.err != nil {
		return r.err
	}
	if err := s.end(); err != nil {
		return err
	}
	f.since("stop", began, stopped)
	f.since("ready", stopped, ready)
	if s.passed == 0 {
		r.at = stopped // the bans were in force without a gap
	}
	f.since("in force", stopped, r.at)
	f.since("open", s.first, s.last)
	f.add("sent", float64(s.sent))
	f.add("passed", float64(s.passed))
	return nil
}

// memory measures the memory of a guard with n bans in force, and other addresses with one failure each, all written at once.
func memory(ctx context.Context, g guard, j job, p params) (figures, error) {
	w, err := newWire(5060)
	if err != nil {
		return nil, err
	}
	defer w.close()
	before, err := g.process().usage()
	if err != nil {
		return nil, err
	}
	watched := upTo(j.N, j.N+p.tracked)
	if err := g.fail(watched); err != nil {
		return nil, err
	}
	for range maxretry {
		if err := g.fail(upTo(0, j.N)); err != nil {
			return nil, err
		}
	}
	if _, err := w.allHeld(ctx, j.N); err != nil { // their failures come last, so all is read then
		return nil, err
	}
	if err := sleep(ctx, p.settle); err != nil {
		return nil, err
	}
	after, err := g.process().usage()
	if err != nil {
		return nil, err
	}
	f := make(figures)
	if _, err := untilCounted(ctx, g, p.tracked+maxretry*j.N); err != nil {
		return nil, err
	}
	f.add("fresh", before.rss)
	f.add("rss", after.rss)
	f.add("peak", after.peak)
	f.add("cpu", (after.cpu + after.children - before.cpu - before.children).Seconds())
	return f, disagree(ctx, g, j.N)
}

// idle measures the CPU time of a guard while nothing happens.
func idle(ctx context.Context, g guard, _ job, p params) (figures, error) {
	before, err := g.process().usage()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := sleep(ctx, p.quiet); err != nil {
		return nil, err
	}
	after, err := g.process().usage()
	if err != nil {
		return nil, err
	}
	took := time.Since(began).Seconds()
	f := make(figures)
	f.add("cpu", (after.cpu-before.cpu+after.children-before.children).Seconds()/took)
	f.add("wakeups", float64(after.wakeups(before))/took)
	f.add("rss", after.rss)
	return f, g.process().gone()
}
