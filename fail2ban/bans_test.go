package fail2ban

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fsban/internal/testenv"
)

// AskBans returns the bans of a real fail2ban, and an error once it is stopped.
func TestBansAreThoseOfFail2ban(t *testing.T) {
	t.Parallel()
	s := startFail2ban(t)
	want := make(map[netip.Prefix]int) // bantime
	ban := func(jail string, addrs ...string) {
		s.say(append([]string{"set", jail, "banip"}, addrs...)...)
		s.until(func() bool { // it bans a moment later
			banned := strings.Fields(s.say("get", jail, "banip"))
			return !slices.ContainsFunc(addrs, func(a string) bool { return !slices.Contains(banned, a) })
		})
		for _, a := range addrs {
			addr := netip.MustParseAddr(a)
			want[netip.PrefixFrom(addr, addr.BitLen())] = jails[jail]
		}
	}
	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprintf("203.0.113.%d", i%250+1), fmt.Sprintf("2001:db8::%x", i+1))
	}
	ban("cti", many...)
	ban("twodays", "192.0.2.8", "192.0.2.10", "198.51.100.1")
	ban("forever", "192.0.2.8", "2001:db8:7::7") // the longer ban of 192.0.2.8
	ban("endless", "192.0.2.9")
	ban("third", "192.0.2.11")
	delete(want, netip.MustParsePrefix("192.0.2.11/32")) // not asked for
	ban("minute", "192.0.2.12")
	delete(want, netip.MustParsePrefix("192.0.2.12/32")) // over at the time that is asked about
	s.say("set", "twodays", "unbanip", "198.51.100.1")
	delete(want, netip.MustParsePrefix("198.51.100.1/32"))

	now := time.Now().Add(time.Minute + time.Second)
	bans, odd, err := AskBans(t.Context(), s.dir, []*Jail{{Name: "cti"}, {Name: "twodays"}, {Name: "forever"}, {Name: "endless"}, {Name: "minute"}}, now)
	if err != nil || len(odd) > 0 {
		t.Fatal(err, odd)
	}
	for _, b := range bans {
		bantime, ok := want[b.Prefix]
		left := b.Until.Sub(now)
		switch {
		case !ok:
			t.Errorf("%v is not banned", b.Prefix)
		case bantime < 0 && !b.Until.IsZero(), bantime >= 0 && (left > time.Duration(bantime)*time.Second || left < time.Duration(bantime-400)*time.Second):
			t.Errorf("%v is banned until %v, want %d s", b.Prefix, b.Until, bantime)
		}
		delete(want, b.Prefix)
	}
	for p := range want {
		t.Errorf("%v is missing", p)
	}
	if _, _, err := AskBans(t.Context(), s.dir, []*Jail{{Name: "nosuch"}}, now); err == nil || !strings.Contains(err.Error(), "jail [nosuch]: fail2ban-client: exit status ") {
		t.Errorf("of a jail that does not exist: %v", err)
	}
	s.stop()
	if _, _, err := AskBans(t.Context(), s.dir, []*Jail{{Name: "cti"}}, now); err == nil || !strings.Contains(err.Error(), "Is fail2ban running?") {
		t.Errorf("when it is stopped: %v", err)
	}
}

