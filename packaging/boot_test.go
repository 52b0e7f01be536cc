package packaging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rules are those of a host that ran iptables-save while fsban ran.
const rules = `*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:FSBAN - [0:0]
-A PREROUTING -j FSBAN
-A FSBAN -m set --match-set fsban4 src -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -p tcp -m tcp --dport 23 -j DROP
COMMIT
`

// restorer restores them as Debian's netfilter-persistent does.
const restorer = `[Unit]
DefaultDependencies=no
Wants=network-pre.target systemd-modules-load.service local-fs.target
Before=network-pre.target shutdown.target
After=systemd-modules-load.service local-fs.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh -c 'iptables-restore </etc/iptables/rules.v4; ip6tables-restore </etc/iptables/rules.v6'
ExecStart=iptables -C INPUT -p tcp --dport 23 -j DROP
ExecStart=ip6tables -C INPUT -p tcp --dport 23 -j DROP
[Install]
WantedBy=multi-user.target
`

// late is a FreeSWITCH that starts after the boot, as some installations have it.
const late = `[Unit]
After=multi-user.target
[Service]
ExecStart=sleep infinity
[Install]
WantedBy=multi-user.target
`

// installed returns the files of a host with saved rules and a late FreeSWITCH, on which the deb is about to be installed.
func installed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	deb, err := os.ReadFile(made(t, "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"fsban.deb":             string(deb),
		"etc/iptables/rules.v4": rules,
		"etc/iptables/rules.v6": strings.ReplaceAll(rules, "fsban4", "fsban6"),
		"etc/systemd/system/netfilter-persistent.service": restorer,
		"etc/systemd/system/freeswitch.service":           late,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const install = "dpkg -i /fsban.deb >/dev/null\nsystemctl enable -q netfilter-persistent freeswitch\n"

// A host without a running FreeSWITCH boots to its end, fsban enforces bans, a FreeSWITCH that is ordered after the boot starts,
// and the host's own rules are in force although the file that holds them names fsban's sets.
func TestAHostBootsWithFsban(t *testing.T) {
	t.Parallel()
	m := bootWith(t, installed(t), install)
	if got, _ := m.try("systemctl", "is-system-running"); got != "running\n" {
		t.Errorf("the system is %s%s", got, m.sh("systemctl --failed --no-pager"))
	}
	units := "fsban fsban-sets freeswitch netfilter-persistent multi-user.target"
	if got := m.sh("systemctl is-active " + units + " || true"); got != strings.Repeat("active\n", 4)+"active" {
		t.Errorf("%s are\n%s", units, got)
	}
	if got := m.sh("fsban status || true"); !strings.Contains(got, "enforcing") || !strings.Contains(got, "no source of attempts is alive") {
		t.Errorf("status:\n%s", got)
	}
	if got := m.sh("systemctl is-active time-sync.target || true"); got != "inactive" {
		t.Errorf("time-sync.target, which no service needs here, is %s", got)
	}
	m.sh("fsban ban 203.0.113.77")
	m.banned("203.0.113.77")
}

// Without the sets the host's own rules are lost: the test above can fail.
func TestSavedRulesNeedTheSets(t *testing.T) {
	t.Parallel()
	m := bootWith(t, installed(t), install+"systemctl mask -q fsban-sets\n")
	if got := m.sh("systemctl is-active netfilter-persistent || true"); got != "failed" {
		t.Errorf("netfilter-persistent is %s", got)
	}
}
