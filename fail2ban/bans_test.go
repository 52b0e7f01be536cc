package fail2ban

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a real fail2ban writes is what ReadBans reads, while it runs and afterwards.
func TestBansAreThoseOfFail2ban(t *testing.T) {
	s := startFail2ban(t)
	want := make(map[netip.Prefix]int) // bantime
	ban := func(jail string, bantime int, addrs ...string) {
		s.say("set", jail, "bantime", fmt.Sprint(bantime))
		s.say(append([]string{"set", jail, "banip"}, addrs...)...)
		s.until(func() bool { // it bans a moment later
			banned := strings.Fields(s.say("get", jail, "banip"))
			return !slices.ContainsFunc(addrs, func(a string) bool { return !slices.Contains(banned, a) })
		})
		for _, a := range addrs {
			if addr, err := netip.ParseAddr(a); err == nil {
				want[netip.PrefixFrom(addr, addr.BitLen())] = bantime
			}
		}
	}
	var many []string
	for i := range 300 {
		many = append(many, fmt.Sprintf("203.0.113.%d", i%250+1), fmt.Sprintf("2001:db8::%x", i+1))
	}
	ban("cti", 7200, many...)
	ban("cti", 86400, "192.0.2.7", "2001:db8:7::7")
	ban("cti", -1, "192.0.2.8")
	ban("cti", 5_000_000_000, "192.0.2.9")
	ban("other", 600, "192.0.2.10", "198.51.100.1")
	ban("other", 86400*2, "192.0.2.8")
	want[netip.MustParsePrefix("192.0.2.8/32")] = -1 // the other jail's is for ever
	ban("third", 600, "192.0.2.11")
	delete(want, netip.MustParsePrefix("192.0.2.11/32")) // not asked for
	ban("cti", 60, "192.0.2.12")
	delete(want, netip.MustParsePrefix("192.0.2.12/32")) // over at the time that is asked about
	s.say("set", "other", "unbanip", "198.51.100.1")
	delete(want, netip.MustParsePrefix("198.51.100.1/32"))

	check := func() {
		t.Helper()
		now := time.Now().Add(time.Minute + time.Second)
		bans, odd, err := ReadBans(s.db, []*Jail{{Name: "cti"}, {Name: "other"}}, now)
		if err != nil || len(odd) > 0 {
			t.Fatal(err, odd)
		}
		for _, b := range bans {
			bantime, ok := want[b.Prefix]
			left := b.Until.Sub(now)
			switch {
			case !ok:
				t.Errorf("%v is not banned", b.Prefix)
			case bantime == -1 && !b.Until.IsZero(), bantime != -1 && (left > time.Duration(bantime)*time.Second || left < time.Duration(bantime-400)*time.Second):
				t.Errorf("%v is banned until %v, want %d s", b.Prefix, b.Until, bantime)
			}
			delete(want, b.Prefix)
		}
		for p := range want {
			t.Errorf("%v is missing", p)
		}
	}
	all := make(map[netip.Prefix]int)
	for p, bantime := range want {
		all[p] = bantime
	}
	check()
	s.stop()
	want = all
	check()
}

