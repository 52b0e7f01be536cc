package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/redisserver"
	"fsban/internal/testenv"
)

// Two passwords that no other text contains.
const (
	socketSecret = "s0cket-kQ8vTz31"
	redisSecret  = "r3dis-Wm5xPq97"
)

// keeps fails the test if a text contains one of the passwords, plain or encoded.
func keeps(t *testing.T, source, text string) {
	t.Helper()
	text = strings.ToLower(text)
	for _, secret := range []string{socketSecret, redisSecret} {
		for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.RawStdEncoding.EncodeToString([]byte(secret))[:16]} {
			if strings.Contains(text, strings.ToLower(form)) {
				t.Errorf("%s has %s:\n%s", source, secret, text)
			}
		}
	}
}

// withCores returns a command that may leave a core in its directory.
func withCores(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `ulimit -c unlimited && exec "$0" "$@"`}, args...)...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GOTRACEBACK=crash") // Go asks for a core only then
	return cmd
}

// eventually waits for a condition, at most patience.
func eventually(t *testing.T, condition string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", condition)
		}
	}
}

// A guarded daemon logs everything, and knows the passwords of a FreeSWITCH and a Redis.
type guarded struct {
	t      *testing.T
	fs     *fakeswitch.Switch
	redis  *redisserver.Server
	dir    string
	listen string // of the metrics
	client *control.Client
	cmd    *exec.Cmd
	ended  chan struct{}
	log    bytes.Buffer // to be read once ended is closed
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, fs: fakeswitch.New(fakeswitch.Options{Password: socketSecret}), ended: make(chan struct{})}
	if err := g.fs.Listen(testenv.Address(t)); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = g.fs.Serve(t.Context())
	}()
	t.Cleanup(func() { <-served })
	g.redis = redisserver.Start(t, "--requirepass", redisSecret)
	g.listen = testenv.Address(t)
	var err error
	if g.dir, err = os.MkdirTemp("", "fsban"); err != nil { // a socket's path is short
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(g.dir) })
	g.configure("")
	g.cmd = withCores(t, "fsban", "run", "--config", g.file())
	g.cmd.Stderr = &g.log
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.ended)
		_ = g.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-g.ended
	})
	g.client = control.NewClient(filepath.Join(g.dir, "s"))
	t.Cleanup(g.client.Close)
	return g
}

func (g *guarded) file() string { return filepath.Join(g.dir, "config.yaml") }

// configure writes the configuration with more lines at its end.
func (g *guarded) configure(more string) {
	g.t.Helper()
	text := fmt.Sprintf("freeswitch: {address: %q, password: %s}\nfleet: {redis: redis://%s, password: %s}\nstate: {directory: %s}\n"+
		"control: {socket: %s/s}\nhttp: {listen: %q}\nlog: {level: debug}\nsip: {tap: off}\n%s", g.fs.Addr(), socketSecret, g.redis.Addr(), redisSecret, g.dir, g.dir, g.listen, more)
	if err := os.WriteFile(g.file(), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// inspect checks the output of every command and of the metrics page.
func (g *guarded) inspect(when string) {
	g.t.Helper()
	for _, args := range [][]string{
		{"status"}, {"status", "--all", "--json"}, {"top", "--once"}, {"list", "--evidence"}, {"why", "203.0.113.66"}, {"held"}, {"check"}, {"reload"}, {"doctor"},
	} {
		out, _ := exec.CommandContext(g.t.Context(), "fsban", append(args, "--config", g.file())...).CombinedOutput() // some fail, and report why
		if len(out) == 0 {
			g.t.Errorf("%s, %v prints nothing", when, args)
		}
		keeps(g.t, fmt.Sprintf("%s, %v", when, args), string(out))
	}
	resp, err := http.Get("http://" + g.listen + "/metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Contains(page, []byte("fsban_fleet_connected")) {
		g.t.Errorf("%v: %s", err, page)
	}
	keeps(g.t, when+", /metrics", string(page))
}

// refuse makes both passwords wrong, and waits until the daemon reports it.
func (g *guarded) refuse() {
	g.t.Helper()
	for _, args := range [][]string{{"config", "set", "requirepass", "other"}, {"client", "kill", "type", "normal", "skipme", "no"}} {
		cmd := exec.CommandContext(g.t.Context(), "redis-cli", append([]string{"-s", g.redis.Socket}, args...)...)
		cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+map[bool]string{true: redisSecret, false: "other"}[args[0] == "config"])
		if out, err := cmd.CombinedOutput(); err != nil {
			g.t.Fatalf("%v: %s", err, out)
		}
	}
	g.fs.SetFault(fakeswitch.RefusePassword)
	g.fs.End(fakeswitch.Kill)
	eventually(g.t, "both refuse it", func() bool {
		s, err := g.client.Status(g.t.Context())
		reported := func(text string) bool {
			return slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, text) })
		}
		return err == nil && reported("refused the password") && reported("the login to Redis is refused")
	})
}

