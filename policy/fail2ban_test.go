package policy_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fsban/detect"
	"fsban/internal/testenv"
	"fsban/policy"
)

// These tests compare the engine, with the one rule of a usual jail, with fail2ban itself (the Debian package of that
// name), and fail without it. Both read the same lines of mod_cti's.
//
// While all failures of an address lie within one findtime, or pauses longer than that part them, both ban the same
// addresses at the same lines. Otherwise they differ, because the engine knows when each failure was, and fail2ban only
// the first and the last, and a number:
//
//   - A failure exactly findtime ago counts in fail2ban. Here it does not.
//   - When the first failure is older than findtime, fail2ban estimates the number of recent ones from the rate. So it bans
//     addresses with fewer than maxretry within any findtime, or spares some that reached it.
//   - A line that comes late, by a minute at most, counts in fail2ban even if it is older than findtime.
//   - fail2ban counts each IPv6 address. Here it is the /64.
//   - fail2ban bans 192.0.2.300.
//
// TestWhereFail2banCountsOtherwise has each of them, and estimate does the second as fail2ban does it.

const maxRetry = 5

// A failure is a line that mod_cti writes.
type failure struct {
	addr   string
	at     time.Time
	user   string
	reason string
}

func (f failure) String() string {
	at := f.at.In(time.FixedZone("", 8*60*60)).Format("2006-01-02T15:04:05.000000-0700")
	return fmt.Sprintf("ip[%s] user[%s] at[%s] %s\n", f.addr, f.user, at, f.reason)
}

func failed(addr string, at time.Time) failure {
	return failure{addr, at, "1000", "Registration failed"}
}

// text is a log.
func text(failures []failure) string {
	var b strings.Builder
	for _, f := range failures {
		b.WriteString(f.String())
	}
	return b.String()
}

// A ban is a banned address with the number of the line that caused it.
type ban struct {
	line int
	who  string
}

// fsban returns the bans that the engine makes of a log. The guards, which are no part of a rule, are off.
func fsban(log string, findTime time.Duration, o policy.Options) (bans []ban) {
	o.BanRate, o.OutageMin = -1, -1
	rules := []policy.Rule{{
		Name: "auth", Kinds: []policy.Kind{policy.AuthFailure, policy.Violation},
		FindTime: findTime, MaxRetry: maxRetry, BanTime: 24 * time.Hour,
	}}
	never := policy.NewNeverBan(policy.NeverEntries("ignoreip", netip.MustParsePrefix("127.0.0.0/8")))
	e, d := policy.NewEngine(rules, never, o), detect.New(detect.Options{})
	number := 0
	for line := range strings.Lines(log) {
		number++
		a, outcome := d.CTILine([]byte(line), time.Time{})
		if outcome != detect.Attempt {
			continue
		}
		if decision := e.Observe(a); decision.Verdict == policy.BanNow {
			bans = append(bans, ban{number, strings.TrimSuffix(strings.TrimSuffix(decision.Prefix.String(), "/32"), "/128")})
		}
	}
	return bans
}

// banned returns the banned addresses, without duplicates.
func banned(bans []ban) []string {
	set := make(map[string]bool)
	for _, b := range bans {
		set[b.who] = true
	}
	return slices.Sorted(maps.Keys(set))
}