// Whoever writes to the database is waited for, and nobody writes while it is read.
func TestTheLockIsSQLites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	copyFile(t, "testdata/old.sqlite3", path)
	d, err := openDatabase(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Locks are those of a process: another one has to try.
	const write = `import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=0)
c.execute("PRAGMA journal_mode = MEMORY")
c.execute("CREATE TABLE x(y)")
c.commit()`
	python := func() ([]byte, error) {
		return exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", write, path).CombinedOutput() // fail2ban's
	}
	if out, err := python(); err == nil || !bytes.Contains(out, []byte("database is locked")) {
		t.Errorf("it was written while it was read: %s", out)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := python(); err != nil {
		t.Errorf("%v: %s", err, out)
	}

	hold := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", `import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()`, path)
	in, _ := hold.StdinPipe()
	out, _ := hold.StdoutPipe()
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if _, err := openDatabase(path, 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "somebody is writing") {
		t.Errorf("opened while it was written: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = in.Close() })
	if d, err := openDatabase(path, 10*time.Second); err != nil {
		t.Error(err)
	} else {
		_ = d.Close()
	}
	_ = hold.Wait()
}

// The bans of a fail2ban before 0.11 last as long as the jail says: its database does not.
func TestBansOfAnOldFail2ban(t *testing.T) {
	jail := &Jail{Name: "cti", options: map[string]Option{"bantime": {Text: "1h"}}}
	bans, odd, err := ReadBans("testdata/old.sqlite3", []*Jail{jail}, time.Unix(1_700_003_000, 0))
	want := []Ban{
		{"cti", netip.MustParsePrefix("192.0.2.2/32"), time.Unix(1_700_003_601, 0)},
		{"cti", netip.MustParsePrefix("192.0.2.1/32"), time.Unix(1_700_004_600, 0)},
	}
	if err != nil || !slices.Equal(bans, want) || !slices.Equal(odd, []string{"no address"}) {
		t.Errorf("%v, %q, %v, want %v", bans, odd, err, want)
	}
}

func TestNoDatabase(t *testing.T) {
	dir := t.TempDir()
	data, err := os.ReadFile("testdata/old.sqlite3")
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int, to byte) []byte {
		d := bytes.Clone(data)
		d[at] = to
		return d
	}
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":            {nil, "this is no SQLite database"},
		"text":             {bytes.Repeat([]byte("text"), 100), "this is no SQLite database"},
		"ahead":            {changed(18, 2), "write-ahead mode"},
		"utf-16":           {changed(59, 2), "UTF-16"},
		"wrong page size":  {changed(16, 3), "the file is damaged"},
		"cut":              {data[:1024], "the file is damaged"},
		"no pages":         {data[:100], "the file is damaged"},
		"no tree":          {changed(100, 0x0a), "the file is damaged"},
		"a circle":         {changed(100, 0x05), "the file is damaged"},
		"too many cells":   {changed(103, 0xff), "the file is damaged"},
		"another's tables": {bytes.ReplaceAll(data, []byte("bans"), []byte("bins")), "no table of bans"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, test.data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := ReadBans(path, []*Jail{{Name: "cti"}}, time.Now())
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
	if _, _, err := ReadBans(filepath.Join(dir, "none"), nil, time.Now()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestColumnsAreThoseOfTheTable(t *testing.T) {
	for sql, want := range map[string]string{
		"CREATE TABLE bips(ip TEXT NOT NULL, jail TEXT, timeofban INTEGER NOT NULL default (1+(2)), PRIMARY KEY(ip, jail), FOREIGN KEY(jail) REFERENCES jails(name) )": "ip jail timeofban",
		"CREATE TABLE x (\"a\", [b], `c`\n,d)": "a b c d",
		"CREATE TABLE x(a":                     "a",
		"CREATE TABLE x":                       "",
		"":                                     "",
	} {
		if got := strings.Join(columnsOf(sql), " "); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
}

// A server is a fail2ban that bans nobody in any kernel: its action does nothing.
type server struct {
	t      *testing.T
	socket string
	db     string
	cmd    *exec.Cmd
}

func startFail2ban(t *testing.T) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "f2b") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, socket: filepath.Join(dir, "s"), db: filepath.Join(dir, "fail2ban.sqlite3")}
	jail := "[DEFAULT]\nfilter = cti\nbackend = polling\naction = none\nlogpath = " + dir + "/log\nenabled = true\n[cti]\n[other]\n[third]\n"
	for name, text := range map[string]string{
		"fail2ban.conf":      "[Definition]\nloglevel = INFO\nlogtarget = " + dir + "/fail2ban.log\nsyslogsocket = auto\nsocket = " + s.socket + "\npidfile = " + dir + "/pid\ndbfile = " + s.db + "\ndbpurgeage = 1d\ndbmaxmatches = 10\n",
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
		return exec.CommandContext(t.Context(), "fail2ban-client", "-s", s.socket, "status", "third").Run() == nil
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
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
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

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
