package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fsban/internal/testenv"
)

// A program is the built fsban in a process of its own, so that memory is measured without the race detector and the test.
type program struct {
	cmd     *exec.Cmd
	metrics string // address of /metrics
	log     string // file
	ended   chan struct{}
	err     error // result of the process
}

// startProgram builds fsban and runs it with a configuration.
func startProgram(t *testing.T, dir, yaml string, env ...string) *program {
	t.Helper()
	buildProgram(t, dir)
	return runProgram(t, dir, yaml, env...)
}

// buildProgram builds fsban into dir, as `make build` does.
func buildProgram(t *testing.T, dir string) {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, "fsban"), "fsban/cmd/fsban")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// runProgram runs the fsban that buildProgram built into dir.
func runProgram(t *testing.T, dir, yaml string, env ...string) *program {
	t.Helper()
	p := &program{log: filepath.Join(dir, "log"), ended: make(chan struct{})}
	file, path := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "fsban")
	address := testenv.Address(t)
	p.metrics = "http://" + address + "/metrics"
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(yaml, "127.0.0.1:0", address)), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.CommandContext(t.Context(), path, "run", "--config", file)
	p.cmd.Stderr = log
	p.cmd.Env = append(append(os.Environ(), "GODEBUG=gctrace=1"), env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// stop terminates it in order.
func (p *program) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("it was gone: %v\n%s", err, p.said(t))
	}
	<-p.ended
	if p.err != nil {
		t.Fatalf("%v\n%s", p.err, p.said(t))
	}
}

var gcTrace = regexp.MustCompile(`^gc \d+ @\S+ \d+%: ([0-9.]+)\+[0-9.]+\+([0-9.]+) ms clock`)

// said returns its log without the garbage collector's trace.
func (p *program) said(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	p.read(t, func(line string) {
		if !gcTrace.MatchString(line) && b.Len() < 100_000 {
			b.WriteString(line + "\n")
		}
	})
	return b.String()
}

// pauses returns the garbage collector's stop-the-world pauses, sorted by length.
func (p *program) pauses(t *testing.T) []time.Duration {
	t.Helper()
	var all []time.Duration
	p.read(t, func(line string) {
		m := gcTrace.FindStringSubmatch(line)
		if m == nil {
			return
		}
		for _, text := range m[1:] {
			ms, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(line)
			}
			all = append(all, time.Duration(ms*float64(time.Millisecond)))
		}
	})
	slices.Sort(all)
	return all
}

func (p *program) read(t *testing.T, line func(string)) {
	t.Helper()
	f, err := os.Open(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line(lines.Text())
	}
}

// metricValues are samples of metrics by name and labels, as /metrics writes them.
type metricValues map[string]float64

// sum adds up the samples of a metric that have all of labels.
func (m metricValues) sum(name string, labels ...string) float64 {
	var sum float64
next:
	for series, v := range m {
		if series != name && !strings.HasPrefix(series, name+"{") {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue next
			}
		}
		sum += v
	}
	return sum
}

// latency returns the histogram bound below which a share of all bans reached the kernel.
func (m metricValues) latency(share float64) string {
	best, all := math.Inf(1), m["fsban_ban_latency_seconds_count"]
	for series, n := range m {
		text, ok := strings.CutPrefix(series, `fsban_ban_latency_seconds_bucket{le="`)
		if bound, err := strconv.ParseFloat(strings.TrimSuffix(text, `"}`), 64); ok && err == nil && n >= share*all {
			best = min(best, bound)
		}
	}
	return time.Duration(best * float64(time.Second)).String()
}

var scraper = sync.OnceValue(func() *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
})

func (p *program) scrape(ctx context.Context) (metricValues, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.metrics, nil)
	if err != nil {
		return nil, err
	}
	response, err := scraper().Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	m := make(metricValues)
	for line := range strings.Lines(string(text)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if ok {
			series += "}"
		} else {
			series, value, ok = strings.Cut(strings.TrimSpace(line), " ")
		}
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && line[0] != '#' {
			m[series] = v
		}
	}
	if len(m) == 0 {
		return nil, errors.New("no metrics")
	}
	return m, nil
}

// A sample is the resource use of a process at one moment.
type sample struct {
	rss, anonymous, peak       uint64 // bytes
	files, threads, goroutines int
	cpu                        time.Duration
}

// measure samples a process through /proc.
func measure(pid int) (sample, error) {
	var s sample
	proc := fmt.Sprintf("/proc/%d/", pid)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		n, _ := strconv.ParseUint(fields[0], 10, 64) // 0 if not a number
		switch name {
		case "VmRSS":
			s.rss = n << 10
		case "RssAnon":
			s.anonymous = n << 10
		case "VmHWM":
			s.peak = n << 10
		case "Threads":
			s.threads = int(n)
		}
	}
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		return s, err
	}
	s.files = len(files)
	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		return s, err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return s, fmt.Errorf("%sstat: %q", proc, stat)
	}
	for _, ticks := range fields[11:13] { // user and system time
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			return s, err
		}
		s.cpu += time.Duration(n) * 10 * time.Millisecond
	}
	return s, nil
}
