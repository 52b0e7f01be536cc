package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"fsban-demo": main}) }

func TestScripts(t *testing.T) {
	bin := t.TempDir()
	if !testing.Short() { // the scripts that run fsban are system tests
		build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "fsban"), "../fsban")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build fsban: %v\n%s", err, out)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("FSBAN", filepath.Join(bin, "fsban"))
			e.Setenv("TMPDIR", os.TempDir()) // the path of a socket is short
			return nil
		},
	})
}