func random(t *testing.T) *rand.Rand {
	t.Helper()
	const seed = 20261122
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func sortByTime(failures []failure) {
	slices.SortStableFunc(failures, func(a, b failure) int { return a.at.Compare(b.at) })
}

// A real server reads one half of a log back, follows the other, and bans the same addresses. All lies within one findtime,
// however long the server takes to start.
func TestFail2banBansTheSameAddresses(t *testing.T) {
	testenv.System(t, "fail2ban-server")
	t.Parallel()
	const findTime = time.Hour
	r, now := random(t), time.Now()
	var failures []failure
	add := func(n int, addrs ...string) {
		reasons := []string{"Registration failed", "Registration failed", "irregular SIP message", "called number 00442079460000", ""}
		first, span := r.IntN(270_000), 1+r.IntN(270_000)
		for range n {
			at := now.Add(-time.Second - time.Duration(min(first+r.IntN(span), 279_000))*time.Millisecond)
			failures = append(failures, failure{addrs[r.IntN(len(addrs))], at, fmt.Sprint(1000 + r.IntN(4)), reasons[r.IntN(len(reasons))]})
		}
	}
	for i := range 200 {
		often := func() int { return []int{1, 3, 4, 4, 4, 5, 5, 5, 6, 9, 10, 14}[r.IntN(12)] }
		v4, v6 := fmt.Sprintf("198.51.100.%d", i+1), fmt.Sprintf("2001:db8:0:%x::%x", i/100, i+1)
		add(often(), v4, "::ffff:"+v4)
		add(often(), v6, strings.ToUpper(v6), strings.Replace(v6, "::", ":0::", 1))
	}
	for _, nobody := range []string{"127.0.0.9", "", "192.0.2.9 ", "(null)"} {
		add(12, nobody)
	}
	sortByTime(failures)
	old := slices.IndexFunc(failures, func(f failure) bool { return now.Sub(f.at) < 45*time.Second })

	s := startFail2ban(t, findTime, text(failures[:old]))
	s.follow(text(failures[old:]))
	want := banned(fsban(text(failures), findTime, policy.Options{IPv6Prefix: 128}))
	if got := s.banned(); !slices.Equal(got, want) || len(got) < 100 {
		t.Errorf("fail2ban bans %d\n%s\nwe ban %d\n%s", len(got), got, len(want), want)
	}
}

// A real server receives lines of the last minute, whose times it accepts, all at once, with a findtime of 20 s.
func TestWhereFail2banCountsOtherwise(t *testing.T) {
	testenv.System(t, "fail2ban-server")
	t.Parallel()
	const findTime = 20 * time.Second
	tests := []struct {
		name         string
		at           []int // seconds
		theirs, ours bool
	}{
		{"four are too few for both", []int{0, 1, 2, 3}, false, false},
		{"five within findtime are enough for both", []int{0, 5, 10, 15, 19}, true, true},
		{"the first exactly findtime ago counts in fail2ban", []int{0, 16, 17, 18, 20}, true, false},
		{"the rate of the four before makes four of them still", []int{0, 1, 2, 3, 21}, true, false},
		{"slowly, and never five within findtime", []int{0, 6, 11, 17, 22}, true, false},
		{"more slowly", []int{0, 6, 12, 18, 24}, false, false},
		{"five within findtime, with a low rate before", []int{0, 19, 19, 19, 33, 34}, false, true},
		{"late lines", []int{40, 41, 1, 2, 3}, true, false},
	}
	addr := func(i int) string { return fmt.Sprintf("198.51.100.%d", i+1) }
	s := startFail2ban(t, findTime, "")
	begin := time.Now().Truncate(time.Second).Add(-43 * time.Second)
	var failures []failure
	for i := range tests {
		for _, at := range tests[i].at {
			failures = append(failures, failed(addr(i), begin.Add(time.Duration(at)*time.Second)))
		}
	}
	for i := range maxRetry {
		failures = append(failures, failed(fmt.Sprintf("2001:db8::%x", i+1), begin), failed("192.0.2.300", begin))
	}
	s.follow(text(failures))
	theirs, ours := s.banned(), banned(fsban(text(failures), findTime, policy.Options{}))
	for i, tc := range tests {
		if got := slices.Contains(theirs, addr(i)); got != tc.theirs {
			t.Errorf("%s: fail2ban bans: %v, want %v", tc.name, got, tc.theirs)
		}
		if got := slices.Contains(ours, addr(i)); got != tc.ours {
			t.Errorf("%s: we ban: %v, want %v", tc.name, got, tc.ours)
		}
	}
	is := func(s string) func(string) bool { return func(who string) bool { return strings.HasPrefix(who, s) } }
	if slices.ContainsFunc(theirs, is("2001:db8::")) || !slices.Contains(ours, "2001:db8::/64") {
		t.Errorf("one network's addresses in turn: fail2ban bans %s, we ban %s", theirs, ours)
	}
	if !slices.ContainsFunc(theirs, is("192.0.2.300")) || slices.ContainsFunc(ours, is("192.0.2.300")) {
		t.Errorf("what is no address: fail2ban bans %s, we ban %s", theirs, ours)
	}
}

// Over hours, to the line: fail2ban's own filter, with a clock set by the test, reads every line at its time.
func TestFail2banBansAtTheSameLines(t *testing.T) {
	testenv.System(t, "python3")
	t.Parallel()
	const findTime = 300 * time.Second
	r, begin := random(t), time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC)
	var failures []failure
	bursts := func(addr string) {
		for at := begin; at.Before(begin.Add(time.Hour)); at = at.Add(600 * time.Second).Truncate(time.Second) {
			at = at.Add(time.Duration(r.IntN(1+r.IntN(300_000))) * time.Millisecond)
			length := 1 + r.IntN(298)
			for range r.IntN(3 * maxRetry) {
				failures = append(failures, failed(addr, at.Add(time.Duration(r.IntN(length*1000))*time.Millisecond)))
			}
		}
	}
	steady := func(addr string) {
		steps := []int{0, 1, 10, 60, 74, 75, 76, 85, 86, 100, 149, 150, 151, 297, 298, 299, 300, 301, 302}
		for at := begin; at.Before(begin.Add(time.Hour)); {
			step := steps[r.IntN(len(steps))]
			for range 1 + r.IntN(8) {
				failures = append(failures, failed(addr, at))
				at = at.Add(time.Duration(step)*time.Second + time.Duration(r.IntN(2)*r.IntN(1000))*time.Millisecond)
			}
		}
	}
	for i := range 60 {
		bursts(fmt.Sprintf("198.51.100.%d", i+1))
		steady(fmt.Sprintf("203.0.113.%d", i+1))
	}
	sortByTime(failures)
	theirs, ours := fail2banFilter(t, failures, findTime), fsban(text(failures), findTime, policy.Options{})
	of := func(network string, bans []ban) []ban {
		return slices.DeleteFunc(slices.Clone(bans), func(b ban) bool { return !strings.HasPrefix(b.who, network) })
	}
	if theirs, ours := of("198.51.100.", theirs), of("198.51.100.", ours); !slices.Equal(theirs, ours) || len(ours) < 100 {
		t.Errorf("bursts: fail2ban bans\n%v\nwe ban\n%v", theirs, ours)
	}
	estimated := estimates(failures, findTime)
	if !slices.Equal(theirs, estimated) {
		t.Errorf("fail2ban bans\n%v\nthe estimate is\n%v", theirs, estimated)
	}
	if theirs, ours := of("203.0.113.", theirs), of("203.0.113.", ours); slices.Equal(theirs, ours) {
		t.Error("they never differ where they should")
	} else {
		t.Logf("of addresses that fail all the time fail2ban makes %d bans, and we %d", len(theirs), len(ours))
	}
}

