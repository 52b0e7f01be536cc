package fail2ban

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fsban/config"
)

var update = flag.Bool("update", false, "write the files of what is wanted anew")

// Each testdata/NAME gives its want.txt: the verdict on each option, and the configuration. So does each
// testdata/hurt/NAME, of which fail2ban takes nothing.
func TestJailsBecomeSettings(t *testing.T) {
	for _, name := range append(accepted(t), hurt(t)...) {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			c, err := Read(dir)
			if err != nil {
				t.Fatal(err)
			}
			var guards []*Jail
			var b bytes.Buffer
			for _, p := range c.Problems {
				fmt.Fprintln(&b, p)
			}
			for _, j := range c.Jails {
				if j.Enabled && j.Guards() != "" {
					guards = append(guards, j)
				}
			}
			plan := Translate(guards)
			for _, i := range plan.Items {
				look := ""
				if i.Look {
					look = " (look at it)"
				}
				fmt.Fprintf(&b, "[%s] %s%s: %s = %q (%s): %s\n", i.Jail, i.Verdict, look, i.Option, i.Value, i.From, i.Text)
			}
			yaml := plan.YAML(c.Problems, "The head.")
			if _, err := config.Parse("config.yaml", yaml); err != nil {
				t.Error(err)
			}
			b.Write(yaml)
			golden(t, filepath.Join(dir, "want.txt"), b.Bytes())
		})
	}
}

func TestNoMoreNamesAreTakenThanFsbanLooksUp(t *testing.T) {
	dir := t.TempDir()
	var names strings.Builder
	for i := range maxHosts + 1 {
		fmt.Fprintf(&names, " pbx%d.example.net", i)
	}
	jail := "[cti]\nenabled = true\nlogpath = /cti_fail2ban.log\nignoreip =" + names.String() + "\n"
	if err := os.WriteFile(filepath.Join(dir, "jail.local"), []byte(jail), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	plan := Translate(c.Jails)
	cfg, err := config.Parse("config.yaml", plan.YAML(nil))
	if err != nil || len(cfg.Policy.IgnoreHosts()) != maxHosts {
		t.Error(err, len(cfg.Policy.IgnoreHosts()))
	}
	if !slices.ContainsFunc(plan.Items, func(i Item) bool {
		return i.Verdict == Changed && strings.Contains(i.Text, "not taken: pbx1000.example.net;")
	}) {
		t.Errorf("the name too many is not reported: %+v", plan.Items)
	}
}

// Each testdata/refused/NAME is an error.
func TestInvalidConfigurationsAreReported(t *testing.T) {
	for _, name := range refused(t) {
		dir := filepath.Join("testdata", name)
		_, err := Read(dir)
		if err == nil {
			t.Errorf("%s: it is taken", name)
			continue
		}
		golden(t, filepath.Join(dir, "want.err"), []byte(err.Error()+"\n"))
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}