func TestSavedBans(t *testing.T) {
	at := func(text string) time.Time {
		when, err := time.ParseInLocation(time.DateTime, text, time.Local)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	text := "192.0.2.1 \t2026-11-22 18:00:00 + 600 = 2026-11-22 18:10:00\r\n" +
		"192.0.2.2 \t2026-11-22 18:00:00 + 3600 = 2026-11-22 19:00:00\n\n" +
		"192.0.2.2 \t2026-11-22 18:00:00 + 7200 = 2026-11-22 20:00:00\n" +
		"2001:db8::/64 \t2026-11-22 18:00:00 + -1 = 9999-12-31 23:59:59\n" +
		"192.0.2.3 \t2026-11-22 18:00:00 + 900000000000 = 9999-12-31 23:59:59\n" +
		"user 7 + 1 \t2026-11-22 18:00:00 + 600 = 2026-11-22 20:00:00"
	bans, odd, err := ParseBans(strings.NewReader(text), "cti", at("2026-11-22 18:10:00"))
	want := []Ban{
		{"cti", netip.MustParsePrefix("192.0.2.2/32"), at("2026-11-22 18:00:00"), at("2026-11-22 20:00:00")},
		{"cti", netip.MustParsePrefix("192.0.2.3/32"), at("2026-11-22 18:00:00"), time.Time{}},
		{"cti", netip.MustParsePrefix("2001:db8::/64"), at("2026-11-22 18:00:00"), time.Time{}},
	}
	if err != nil || !slices.Equal(bans, want) || !slices.Equal(odd, []string{"user 7 + 1"}) {
		t.Errorf("%v, %q, %v, want %v", bans, odd, err, want)
	}
	for name, test := range map[string]struct{ text, want string }{
		"without times":   {"192.0.2.1 192.0.2.2\n", `line 1: "192.0.2.1 192.0.2.2" is no ban with its time: save the output of `},
		"another program": {text + "\nSQLite format 3\x00", "line 8: "},
		"no such day":     {"192.0.2.1 \t2026-11-22 18:00:00 + 600 = 2026-11-31 18:10:00", "line 1: "},
		"a long line":     {strings.Repeat("x", maxBanLine+1), "longer than"},
	} {
		if _, _, err := ParseBans(strings.NewReader(test.text), "", time.Now()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}

// jails are those of the server, with their bantime in seconds; negative: without end.
var jails = map[string]int{"cti": 7200, "twodays": 2 * 86400, "third": 600, "minute": 60, "forever": -1, "endless": -2}

// A server is a fail2ban with an action that does nothing.
type server struct {
	t      *testing.T
	dir    string // its configuration
	socket string
	cmd    *exec.Cmd
}

func startFail2ban(t *testing.T) *server {
	t.Helper()
	testenv.System(t, "fail2ban-server", "fail2ban-client")
	dir, err := os.MkdirTemp("", "f2b") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, dir: dir, socket: filepath.Join(dir, "s")}
	jail := "[DEFAULT]\nfilter = cti\nbackend = polling\naction = none\nlogpath = " + dir + "/log\nenabled = true\n"
	for name, bantime := range jails {
		if name == "endless" {
			bantime = 300_000_000_000 // seconds: beyond the year 9999
		}
		jail += fmt.Sprintf("[%s]\nbantime = %d\n", name, bantime)
	}
	for name, text := range map[string]string{
		"fail2ban.conf":      "[Definition]\nloglevel = INFO\nlogtarget = " + dir + "/fail2ban.log\nsyslogsocket = auto\nsocket = " + s.socket + "\npidfile = " + dir + "/pid\ndbfile = None\ndbpurgeage = 1d\ndbmaxmatches = 10\n",
		"jail.conf":          jail,
		"filter.d/cti.conf":  "[Definition]\nfailregex = ^ip\\[<HOST>\\].*\n",
		"action.d/none.conf": "[Definition]\nactionban =\nactionunban =\n",
		"log":                "",
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
		t.Fatalf("this test needs fail2ban (Debian package fail2ban), and fails without it: %v", err)
	}
	t.Cleanup(s.stop)
	s.until(func() bool {
		return exec.CommandContext(t.Context(), "fail2ban-client", "-s", s.socket, "status").Run() == nil
	})
	return s
}

func (s *server) say(args ...string) string {
	s.t.Helper()
	out, err := fail2banClient(s.t, append([]string{"-s", s.socket}, args...)...)
	if err != nil {
		s.t.Fatalf("fail2ban-client %s: %v\n%s", args, err, out)
	}
	return string(out)
}

func (s *server) until(ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("fail2ban never did it")
		}
	}
}

func (s *server) stop() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	}
}
