package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/internal/netns"
)

// programEnv names the fsban that the tests run.
const programEnv = "FSBAN_BENCH_PROGRAM"

// TestMain builds fsban, once for all processes of these tests.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(programEnv) != "" || testing.Short() {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "beside")
	if err == nil {
		var out []byte
		build := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-buildvcs=false", "-o", dir, "./cmd/fsban")
		build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0") // fsban is a module of its own
		if out, err = build.CombinedOutput(); err != nil {
			err = fmt.Errorf("build fsban: %w: %s", err, out)
		}
	}
	if err == nil {
		err = os.Setenv(programEnv, filepath.Join(dir, "fsban"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// tools are the programs that the tests need in addition to fsban.
var tools = []string{"fail2ban-server", "fail2ban-client", "iptables", "ipset"}

// small is a run that takes seconds.
func small() params {
	return params{fsban: os.Getenv(programEnv), perAddress: 4, tracked: 40, quiet: time.Second, timeout: 2 * time.Minute}
}

// tempDir is a directory with a short name, as a socket's path needs it.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "beside")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Each measurement runs in a small form. It fails if a guard counts or bans wrongly, or if a figure is missing or implausible.
func TestEachRowMeasures(t *testing.T) {
	for _, j := range []job{
		{"latency", "fail2ban", 2}, {"latency", "log", 3}, {"latency", "events", 3},
		{"lines", "fail2ban", 400}, {"lines", "log", 400}, {"replay", "log", 400},
		{"bans", "fail2ban", 5}, {"bans", "log", 5}, {"bans", "log", allAtOnce + 10},
		{"memory", "fail2ban", 3}, {"memory", "log", 3},
		{"idle", "fail2ban", 0}, {"idle", "events", 0},
	} {
		t.Run(j.String(), func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				f, err := j.run(t.Context(), tempDir(t), small())
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range figuresOf[j.Row] {
					switch values := f[name]; {
					case len(values) == 0, j.Row == "latency" && len(values) != j.N:
						t.Errorf("%s has %d values", name, len(values))
					case slices.Min(values) < 0, positive[name] && slices.Min(values) == 0:
						t.Errorf("%s is %v", name, values)
					}
				}
				if j.Row == "bans" && (f["passed"][0] > 0) != (j.Guard == "fail2ban") {
					t.Errorf("%.0f packets of banned addresses passed during the restart; fail2ban opens the firewall, fsban does not", f["passed"][0])
				}
			}, tools...)
		})
	}
}

var (
	figuresOf = map[string][]string{
		"latency": {"latency"},
		"lines":   {"s", "cpu", "peak"},
		"replay":  {"s", "cpu", "peak"},
		"bans":    {"burst", "stop", "ready", "in force", "open", "sent", "passed"},
		"memory":  {"fresh", "rss", "peak", "cpu"},
		"idle":    {"cpu", "wakeups", "rss"},
	}
	positive = map[string]bool{"latency": true, "peak": true, "burst": true, "stop": true, "ready": true, "sent": true, "fresh": true, "rss": true}
)

// From the same lines, some of which lead to a ban, both must count and ban the same.
func TestTheTwoAgreeWhoIsBanned(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		if err := assign(); err != nil {
			t.Fatal(err)
		}
		banned, lines := make(map[string][]netip.Addr), 0
		for _, name := range []string{"fail2ban", "log", "events"} {
			banned[name], lines = mixed(t, name)
		}
		for _, name := range []string{"log", "events"} {
			if !slices.Equal(banned[name], banned["fail2ban"]) {
				t.Errorf("fsban (%s) bans %v, fail2ban %v", name, banned[name], banned["fail2ban"])
			}
		}
		if n := len(banned["fail2ban"]); n != 4 {
			t.Errorf("of %d lines fail2ban makes %d bans, want 4: %v", lines, n, banned["fail2ban"])
		}
	}, tools...)
}

// mixed reports one to six failures of each of twelve attackers and returns the banned ones. It leaves no rule behind: the next
// fsban would adopt the bans.
func mixed(t *testing.T, name string) (banned []netip.Addr, lines int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g, err := newGuard(name, tempDir(t), os.Getenv(programEnv))
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if err := g.start(ctx); err != nil {
		t.Fatal(err)
	}
	if banned, err = g.banned(ctx); err != nil || len(banned) > 0 {
		t.Fatalf("%s begins with %v banned (%v)", name, banned, err)
	}
	var all []int
	for n := range 12 {
		for range n%6 + 1 {
			all = append(all, n)
		}
	}
	if err := g.fail(all); err != nil {
		t.Fatal(err)
	}
	if _, err := untilCounted(ctx, g, len(all)); err != nil {
		t.Fatal(err)
	}
	for len(banned) < 4 {
		if banned, err = g.banned(ctx); err != nil {
			t.Fatal(err)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			t.Fatalf("%s has banned %v: %v", name, banned, err)
		}
	}
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	if name != "fail2ban" {
		if out, err := exec.CommandContext(ctx, os.Getenv(programEnv), "teardown").CombinedOutput(); err != nil {
			t.Fatalf("fsban teardown: %v: %s", err, out)
		}
	}
	slices.SortFunc(banned, netip.Addr.Compare)
	return banned, len(all)
}

// The tables have each figure where it belongs.
func TestTheReport(t *testing.T) {
	o, err := parse([]string{"-rounds", "2"}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	all, value := make(figures), 0.0
	each, once := o.jobs()
	for _, j := range append(each, once...) {
		for _, name := range figuresOf[j.Row] {
			value++
			all.add(j.String()+" "+name, value)
			all.add(j.String()+" "+name, value+2)
		}
	}
	var out strings.Builder
	if err := o.report(&out, all); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/report.md")
	if err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(out.String(), "\n\n") // the head is of this machine
	if got != string(want) {
		t.Errorf("the report is\n%s", got)
	}
	delete(all, "idle/events/0 cpu")
	if err := o.report(&out, all); err == nil || !strings.Contains(err.Error(), "no figure cpu of idle/events/0") {
		t.Errorf("without a figure: %v", err)
	}
}

func TestBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"-per-address 5":  "1 to 4",
		"-rounds 0":       "-rounds is 1 to 1000000",
		"-idle 0s":        "-idle is 1s to 1h",
		"-tracked 9e9":    "invalid value",
		"-rounds 1 lines": "flags alone",
	} {
		if _, err := parse(strings.Fields(args), t.Output()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	for _, name := range []string{"lines", "lines/log/x", "nothing/log/1"} {
		if _, err := parseJob(name); err == nil {
			t.Errorf("there is a measurement %q", name)
		}
	}
}
