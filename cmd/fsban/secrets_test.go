package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
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
)

// Two passwords, as they stand in no other text.
const (
	socketSecret = "s0cket-kQ8vTz31"
	redisSecret  = "r3dis-Wm5xPq97"
)

// keeps fails the test where a text has one of the passwords, as it is or encoded.
func keeps(t *testing.T, what, text string) {
	t.Helper()
	text = strings.ToLower(text)
	for _, secret := range []string{socketSecret, redisSecret} {
		for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.RawStdEncoding.EncodeToString([]byte(secret))[:16]} {
			if strings.Contains(text, strings.ToLower(form)) {
				t.Errorf("%s has %s:\n%s", what, secret, text)
			}
		}
	}
}

// withCores is a program that may leave a core, where it runs.
func withCores(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `ulimit -c unlimited && exec "$0" "$@"`}, args...)...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GOTRACEBACK=crash") // Go asks for a core only then
	return cmd
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

// A daemon that logs everything, and its commands, tell no password: not while all is well, not while it is refused, not when
// it is killed for a look at its goroutines. And that leaves no core.
func TestNoPasswordGetsOut(t *testing.T) {
	t.Parallel()
	fs := fakeswitch.New(fakeswitch.Options{Password: socketSecret})
	if err := fs.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = fs.Serve(t.Context())
	}()
	redis := redisserver.Start(t, "--requirepass", redisSecret)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	_ = l.Close()
	dir, err := os.MkdirTemp("", "fsban") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "config.yaml")
	write := func(more string) {
		t.Helper()
		text := fmt.Sprintf("freeswitch: {address: %q, password: %s}\nfleet: {redis: redis://%s, password: %s}\nfirewall: {backend: dry-run}\nstate: {directory: %s}\n"+
			"control: {socket: %s/s}\nhttp: {listen: %q}\nlog: {level: debug}\n%s", fs.Addr(), socketSecret, redis.Addr(), redisSecret, dir, dir, listen, more)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")

	daemon := withCores(t, "fsban", "run", "--config", file)
	var log bytes.Buffer
	daemon.Stderr = &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = daemon.Wait()
	}()
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		<-ended
	})
	client := control.NewClient(filepath.Join(dir, "s"))
	defer client.Close()
	// ask has every command and page tell what it knows.
	ask := func(when string) {
		t.Helper()
		for _, args := range [][]string{
			{"status"}, {"status", "--all", "--json"}, {"top", "--once"}, {"list", "--evidence"}, {"why", "203.0.113.66"}, {"held"}, {"check"}, {"reload"}, {"doctor"},
		} {
			out, _ := exec.CommandContext(t.Context(), "fsban", append(args, "--config", file)...).CombinedOutput() // some fail, and say why
			if len(out) == 0 {
				t.Errorf("%s, %v says nothing", when, args)
			}
			keeps(t, fmt.Sprintf("%s, %v", when, args), string(out))
		}
		resp, err := http.Get("http://" + listen + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		page, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Contains(page, []byte("fsban_fleet_connected")) {
			t.Errorf("%v: %s", err, page)
		}
		keeps(t, when+", /metrics", string(page))
	}

	eventually(t, "it protects, with its fleet", func() bool {
		s, err := client.Status(t.Context())
		return err == nil && s.Ready && s.Fleet != nil && s.Fleet.InStep
	})
	for range 5 {
		fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.66"), User: "1000"}, time.Now())
	}
	eventually(t, "it bans", func() bool {
		bans, err := client.Bans(t.Context(), control.Pick{})
		return err == nil && len(bans) == 1
	})
	ask("when all is well")

	// Both passwords are wrong from now on.
	for _, args := range [][]string{{"config", "set", "requirepass", "other"}, {"client", "kill", "type", "normal", "skipme", "no"}} {
		cmd := exec.CommandContext(t.Context(), "redis-cli", append([]string{"-s", redis.Socket}, args...)...)
		cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+map[bool]string{true: redisSecret, false: "other"}[args[0] == "config"])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	fs.SetFault(fakeswitch.RefusePassword)
	fs.End(fakeswitch.Kill)
	eventually(t, "both refuse it", func() bool {
		s, err := client.Status(t.Context())
		says := func(what string) bool {
			return slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, what) })
		}
		return err == nil && says("refused the password") && says("the login to Redis is refused")
	})
	ask("when it is refused")
	write("fleet: {}\n")
	ask("with a file that is wrong")

	if err := daemon.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	<-ended
	status := daemon.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.Signal() != syscall.SIGABRT {
		t.Errorf("it ended with %v, not as one that leaves a core", daemon.ProcessState)
	}
	if status.CoreDump() {
		t.Error("it has left a core")
	}
	if said := log.String(); !strings.Contains(said, "goroutine ") || !strings.Contains(said, "level=DEBUG") {
		t.Errorf("neither goroutines nor a log of everything:\n%s", said)
	}
	keeps(t, "the log", log.String())

	// This machine does make cores.
	other := withCores(t, "sh", "-c", "kill -ABRT $$")
	_ = other.Run()
	if !other.ProcessState.Sys().(syscall.WaitStatus).CoreDump() {
		t.Errorf("no program leaves a core here, so this test cannot fail (/proc/sys/kernel/core_pattern): %v", other.ProcessState)
	}
}

// What is wrong with a file is told without the passwords in it.
func TestAWrongFileTellsNoPassword(t *testing.T) {
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
