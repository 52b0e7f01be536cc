package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOtherGuardsAreKnownByWhatRuns(t *testing.T) {
	proc := t.TempDir()
	for i, arguments := range [][]string{
		{"/usr/bin/python3", "/usr/bin/fail2ban-server", "-xf", "start"},
		{"/usr/bin/python3", "-s", "/usr/bin/fail2ban-server"},
		{"lfd - sleeping"},
		{"/usr/bin/php", "/var/www/fusionpbx/app/event_guard/resources/service/event_guard.php"},
		{"vim", "/etc/crowdsec/config.yaml"},
		{"grep", "sshguard"},
		{"/usr/bin/python3"},
		{""},
	} {
		dir := filepath.Join(proc, fmt.Sprint(100+i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cmdline"), []byte(strings.Join(arguments, "\x00")+"\x00"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range []string{"self", "4711"} { // a process that is gone has no cmdline
		if err := os.Mkdir(filepath.Join(proc, other), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := runningGuards(proc), []string{"csf/lfd", "event_guard", "fail2ban"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := runningGuards(filepath.Join(proc, "nosuch")); got != nil {
		t.Errorf("got %q", got)
	}
}

func TestTheLogAsTheServiceFindsIt(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	logs := filepath.Join(dir, "log")
	path := filepath.Join(logs, "cti_fail2ban.log")
	put := func(dirMode, fileMode os.FileMode) {
		t.Helper()
		_ = os.RemoveAll(logs)
		if err := os.Mkdir(logs, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		// Somebody else's, so that its owner's rights are not ours.
		if os.Geteuid() == 0 {
			for _, p := range []string{path, logs} {
				if err := os.Chown(p, 12345, 12345); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.Chmod(path, fileMode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(logs, dirMode); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(logs, 0o755) })
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil && os.Geteuid() == 0 {
			t.Fatal(err)
		}
	}
	closed := func() string { return strings.TrimPrefix(readFile(path).Closed, dir) }
	put(0o755, 0o644)
	if f := readFile(path); f.Closed != "" || !f.Exists || f.Err != "" {
		t.Errorf("got %+v", f)
	}
	put(0o755, 0o640)
	if got := closed(); got != "/log/cti_fail2ban.log" {
		t.Errorf("got %q", got)
	}
	put(0o751, 0o644) // it can be passed, and not be watched
	if got := closed(); got != "/log" {
		t.Errorf("got %q", got)
	}
	if f := readFile(filepath.Join(dir, "later.log")); f.Exists || f.Err != "" {
		t.Errorf("got %+v", f)
	}
	if f := readFile(filepath.Join(dir, "nosuch", "x.log")); f.Err == "" {
		t.Errorf("got %+v", f)
	}
}

func TestHosts(t *testing.T) {
	for _, test := range []struct {
		name string
		host Host
		want []string
	}{
		{"nothing", Host{}, nil},
		{"a log that can be read", Host{CTILog: &File{Path: "/ddt/fs/log/x", Exists: true}}, nil},
		{"no log yet", Host{CTILog: &File{Path: "/ddt/fs/log/x"}}, []string{"note cti-log"}},
		{"no directory", Host{CTILog: &File{Path: "/ddt/fs/log/x", Err: "stat /ddt: no such file or directory"}}, []string{"warning cti-log"}},
		{"a closed log", Host{CTILog: &File{Path: "/ddt/fs/log/x", Closed: "/ddt", Exists: true}}, []string{"warning cti-log-permissions"}},
		{"SELinux", Host{SELinux: "enforcing", CTILog: &File{Path: "/ddt/fs/log/x", Exists: true, Label: "u:r:t"}}, []string{"note selinux"}},
		{"SELinux without a log", Host{SELinux: "enforcing"}, nil},
		{"others", Host{Programs: []string{"fail2ban"}, Firewall: []string{"A chain f2b-sshd is there."}}, []string{"note other-guards", "note firewall"}},
	} {
		var got []string
		for _, f := range test.host.findings() {
			got = append(got, f.Severity.String()+" "+f.Check)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestThisHostCanBeRead(t *testing.T) {
	if h := ReadHost("/nosuch/log"); h.Zone == "" || h.CTILog == nil || h.CTILog.Err == "" {
		t.Errorf("got %+v", h)
	}
}
