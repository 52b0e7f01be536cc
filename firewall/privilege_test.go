package firewall_test

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsban/firewall"
	"fsban/internal/kerneltest"
	"fsban/internal/netns"
	"fsban/internal/testenv"
)

// someone is a user that is not root.
const someone = 4711

// Every backend works for a user other than root with two capabilities only.
func TestTwoCapabilitiesAreEnough(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			out, err := asSomeone(t, "TestAsSomeone", kind, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW)
			if err != nil || !bytes.Contains(out, []byte("--- PASS: TestAsSomeone")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// asSomeone runs a test in namespaces of its own, as a user with some capabilities.
func asSomeone(t *testing.T, test, kind string, capabilities ...uintptr) ([]byte, error) {
	t.Helper()
	testenv.System(t)
	cmd := netns.Command(t.Context(), os.Args[0], "-test.v", "-test.run=^"+test+"$")
	cmd.Env = append(cmd.Env, "FSBAN_TEST_KIND="+kind, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr.UidMappings[0].ContainerID = someone
	cmd.SysProcAttr.GidMappings[0].ContainerID = someone
	cmd.SysProcAttr.AmbientCaps = capabilities
	cmd.SysProcAttr.Pdeathsig = syscall.Signal(0) // of a thread, and this one may end
	return cmd.CombinedOutput()
}

// TestAsSomeone is a part of TestTwoCapabilitiesAreEnough.
func TestAsSomeone(t *testing.T) {
	kind := os.Getenv("FSBAN_TEST_KIND")
	if os.Getuid() != someone || !netns.Inside() {
		return
	}
	if status, err := os.ReadFile("/proc/self/status"); err != nil || !strings.Contains(string(status), "CapEff:\t0000000000003000\n") {
		t.Fatalf("%v\n%s", err, status)
	}
	done, err := netns.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if kind != "nftables" {
		kerneltest.UseIPTables(t, strings.TrimPrefix(kind, "rules "))
	}
	server := listen(t, "203.0.113.1")
	banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
	r := startKind(t, kind, firewall.Options{})
	r.ban("198.51.100.7", time.Hour)
	r.settle()
	send(t, banned)
	send(t, allowed)
	if from := server.next(); from != "198.51.100.8" {
		t.Errorf("a packet of %s arrived", from)
	}
	r.until("counted", func() bool { return r.packets("198.51.100.7") == 1 })
	r.stop()
	if removed, err := r.backend.Teardown(); err != nil || len(removed) == 0 {
		t.Errorf("removed %q, %v", removed, err)
	}
}

func TestMissingPermissionIsReportedAndNoOrderIsLost(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			out, err := asSomeone(t, "TestWithoutPermission", kind, unix.CAP_NET_RAW)
			if err != nil || !bytes.Contains(out, []byte("--- PASS: TestWithoutPermission")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestWithoutPermission is a part of TestMissingPermissionIsReportedAndNoOrderIsLost.
func TestWithoutPermission(t *testing.T) {
	kind := os.Getenv("FSBAN_TEST_KIND")
	if os.Getuid() != someone || !netns.Inside() {
		return
	}
	t.Setenv("XTABLES_LOCKFILE", t.TempDir()+"/lock")
	if kind != "nftables" {
		kerneltest.UseIPTables(t, strings.TrimPrefix(kind, "rules "))
	}
	b := newBook()
	r := enforce(t, openKind(t, kind, firewall.Options{}), b, firewall.EnforcerOptions{RetryMin: 5 * time.Millisecond, RetryMax: 5 * time.Millisecond})
	r.ban("192.0.2.1", time.Hour)
	r.until("the missing capability is reported", func() bool {
		s := r.Status()
		return s.Failures > 5 && !s.Enforcing && s.Err != nil && strings.Contains(s.Err.Error(), "not permitted: fsban needs CAP_NET_ADMIN") &&
			s.Pending == 1
	})
	if bans, _ := r.applied(); bans != 0 {
		t.Errorf("%d bans are said to be in force", bans)
	}
}
