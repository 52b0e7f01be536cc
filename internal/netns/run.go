package netns

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"fsban/internal/testenv"
)

// testEnv holds the name of the test that Run has started this process for.
const testEnv = "FSBAN_NETNS_TEST"

// A tester is the part of *testing.T that Run uses, so that programs that use Command do not link package testing.
type tester interface {
	Helper()
	Name() string
	Context() context.Context
	Cleanup(func())
	Logf(format string, args ...any)
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Run runs f in prepared namespaces of its own, in another process of the test program for this test alone. The part of t before
// Run runs there again. It makes t a system test: t fails if namespaces or one of tools are missing.
func Run[T tester](t T, f func(T), tools ...string) {
	t.Helper()
	testenv.System(t, tools...)
	if os.Getenv(testEnv) == t.Name() {
		done, err := Prepare()
		if err != nil {
			t.Fatalf("prepare the namespaces: %v", err)
		}
		t.Cleanup(done)
		f(t)
		return
	}

	// The program is to die with this process: with the thread that starts it, to be exact.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := Command(t.Context(), os.Args[0], arguments(t.Name())...)
	// The race detector sleeps for a second at the end of each process, unless it is told otherwise.
	cmd.Env = append(cmd.Env, testEnv+"="+t.Name(), "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	exit := (*exec.ExitError)(nil)
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Fatalf("this test needs user and network namespaces, and fails without them: %v\n"+
			"(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)", err)
	case err != nil:
		t.Fatalf("in namespaces of its own: %v\n%s", err, out)
	case !bytes.Contains(out, []byte("--- PASS: "+t.Name()+" (")):
		t.Fatalf("in namespaces of its own the test did not run to its end:\n%s", out)
	}
	t.Logf("in namespaces of its own:\n%s", out)
}

// Main runs a whole test program once more in namespaces of its own, prepared, and returns its exit code: for TestMain, where
// benchmarks need a kernel to play with.
func Main(m interface{ Run() int }) int {
	if Inside() {
		done, err := Prepare()
		if err != nil {
			fmt.Fprintln(os.Stderr, "prepare the namespaces:", err)
			return 1
		}
		defer done()
		return m.Run()
	}
	cmd := Command(context.Background(), os.Args[0], os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "in namespaces of its own:", err)
		return 1
	}
	return 0
}

// arguments make a test program run exactly the test of that name.
func arguments(name string) []string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	args := []string{"-test.v", "-test.run=" + strings.Join(parts, "/")}
	for _, inherited := range []string{"test.timeout", "test.gocoverdir"} {
		if f := flag.Lookup(inherited); f != nil && f.Value.String() != "" {
			args = append(args, "-"+inherited+"="+f.Value.String())
		}
	}
	flag.Visit(func(f *flag.Flag) { // the test's own
		if !strings.HasPrefix(f.Name, "test.") {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	return args
}
