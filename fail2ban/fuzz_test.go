package fail2ban

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsban/config"
)

// Whatever a configuration of fail2ban's holds, it is refused, or what comes out is a configuration of fsban's.
func FuzzTranslate(f *testing.F) {
	for _, pattern := range []string{"testdata/*/jail.*", "testdata/refused/*/jail.*"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if data, err := os.ReadFile(file); err == nil {
				f.Add(data, []byte("[Definition]\nfailregex = ^<x> challenge failure %(y)s\ny = 1\n[Init]\nx = 1\n"))
			}
		}
	}
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "filter.d"), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, jail, filter []byte) {
		for name, data := range map[string][]byte{"jail.local": jail, "filter.d/freeswitch.conf": filter} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		first, err := Read(dir)
		if err != nil {
			return
		}
		var names []string
		for _, j := range first.Jails {
			names = append(names, j.Name)
		}
		c, err := Read(dir, names...)
		if err != nil {
			t.Fatalf("%v, and not the first time", err)
		}
		plan := Translate(c.Jails)
		yaml := plan.YAML(strings.Join(names, ""))
		if _, err := config.Parse("config.yaml", yaml); err != nil {
			t.Errorf("%v\n%s", err, yaml)
		}
	})
}

// A duration is refused or finite.
func FuzzSeconds(f *testing.F) {
	for _, s := range []string{"600", "1d 2h", "-(1.5h * 2)/3", "1_0", "1y6mo", "((((1))))"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := Seconds(s); err == nil && (math.IsNaN(v) || math.IsInf(v, 0)) {
			t.Errorf("%q is %v", s, v)
		}
	})
}

// Whatever is in a file, it is refused or read to its end, and who is banned is banned at that time.
func FuzzDatabase(f *testing.F) {
	data, err := os.ReadFile("testdata/old.sqlite3")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	path := filepath.Join(f.TempDir(), "db")
	jails := []*Jail{{Name: "cti"}, {Name: "sshd"}}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		now := time.Unix(1_700_000_300, 0)
		bans, _, err := ReadBans(path, jails, now)
		if err != nil {
			return
		}
		for _, b := range bans {
			if !b.Prefix.IsValid() || !b.Until.IsZero() && !b.Until.After(now) || b.Jail != "cti" && b.Jail != "sshd" {
				t.Errorf("%+v", b)
			}
		}
	})
}
