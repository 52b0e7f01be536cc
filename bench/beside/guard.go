package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"fsban/control"
	"fsban/internal/fakeswitch"
)

// A guard is fsban or fail2ban in a normal configuration.
type guard interface {
	// start returns when bans are enforced.
	start(ctx context.Context) error
	// stop terminates it in order, as a service manager does.
	stop() error
	process() *process
	// counted returns the number of failures counted since the start, and the time of the last, as exactly as the guard states
	// it.
	counted(ctx context.Context) (n int, at time.Time, err error)
	banned(ctx context.Context) ([]netip.Addr, error)
	// fail reports one failure of each attacker, in one write.
	fail(attackers []int) error
	close()
}

// newGuard returns one of: fail2ban; log, which is fsban with mod_cti's log as its only source; events, which is fsban with the
// event socket, its normal source. It writes only to dir.
func newGuard(name, dir, fsban string) (guard, error) {
	log := filepath.Join(dir, "cti_fail2ban.log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return nil, err
	}
	switch name {
	case "fail2ban":
		return newFail2ban(dir, log)
	case "log", "events":
		return newFsban(dir, log, fsban, name == "events")
	}
	return nil, fmt.Errorf("there is no guard %q", name)
}

// A ctiLog is mod_cti's log.
type ctiLog string

// fail writes a line of each attacker, with a constant user and the current time.
func (l ctiLog) fail(attackers []int) error {
	var b []byte
	for _, n := range attackers {
		b = appendLine(b, n, time.Now())
	}
	return l.write(b)
}