// An estimate is fail2ban's state of an address, in whole seconds: it drops the fractions that a line has.
type estimate struct {
	first, last float64
	failures    float64
}

// estimates returns the bans that fail2ban makes.
func estimates(failures []failure, findTime time.Duration) (bans []ban) {
	of := make(map[string]*estimate)
	for i, f := range failures {
		at, now := float64(f.at.Unix()), float64(f.at.UnixMilli())/1000
		e := of[f.addr]
		if e == nil || e.last <= now-findTime.Seconds() {
			e = &estimate{first: at, last: at}
			of[f.addr] = e
		}
		if from := at - findTime.Seconds(); e.first < from {
			e.failures = math.RoundToEven(e.failures / (at - e.first) * findTime.Seconds())
			e.first = from
		}
		e.last = max(e.last, at)
		if e.failures++; e.failures >= maxRetry {
			delete(of, f.addr)
			bans = append(bans, ban{i + 1, f.addr})
		}
	}
	return bans
}

const needsFail2ban = "this test needs fail2ban (Debian package fail2ban), and fails without it"

func fail2banFilter(t *testing.T, failures []failure, findTime time.Duration) (bans []ban) {
	t.Helper()
	testenv.System(t, "/usr/bin/python3")
	// performSvc forgets addresses whose last failure is older than findtime. A server does that every 5 s at most.
	const python = `import sys
from fail2ban.server.jail import Jail
from fail2ban.server.mytime import MyTime
jail = Jail("cti", backend="polling")
jail.filter.addFailRegex(r"^ip\[<HOST>\].*")
jail.filter.setMaxRetry(int(sys.argv[1]))
jail.filter.setFindTime(int(sys.argv[2]))
jail.filter.inOperation = True
for number, line in enumerate(sys.stdin, 1):
	now, _, line = line.rstrip("\n").partition(" ")
	MyTime.setTime(float(now))
	jail.filter.performSvc(True)
	jail.filter.processLineAndAdd(line)
	while ticket := jail.getFailTicket():
		print(number, ticket.getID())`
	var lines strings.Builder
	for _, f := range failures {
		fmt.Fprintf(&lines, "%.3f %v", float64(f.at.UnixMilli())/1000, f)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", python, fmt.Sprint(maxRetry), fmt.Sprint(findTime.Seconds()))
	cmd.Stdin, cmd.Stderr = strings.NewReader(lines.String()), t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", needsFail2ban, err)
	}
	for line := range strings.Lines(string(out)) {
		var b ban
		if _, err := fmt.Sscan(line, &b.line, &b.who); err != nil {
			t.Fatalf("fail2ban says %q", line)
		}
		bans = append(bans, b)
	}
	return bans
}

