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

// Every configuration of fail2ban's is refused, or translated into a valid configuration of fsban's.
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
		yaml := plan.YAML(c.Problems, strings.Join(names, ""))
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

// An answer is refused, or every ban in it has a valid prefix and is in force.
func FuzzBans(f *testing.F) {
	f.Add("192.0.2.7 \t2026-11-22 18:00:00 + 600 = 2026-11-22 18:10:00\nuser 7 \t2026-11-22 18:00:00 + -1 = 9999-12-31 23:59:59\n")
	f.Fuzz(func(t *testing.T, text string) {
		now := time.Unix(1_700_000_300, 0)
		bans, _, err := ParseBans(strings.NewReader(text), "cti", now)
		if err != nil {
			return
		}
		for _, b := range bans {
			if !b.Prefix.IsValid() || !b.Until.IsZero() && !b.Until.After(now) || b.Jail != "cti" {
				t.Errorf("%+v", b)
			}
		}
	})
}