// abort ends the daemon as one that leaves a core, and checks that it leaves none.
func (g *guarded) abort() {
	g.t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGABRT); err != nil {
		g.t.Fatal(err)
	}
	<-g.ended
	status := g.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGABRT {
		g.t.Errorf("it ended with %v, not as one that leaves a core", g.cmd.ProcessState)
	}
	if status.CoreDump() {
		g.t.Error("it has left a core")
	}
	if text := g.log.String(); !strings.Contains(text, "goroutine ") || !strings.Contains(text, "level=DEBUG") {
		g.t.Errorf("neither goroutines nor a log of everything:\n%s", text)
	}
	keeps(g.t, "the log", g.log.String())
}

// No password is in the log or in the output of any command: not while all is well, not after a refusal, not in the dump of
// goroutines of a killed daemon. And that leaves no core.
func TestNoPasswordGetsOut(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	eventually(t, "it protects, with its fleet", func() bool {
		s, err := g.client.Status(t.Context())
		return err == nil && s.Ready && s.Fleet != nil && s.Fleet.InStep
	})
	for range 5 {
		g.fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.66"), User: "1000"}, time.Now())
	}
	eventually(t, "it bans", func() bool {
		bans, err := g.client.Bans(t.Context(), control.Pick{})
		return err == nil && len(bans) == 1
	})
	g.inspect("when all is well")
	g.refuse()
	g.inspect("when it is refused")
	g.configure("fleet: {}\n")
	g.inspect("with a file that is wrong")
	g.abort()

	// This machine does make cores.
	other := withCores(t, "sh", "-c", "kill -ABRT $$")
	_ = other.Run()
	if !other.ProcessState.Sys().(syscall.WaitStatus).CoreDump() {
		t.Errorf("no program leaves a core here, so this test cannot fail (/proc/sys/kernel/core_pattern): %v", other.ProcessState)
	}
}

// Errors of a configuration file do not repeat its passwords.
func TestErrorsInAFileContainNoPassword(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"freeswitch: {pasword: " + socketSecret + "}",
		"freeswitch: {password: [" + socketSecret + "]}",
		"freeswitch: {password: {a: " + socketSecret + "}}",
		"freeswitch: {password: \"" + socketSecret + "}",
		"freeswitch:\n  password: a: " + socketSecret,
		"freeswitch: {password: \"" + socketSecret + "\\nx\"}",
		"freeswitch: {password: " + socketSecret + ", password_file: /none}",
		"fleet: {redis: 'redis://u:" + redisSecret + "@127.0.0.1:6379'}",
		"fleet: {redis: 'redis://u:" + redisSecret + "@[::1'}",
		"fleet: {redis: 'redis://u:" + redisSecret + "@a:b/c?d=e'}",
		"fleet: {redis: 'u:" + redisSecret + "@a'}",
		"fleet: {sentinel: m, redis: 'redis://:" + redisSecret + "@a'}",
	} {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "fsban", "check", "--config", file).CombinedOutput()
		if err == nil {
			t.Errorf("this is taken:\n%s\n%s", text, out)
		}
		keeps(t, text, string(out))
	}
}
