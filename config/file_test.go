package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A file that the configuration names may be anything: whoever can change it must neither stop a start or a reload nor fill the memory.
func TestOnlyBoundedRegularFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	pipe, large := filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 1<<40); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(pipe, link); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"freeswitch.password_file", "fleet.password_file", "fleet.tls.ca_file", "fleet.tls.cert_file"} {
		for name, c := range map[string]struct{ path, want string }{
			"a pipe":            {pipe, "not a regular file"},
			"a link to a pipe":  {link, "not a regular file"},
			"an endless device": {"/dev/zero", "not a regular file"},
			"a terabyte":        {large, "is larger than"},
			"a directory":       {dir, "not a regular file"},
			"nothing":           {dir + "/none", "no such file"},
		} {
			t.Run(key+" is "+name, func(t *testing.T) {
				section, rest, _ := strings.Cut(key, ".")
				text := fmt.Sprintf("%s: {%s: %s}\n", section, rest, c.path)
				if file, tls := strings.CutPrefix(rest, "tls."); tls {
					text = fmt.Sprintf("fleet: {redis: \"rediss://127.0.0.1\", tls: {%s: %s}}\n", file, c.path)
					if file == "cert_file" {
						text = fmt.Sprintf("fleet: {redis: \"rediss://127.0.0.1\", tls: {cert_file: %s, key_file: %s}}\n", c.path, c.path)
					}
				}
				path := filepath.Join(t.TempDir(), "config.yaml")
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				cfg, err := Load(path)
				if err == nil {
					_, err = cfg.Fleet.TLSConfig()
				}
				if took := time.Since(began); err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), c.want) || took > 4*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
			})
		}
	}
}

// The configuration itself may come from a pipe of the shell, but not without end.
func TestAConfigurationHasABound(t *testing.T) {
	if _, err := Load("/dev/zero"); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("%v", err)
	}
}
