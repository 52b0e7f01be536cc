// Package testenv separates system tests from hermetic ones. A hermetic test needs Go, files and loopback. A system test
// needs more of the host: a program, a namespace, a capability or root.
package testenv

import (
	"flag"
	"os/exec"
)

// A tester is the part of *testing.T that System uses. The package does not import testing, because programs that are not
// tests link its users.
type tester interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// System declares t a system test that runs programs. In short mode (go test -short, make test-fast) t is skipped; nothing
// else may skip a test. Otherwise a missing program fails t: make test runs every test or reports the missing part.
func System(t tester, programs ...string) {
	t.Helper()
	if f := flag.Lookup("test.short"); f != nil && f.Value.String() == "true" {
		t.Skipf("system test, not run in short mode")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("this test needs the program %s, and fails without it: %v", p, err)
		}
	}
}
