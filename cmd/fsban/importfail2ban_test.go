package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// The service must be able to read the file that replaces its configuration.
func TestConfigurationThatIsReplacedKeepsOwnerAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte("{}\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	gid := os.Getgid()
	if os.Geteuid() == 0 {
		gid = 12
	}
	if err := os.Chown(path, -1, gid); err != nil {
		t.Fatal(err)
	}
	if err := writeNew(path, []byte("policy: {}\n"), false); err == nil {
		t.Error("it was replaced without --force")
	}
	if err := writeNew(path, []byte("policy: {}\n"), true); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "policy: {}\n" {
		t.Fatalf("%q, %v", data, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != 0o640 || int(st.Gid) != gid {
		t.Errorf("mode %o, group %d, want 640 and %d", info.Mode().Perm(), st.Gid, gid)
	}
}
