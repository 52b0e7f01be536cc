package packaging_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"fsban/config"
)

// The configuration of the packages names its groups, changes no other default, and what it shows behind # is the default.
func TestThePackagedConfigurationIsTheDefault(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Control.Readers, want.Control.Admins = "fsban-reader", "fsban-admin"
	for what, yaml := range map[string]string{"as it is": string(text), "with all that it shows": regexp.MustCompile(`(?m)^#(  )?([a-z_]+:)`).ReplaceAllString(string(text), "$1$2")} {
		got, err := config.Parse("config.yaml", []byte(yaml))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v: %+v", what, err, got)
		}
	}
	if n := len(regexp.MustCompile(`(?m)^#  [a-z_]+:`).FindAllString(string(text), -1)); n < 5 {
		t.Errorf("%d settings are shown", n)
	}
}

// Systemd takes the unit, and finds no more in it to lock than a threshold: of 10, what a root daemon without any locks has.
func TestTheUnitIsRightAndLocked(t *testing.T) {
	t.Parallel()
	// systemd-analyze looks for the program of the unit, and for its units under names of their own.
	root := t.TempDir()
	for _, dir := range []string{"etc/systemd/system", "usr/bin", "bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	unit, err := os.ReadFile("fsban.service")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "fsban.service")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(unit), "/usr/bin/fsban", "/bin/true")), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := output(t, "systemd-analyze", "verify", "--man=no", path); strings.Contains(out, path) {
		t.Errorf("systemd says:\n%s", out)
	}
	out := output(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", path)
	_, verdict, found := strings.Cut(out, "Overall exposure level")
	if !found {
		t.Errorf("systemd says:\n%s", out)
	}
	t.Log(verdict)
}

func TestTheScriptsAreShellOfAnyMachine(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("scripts/*.sh")
	if err != nil || len(scripts) != 3 {
		t.Fatalf("%v, %v", scripts, err)
	}
	output(t, "shellcheck", append(scripts, "dist.sh", "version.sh", "testdata/machine.sh", "testdata/init.sh")...)
	for _, s := range scripts {
		output(t, "dash", "-n", s)
	}
}
