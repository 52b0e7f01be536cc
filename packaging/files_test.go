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

// The packaged configuration sets the groups and no other setting, and its lines behind # show the defaults.
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

// systemd accepts the units, and systemd-analyze rates their exposure below a threshold (10 is a root daemon without hardening).
func TestTheUnitsAreValidAndHardened(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"fsban.service", "fsban-sets.service"} {
		// systemd-analyze looks for the program of the unit, and for its units under names of their own.
		root := t.TempDir()
		for _, dir := range []string{"etc/systemd/system", "usr/bin", "bin"} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		unit, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, name)
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(unit), "/usr/bin/fsban", "/bin/true")), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := output(t, "systemd-analyze", "verify", "--man=no", path); strings.Contains(out, path) {
			t.Errorf("%s: systemd says:\n%s", name, out)
		}
		out := output(t, "systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", path)
		_, verdict, found := strings.Cut(out, "Overall exposure level")
		if !found {
			t.Errorf("%s: systemd says:\n%s", name, out)
		}
		t.Log(name, verdict)
	}
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