func (l ctiLog) write(b []byte) error {
	f, err := os.OpenFile(string(l), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = f.Write(b)
	return err
}

func appendLine(b []byte, n int, at time.Time) []byte {
	return fmt.Appendf(b, "ip[%s] user[%d] at[%s] Registration failed\n", attacker(n), 1000+n%1000, at.UTC().
		Format("2006-01-02T15:04:05.000000-0700"))
}

// etc is where Debian keeps fail2ban's configuration.
const etc = "/etc/fail2ban"

// The jail and the filter of fail2ban in installations of mod_cti.
const (
	jail = `[cti]
enabled = true
filter = cti
action = iptables-allports[name=cti, protocol=all]
logpath = %s
bantime = 86400
maxretry = 5
findtime = 300
ignoreip = 127.0.0.1/8
backend = auto
`
	filter = "[Definition]\nfailregex = ^ip\\[<HOST>\\].*\nignoreregex =\n"
)

// fail2ban is Debian's package with its own configuration and database, and that jail.
type fail2ban struct {
	ctiLog
	dir string
	p   *process

	said    *os.File // its log, read up to the current offset
	rest    []byte   // of an incomplete line
	started bool
	found   int
	last    time.Time // time of the last failure found
	backend string
}

func newFail2ban(dir, log string) (*fail2ban, error) {
	conf := filepath.Join(dir, "etc")
	if err := os.CopyFS(filepath.Join(conf, "action.d"), os.DirFS(etc+"/action.d")); err != nil {
		return nil, err
	}
	files := map[string]string{
		"jail.local":        fmt.Sprintf(jail, log),
		"filter.d/cti.conf": filter,
		"fail2ban.local": fmt.Sprintf("[Definition]\nlogtarget = %[1]s/fail2ban.log\nsocket = %[1]s/s\npidfile = %[1]s/pid\ndbfile = "+
			"%[1]s/fail2ban.sqlite3\n",
			dir),
	}
	own, err := filepath.Glob(etc + "/*.conf")
	if err != nil {
		return nil, err
	}
	for _, path := range own {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		files[filepath.Base(path)] = string(text)
	}
	for name, text := range files {
		path := filepath.Join(conf, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	local, err := filepath.Glob(conf + "/action.d/*.local") // this host's own
	if err != nil {
		return nil, err
	}
	for _, path := range local {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	said, err := os.OpenFile(filepath.Join(dir, "fail2ban.log"), os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &fail2ban{ctiLog: ctiLog(log), dir: dir, said: said}, nil
}

func (f *fail2ban) start(ctx context.Context) (err error) {
	f.started, f.found = false, 0
	f.p, err = startProcess(filepath.Join(f.dir, "out"), "fail2ban-server", "-c", filepath.Join(f.dir, "etc"), "-f", "start")
	if err != nil {
		return err
	}
	// Reading its log costs it no CPU time.
	for {
		if err := f.read(); err != nil {
			return err
		}
		if f.started {
			return nil
		}
		if err := f.p.gone(); err != nil {
			return err
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("wait for the start of fail2ban: %w", err)
		}
	}
}

func (f *fail2ban) stop() error       { return f.p.stop() }
func (f *fail2ban) process() *process { return f.p }

func (f *fail2ban) close() {
	if f.p != nil {
		f.p.kill()
	}
	_ = f.said.Close()
}

func (f *fail2ban) counted(context.Context) (int, time.Time, error) {
	if err := f.p.gone(); err != nil {
		return 0, time.Time{}, err
	}
	return f.found, f.last, f.read()
}

// Lines of its log.
var (
	foundLine   = regexp.MustCompile(`^(\S+ \S+) .*\] Found `)
	backendLine = regexp.MustCompile(`Jail 'cti' uses (\w+)`)
)

// read reads the new lines of its log.
func (f *fail2ban) read() error {
	more, err := io.ReadAll(f.said)
	if err != nil {
		return err
	}
	text := slices.Concat(f.rest, more)
	end := strings.LastIndexByte(string(text), '\n') + 1
	f.rest = slices.Clone(text[end:])
	for line := range strings.Lines(string(text[:end])) {
		if strings.Contains(line, "Jail 'cti' started") {
			f.started = true
		}
		if m := backendLine.FindStringSubmatch(line); m != nil {
			f.backend = m[1]
		}
		if m := foundLine.FindStringSubmatch(line); m != nil {
			f.found++
			if f.last, err = time.Parse("2006-01-02 15:04:05,000", m[1]); err != nil {
				return fmt.Errorf("read fail2ban's log: %w", err)
			}
		}
	}
	return nil
}

func (f *fail2ban) banned(ctx context.Context) (addrs []netip.Addr, err error) {
	out, err := exec.CommandContext(ctx, "fail2ban-client", "-s", filepath.Join(f.dir, "s"), "get", "cti", "banip").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("fail2ban-client: %w: %s", err, out)
	}
	for word := range strings.FieldsSeq(string(out)) {
		addr, err := netip.ParseAddr(word)
		if err != nil {
			return nil, fmt.Errorf("fail2ban-client: %w", err)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// fsban is the program with its defaults, except ban_rate, which would hold bans beyond 100 a minute. fail2ban has no such
// limit.
type fsban struct {
	ctiLog
	dir, path string
	p         *process
	client    *control.Client

	freeswitch *fakeswitch.Switch // nil: none
	cancel     context.CancelFunc
	serving    sync.WaitGroup
}

func newFsban(dir, log, path string, events bool) (*fsban, error) {
	f := &fsban{ctiLog: ctiLog(log), dir: dir, path: path, client: control.NewClient(filepath.Join(dir, "s")), cancel: func() {}}
	address := "127.0.0.1:8021" // no server
	if events {
		// FreeSWITCH's default interval
		f.freeswitch = fakeswitch.New(fakeswitch.Options{Heartbeat: 20 * time.Second})
		if err := f.freeswitch.Listen("127.0.0.1:0"); err != nil {
			return nil, err
		}
		address = f.freeswitch.Addr()
		var ctx context.Context
		ctx, f.cancel = context.WithCancel(context.Background())
		f.serving.Go(func() { _ = f.freeswitch.Serve(ctx) })
	}
	// auto selects this backend if iptables works; without iptables there is nothing to compare.
	config := fmt.Sprintf("freeswitch: {address: %q}\ncti_log: {path: %q}\npolicy: {ban_rate: 0}\nfirewall: {backend: iptables}\n"+
		"state: {directory: %q}\ncontrol: {socket: %q}\nsip: {tap: off}\n", address, log, dir, filepath.Join(dir, "s"))
	return f, os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o600)
}

func (f *fsban) start(ctx context.Context) (err error) {
	f.p, err = startProcess(filepath.Join(f.dir, "out"), f.path, "run", "--config", filepath.Join(f.dir, "config.yaml"))
	if err != nil {
		return err
	}
	for {
		s, err := f.client.Status(ctx)
		if err == nil && s.Ready && (f.freeswitch == nil || f.listens(s)) {
			return nil
		}
		if err := f.p.gone(); err != nil {
			return err
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return fmt.Errorf("wait for fsban to be ready: %w (%v)", err, s.Problems)
		}
	}
}

// listens reports whether failed logins are taken from the event socket.
func (f *fsban) listens(s control.Status) bool {
	return slices.ContainsFunc(s.ActiveSources, func(s control.ActiveSource) bool { return s.Kind == "auth_failure" && s.Source == "event" })
}

func (f *fsban) stop() error       { return f.p.stop() }
func (f *fsban) process() *process { return f.p }

func (f *fsban) close() {
	if f.p != nil {
		f.p.kill()
	}
	f.client.Close()
	f.cancel()
	f.serving.Wait()
}

func (f *fsban) counted(ctx context.Context) (int, time.Time, error) {
	if err := f.p.gone(); err != nil {
		return 0, time.Time{}, err
	}
	s, err := f.client.Status(ctx)
	return int(s.Attempts["auth_failure"]), time.Now(), err
}

func (f *fsban) banned(ctx context.Context) (addrs []netip.Addr, err error) {
	bans, err := f.client.Bans(ctx, control.Pick{})
	for _, b := range bans {
		if !b.Prefix.IsSingleIP() {
			return nil, fmt.Errorf("fsban has banned %v", b.Prefix)
		}
		addrs = append(addrs, b.Prefix.Addr())
	}
	return addrs, err
}

func (f *fsban) fail(attackers []int) error {
	if f.freeswitch == nil {
		return f.ctiLog.fail(attackers)
	}
	var b []byte
	for _, n := range attackers {
		b = append(b, fakeswitch.Frames(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: attacker(n), User: fmt.Sprint(1000 + n%1000)},
			time.Now())...)
	}
	f.freeswitch.EmitRaw(b)
	return nil
}

// sleep waits for d, or returns the cause for which ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// lookEvery is the polling interval of the counts; each poll costs the guard CPU time.
const lookEvery = 20 * time.Millisecond

// untilCounted waits until g has counted exactly n failures since its start and returns the time of the last.
func untilCounted(ctx context.Context, g guard, n int) (time.Time, error) {
	for {
		counted, at, err := g.counted(ctx)
		switch {
		case err != nil:
			return at, err
		case counted == n:
			return at, nil
		case counted > n:
			return at, fmt.Errorf("it counted %d failures of %d", counted, n)
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return at, fmt.Errorf("it counted %d failures of %d: %w", counted, n, err)
		}
	}
}

// disagree returns an error unless exactly the first n attackers are banned.
func disagree(ctx context.Context, g guard, n int) error {
	addrs, err := g.banned(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	for i, addr := range addrs {
		if i >= n || addr != attacker(i) {
			return fmt.Errorf("%v is banned, and %d others; it was to be the first %d", addr, len(addrs)-1, n)
		}
	}
	if len(addrs) != n {
		return fmt.Errorf("%d addresses are banned of %d", len(addrs), n)
	}
	return nil
}
