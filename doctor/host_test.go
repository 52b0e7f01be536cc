package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fsban/firewall/saved"
)

func TestOtherBanningProgramsAreFound(t *testing.T) {
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
	if got, want := guardsIn(proc), []string{"csf/lfd", "event_guard", "fail2ban"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := guardsIn(filepath.Join(proc, "nosuch")); got != nil {
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
		// Of another owner, so that the owner's rights do not apply.
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
	closed := func() string { return strings.TrimPrefix(readFile(path, nobody).Closed, dir) }
	put(0o755, 0o644)
	if f := readFile(path, nobody); f.Closed != "" || !f.Exists || f.Err != "" {
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
	put(0o750, 0o640) // the rights of its group, which the service is in
	member := service{name: "fsban", uid: 4711, groups: []uint64{4712, gidOf(t, path)}}
	if f := readFile(path, member); f.Closed != "" {
		t.Errorf("got %+v", f)
	}
	put(0o755, 0o644)
	if f := readFile(filepath.Join(dir, "later.log"), nobody); f.Exists || f.Err != "" {
		t.Errorf("got %+v", f)
	}
	if f := readFile(filepath.Join(dir, "nosuch", "x.log"), nobody); f.Err == "" {
		t.Errorf("got %+v", f)
	}
}

var nobody = service{name: "fsban", uid: 4711, groups: []uint64{4712}}

func gidOf(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(info.Sys().(*syscall.Stat_t).Gid)
}

func guardsIn(proc string) []string {
	found, _ := lookAround(proc)
	return found
}

// The service is the user that it runs as, with the groups of its unit.
func TestTheUserOfTheRunningServiceReadsTheLog(t *testing.T) {
	proc := t.TempDir()
	for pid, files := range map[string][2]string{
		"7": {"/usr/bin/fsban\x00run\x00", "Name:\tfsban\nUid:\t4711\t4712\t4711\t4711\nGid:\t20\t21\t20\t20\nGroups:\t30 31 \n"},
		"8": {"/usr/bin/fsban\x00status\x00", "Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\n"},
		"9": {"/usr/bin/fsban\x00run\x00", "no status"},
	} {
		if err := os.Mkdir(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		for i, name := range []string{"cmdline", "status"} {
			if err := os.WriteFile(filepath.Join(proc, pid, name), []byte(files[i]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, got := lookAround(proc)
	if got.uid != 4712 || !slices.Equal(got.groups, []uint64{21, 30, 31}) {
		t.Errorf("%+v", got)
	}
}

func TestHosts(t *testing.T) {
	for _, test := range []struct {
		name string
		host Host
		want []string
	}{
		{"nothing", Host{}, nil},
		{"saved rules", Host{Saved: saved.Rules{NeedSets: []string{"/etc/iptables/rules.v4"}}}, []string{"critical saved-rules"}},
		{"no modules", Host{NoModules: []string{"nfnetlink_log"}}, []string{"warning tap-modules"}},
		{"saved rules, and the unit", Host{Saved: saved.Rules{NeedSets: []string{"/etc/iptables/rules.v4"}, SetsUnit: true}}, []string{"note saved-rules"}},
		{"a saved ruleset", Host{Saved: saved.Rules{Refused: []string{"/etc/nftables.conf"}, SetsUnit: true}}, []string{"critical saved-ruleset"}},
		{"sets that the unit makes with another size", Host{Saved: saved.Rules{Clashes: []saved.Clash{{Set: "fsban4"}}, SetsUnit: true}}, []string{"note saved-sets"}},
		{"sets before those of others", Host{Saved: saved.Rules{Clashes: []saved.Clash{{Set: "fsban4", Followed: true}}, SetsUnit: true}}, []string{"critical saved-sets"}},
		{"sets of another size", Host{Saved: saved.Rules{Clashes: []saved.Clash{{Set: "fsban4", Followed: true}}}}, nil},
		{"sets that fsban refuses", Host{Saved: saved.Rules{Clashes: []saved.Clash{{Set: "fsban4", Unusable: true}}}}, []string{"critical saved-sets"}},
		{"saved bans", Host{Saved: saved.Rules{Stale: []string{"/etc/ipset.conf"}}}, []string{"note saved-bans"}},
		{"saved rules that are closed", Host{Saved: saved.Rules{Unreadable: []string{"/etc/iptables/rules.v4"}}}, []string{"note saved-rules-unread"}},
		{"a log that can be read", Host{CTILog: &File{Path: "/ddt/fs/log/x", Exists: true}}, nil},
		{"no log yet", Host{CTILog: &File{Path: "/ddt/fs/log/x"}}, []string{"note cti-log"}},
		{"no directory", Host{CTILog: &File{Path: "/ddt/fs/log/x", Err: "stat /ddt: no such file or directory"}}, []string{"warning cti-log"}},
		{"a closed log", Host{CTILog: &File{Path: "/ddt/fs/log/x", Closed: "/ddt", Exists: true}}, []string{"warning cti-log-permissions"}},
		{"SELinux", Host{SELinux: "enforcing", CTILog: &File{Path: "/ddt/fs/log/x", Exists: true, Label: "u:r:t"}}, []string{"note selinux"}},
		{"sshd without LoginGraceTime", Host{LoginGraceTime: new(time.Duration)}, []string{"warning ssh-grace"}},
		{"sshd with a long one", Host{LoginGraceTime: new(10 * time.Minute)}, []string{"note ssh-grace"}},
		{"sshd with its default", Host{LoginGraceTime: new(2 * time.Minute)}, nil},
		{"SELinux without a log", Host{SELinux: "enforcing"}, nil},
		{"others", Host{Programs: []string{"fail2ban"}, Firewall: []string{"A chain f2b-sshd is there."}}, []string{"note other-guards", "note firewall"}},
	} {
		var got []string
		for _, f := range test.host.findings() {
			isWhole(t, &f)
			got = append(got, f.Severity.String()+" "+f.Check)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestWithoutAFreeSWITCHTheHostIsExamined(t *testing.T) {
	host := Host{CTILog: &File{Path: "/log/x"}, Saved: saved.Rules{Stale: []string{"/etc/ipset.conf"}}, SELinux: "enforcing"}
	var got []string
	for _, f := range ExamineHost(&host, errors.New("event socket x refused\nthe password")) {
		got = append(got, f.Severity.String()+" "+f.Check+" "+f.Seen)
	}
	want := []string{"critical not-examined Event socket x refused?the password.", "note saved-bans /etc/ipset.conf.", "note cti-log /log/x does not exist.", `note selinux /log/x has the context "".`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestThisHostCanBeRead(t *testing.T) {
	if h := ReadHost("/nosuch/log", 0); h.Zone == "" || h.CTILog == nil || h.CTILog.Err == "" {
		t.Errorf("got %+v", h)
	}
}