// A server is a real fail2ban with one jail and without actions: it closes nothing to anybody.
type server struct {
	t           *testing.T
	log, socket string
	cmd         *exec.Cmd
}

// The last lines of each log are these. A server that has banned their address has read all that comes before.
const lastLine1, lastLine2 = "192.0.2.1", "192.0.2.2"

// startFail2ban starts a server that reads log back. When it returns, the server has done so, and follows the log.
func startFail2ban(t *testing.T, findTime time.Duration, log string) *server {
	t.Helper()
	testenv.System(t, "fail2ban-server", "fail2ban-client")
	dir, err := os.MkdirTemp("", "f2b") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, log: filepath.Join(dir, "cti_fail2ban.log"), socket: filepath.Join(dir, "s")}
	for name, text := range map[string]string{
		"fail2ban.conf": fmt.Sprintf("[Definition]\nloglevel = INFO\nlogtarget = %s/fail2ban.log\nsyslogsocket = auto\nsocket = %s\n"+
			"pidfile = %s/pid\ndbfile = %s/fail2ban.sqlite3\n", dir, s.socket, dir, dir),
		"jail.conf": fmt.Sprintf("[cti]\nenabled = true\nfilter = cti\nbackend = polling\nlogpath = %s\nusedns = no\nignoreip = 127.0.0.1/8\n"+
			"maxretry = %d\nfindtime = %.0f\nbantime = 86400\n", s.log, maxRetry, findTime.Seconds()),
		"filter.d/cti.conf":  "[Definition]\nfailregex = ^ip\\[<HOST>\\].*\n",
		filepath.Base(s.log): log + lastLines(lastLine1),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.cmd = exec.CommandContext(t.Context(), "fail2ban-server", "-c", dir, "-f", "start")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.cmd.Stdout, s.cmd.Stderr = t.Output(), t.Output()
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", needsFail2ban, err)
	}
	t.Cleanup(func() {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	})
	s.until(lastLine1)
	return s
}

// follow writes more into the log, and waits until the server has read it.
func (s *server) follow(log string) {
	s.t.Helper()
	f, err := os.OpenFile(s.log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString(log + lastLines(lastLine2)); err != nil {
		s.t.Fatal(err)
	}
	s.until(lastLine2)
}

func lastLines(addr string) string {
	return strings.Repeat(failed(addr, time.Now()).String(), maxRetry)
}

func (s *server) until(addr string) {
	s.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !slices.Contains(s.all(), addr); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("fail2ban did not read its log within two minutes")
		}
	}
}

// banned returns the addresses banned by the server.
func (s *server) banned() []string {
	list := slices.DeleteFunc(s.all(), func(addr string) bool { return addr == lastLine1 || addr == lastLine2 })
	slices.Sort(list)
	return list
}

// all is banned with the addresses of the last lines.
func (s *server) all() []string {
	out, _ := exec.CommandContext(s.t.Context(), "fail2ban-client", "-s", s.socket, "get", "cti", "banip").Output()
	return strings.Fields(string(out)) // nothing, while the server is not up
}
