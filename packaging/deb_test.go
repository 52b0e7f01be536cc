package packaging_test

import (
	"strings"
	"testing"
)

// The whole life of the deb on a clean Debian: installed, protecting, upgraded over an edited configuration, removed, there
// again, purged.
func TestTheDebIsInstalledUpgradedAndPurged(t *testing.T) {
	t.Parallel()
	deb := made(t, "*.deb")
	m := boot(t)
	fs := m.play()
	m.put(deb, "/run/fsban.deb")
	before := m.files()

	m.do("dpkg", "-i", "/run/fsban.deb")
	m.protects()
	if got := m.sh("stat -c '%U %G %a' /etc/fsban/config.yaml /var/lib/fsban /run/fsban"); got != "root fsban 640\nfsban fsban 700\nfsban fsban 755" {
		t.Errorf("owners and modes:\n%s", got)
	}
	if got := m.sh("getent passwd fsban | cut -d: -f6-; getent group fsban-reader fsban-admin | wc -l; systemctl is-enabled fsban fsban-sets"); got != "/var/lib/fsban:/usr/sbin/nologin\n2\nenabled\nenabled" {
		t.Errorf("user, groups, service:\n%s", got)
	}
	pid := m.sh("systemctl show -P MainPID fsban")
	// Not root, the two capabilities, no new privileges, system calls filtered.
	if got := m.sh("stat -c %U /proc/" + pid); got != "fsban" {
		t.Errorf("runs as %s", got)
	}
	for _, set := range []string{"CapPrm:\t0000000000003000", "CapEff:\t0000000000003000", "CapBnd:\t0000000000003000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(m.do("cat", "/proc/"+pid+"/status"), set) {
			t.Errorf("not %q:\n%s", set, m.do("cat", "/proc/"+pid+"/status"))
		}
	}
	// No core dumps, and only root can read its memory: its files in /proc belong to root.
	if got := m.sh("stat -c %U /proc/" + pid + "/environ; grep -c '^Max core file size  *0  *0 ' /proc/" + pid + "/limits; systemctl show -P LimitCORE fsban"); got != "root\n1\n0" {
		t.Errorf("its memory is open:\n%s", got)
	}
	m.do("fsban", "check")
	m.sh("test -s /usr/share/man/man1/fsban-status.1.gz; test -s /usr/share/bash-completion/completions/fsban; test -s /usr/share/doc/fsban/docs/installation.md; test -s /usr/share/doc/fsban/licenses.txt; test -s /usr/share/doc/fsban/dashboards/rules/fsban.rules.yaml; test -s /usr/share/doc/fsban/dashboards/provisioning/dashboards/fsban.yaml")

	m.groupsMayWhatTheyShould()
	m.reloads(pid)

	// An attack leads to a ban in the kernel.
	fs.tell("send 203.0.113.66", "arrived")
	fs.tell("fail 203.0.113.66 5", "ok")
	m.banned("203.0.113.66")
	fs.tell("send 203.0.113.66", "dropped")
	fs.tell("send 203.0.113.67", "arrived")

	m.followsAGroupsLog()
	m.upgrades(fs)
	m.bansWithLegacy(fs)
	m.isRemovedAndPurged(fs, before)
}

// groupsMayWhatTheyShould checks the members of the groups that the package makes: readers may look, admins change.
func (m *machine) groupsMayWhatTheyShould() {
	m.Helper()
	m.sh("useradd -G fsban-reader reader; useradd -G fsban-admin admin; useradd stranger")
	as := func(who, args string) error {
		_, err := m.try("runuser", "-u", who, "--", "sh", "-c", "fsban "+args)
		return err
	}
	if as("reader", "status") != nil || as("reader", "ban 203.0.113.77") == nil || as("admin", "ban 203.0.113.77") != nil || as("stranger", "status") == nil {
		m.Error("reader, admin and stranger may not do what they should, or what they should not")
	}
	m.sh("userdel reader; userdel admin; userdel stranger")
}

// reloads checks that a wrong file is refused, and a right one taken while fsban, process pid, runs.
func (m *machine) reloads(pid string) {
	m.Helper()
	m.sh("echo 'log: {level: shout}' >>/etc/fsban/config.yaml; ! systemctl reload fsban; systemctl kill --kill-whom=main --signal=HUP fsban")
	m.until("the journal has the refusal as an error", func() (string, bool) {
		out, _ := m.try("journalctl", "--no-pager", "-u", "fsban", "-p", "err")
		return out, strings.Contains(out, "configuration not reloaded") && !strings.Contains(out, "level=INFO")
	})
	m.sh("sed -i '$ d' /etc/fsban/config.yaml; systemctl reload fsban")
	m.protects()
	if now := m.sh("systemctl show -P MainPID fsban"); now != pid {
		m.Error("a reload made another process")
	}
}

// followsAGroupsLog checks that a drop-in is enough to read a mod_cti's log that only a group may read.
func (m *machine) followsAGroupsLog() {
	m.Helper()
	m.sh(`groupadd --system freeswitch; mkdir -p /ddt/fs/log; touch /ddt/fs/log/cti_fail2ban.log; chgrp -R freeswitch /ddt; chmod -R o=,g=rX /ddt/fs/log
systemctl restart fsban
n=0; until fsban status | grep 'cti_log.*: down'; do n=$((n + 1)); [ $n -lt 600 ]; sleep 0.1; done
mkdir /etc/systemd/system/fsban.service.d; printf '[Service]\nSupplementaryGroups=freeswitch\n' >/etc/systemd/system/fsban.service.d/log.conf
systemctl daemon-reload; systemctl restart fsban`)
	m.until("mod_cti's log is followed", func() (string, bool) {
		out, _ := m.try("fsban", "status")
		return out, strings.Contains(out, "cti_log /ddt/fs/log/cti_fail2ban.log: up")
	})
	m.sh("rm -r /ddt /etc/systemd/system/fsban.service.d; groupdel freeswitch; systemctl daemon-reload; systemctl restart fsban")
	m.protects()
}

// upgrades checks an upgrade over an edited configuration.
func (m *machine) upgrades(fs *freeswitch) {
	m.Helper()
	pid := m.sh("systemctl show -P MainPID fsban")
	m.sh("echo 'log: {level: debug}' >>/etc/fsban/config.yaml; chmod 0600 /etc/fsban/config.yaml; chown fsban /etc/fsban/config.yaml")
	m.do("dpkg", "-i", "/run/fsban.deb")
	m.until("another daemon runs", func() (string, bool) {
		now := m.sh("systemctl show -P MainPID fsban")
		return now, now != pid && now != "0"
	})
	m.protects()
	if got := m.sh("tail -1 /etc/fsban/config.yaml; stat -c '%U %a' /etc/fsban/config.yaml"); got != "log: {level: debug}\nfsban 600" {
		m.Errorf("after the upgrade:\n%s", got)
	}
	fs.tell("send 203.0.113.66", "dropped")
}

// bansWithLegacy checks iptables-legacy: its lock file belongs to root.
func (m *machine) bansWithLegacy(fs *freeswitch) {
	m.Helper()
	m.sh("systemctl stop fsban; fsban teardown")
	fs.tell("send 203.0.113.66", "arrived")
	m.sh("update-alternatives --set iptables /usr/sbin/iptables-legacy; update-alternatives --set ip6tables /usr/sbin/ip6tables-legacy; systemctl start fsban")
	m.protects()
	if got := m.sh("fsban status; iptables-legacy -t raw -S FSBAN"); !strings.Contains(got, "iptables, enforcing") || !strings.Contains(got, "-j DROP") {
		m.Errorf("with iptables-legacy:\n%s", got)
	}
	if got := m.sh("stat -c '%U %G %a' /run/xtables.lock"); got != "root fsban 640" {
		m.Errorf("the lock of iptables: %s", got)
	}
	fs.tell("send 203.0.113.66", "dropped")
}

// isRemovedAndPurged checks that a removal keeps bans, state and configuration, and that a purge leaves the machine as before.
func (m *machine) isRemovedAndPurged(fs *freeswitch, before string) {
	m.Helper()
	if got := m.do("dpkg", "-r", "fsban"); !strings.Contains(got, "bans stay in force") {
		m.Errorf("removing says:\n%s", got)
	}
	m.sh("! systemctl is-active --quiet fsban; test ! -e /usr/bin/fsban; test ! -e /usr/bin/fsban-demo; test -s /var/lib/fsban/fsban.db; grep -q debug /etc/fsban/config.yaml")
	fs.tell("send 203.0.113.66", "dropped")

	// There again: it goes on where it stopped.
	m.do("dpkg", "-i", "/run/fsban.deb")
	m.protects()
	if got := m.do("fsban", "list"); !strings.Contains(got, "203.0.113.66 ") || !strings.Contains(got, "auth") {
		m.Errorf("after a removal and another installation:\n%s", got)
	}

	// Purged: nothing of it is left, neither in files nor in the kernel.
	m.do("dpkg", "-P", "fsban")
	m.clean(before)
	fs.tell("send 203.0.113.66", "arrived")

	// Installed, removed and purged in two steps.
	m.do("dpkg", "-i", "/run/fsban.deb")
	m.protects()
	fs.tell("fail 203.0.113.66 5", "ok")
	m.banned("203.0.113.66")
	m.do("dpkg", "-r", "fsban")
	fs.tell("send 203.0.113.66", "dropped")
	m.do("dpkg", "-P", "fsban")
	m.clean(before)
	fs.tell("send 203.0.113.66", "arrived")
}

// Where policy-rc.d says that nothing is to be started, nothing is.
func TestTheDebStartsNothingWhereItMayNot(t *testing.T) {
	t.Parallel()
	deb := made(t, "*.deb")
	m := boot(t)
	m.put(deb, "/run/fsban.deb")
	m.sh(`printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d`)
	m.do("dpkg", "-i", "/run/fsban.deb")
	if got := m.sh("systemctl show -P ActiveState -P Job fsban"); !strings.HasPrefix(got, "inactive") {
		t.Errorf("fsban is %s", got)
	}
	// Nor does fsban's start wait for a FreeSWITCH that does not answer.
	m.sh("rm /usr/sbin/policy-rc.d")
	m.do("dpkg", "-i", "/run/fsban.deb")
	m.until("fsban has started", func() (string, bool) {
		got := m.sh("systemctl show -P ActiveState fsban")
		return got, got == "active"
	})
	m.do("dpkg", "-P", "fsban")
}

// protects waits until fsban says that it protects, and systemd that it has started.
func (m *machine) protects() {
	m.Helper()
	m.until("fsban protects", func() (string, bool) {
		out, err := m.try("sh", "-c", "fsban status && systemctl is-active fsban || { journalctl -n 20 --no-pager -u fsban; systemctl status --no-pager fsban; exit 1; }")
		return out, err == nil
	})
}

// banned waits until the kernel has a ban.
func (m *machine) banned(addr string) {
	m.Helper()
	m.until(addr+" is banned", func() (string, bool) {
		out, _ := m.try("ipset", "list", "fsban4")
		return out, strings.Contains(out, "\n"+addr+" ")
	})
}

// files lists the state of the machine: files with owners and modes, users and groups, and the kernel's rules and sets.
func (m *machine) files() string {
	m.Helper()
	return m.sh(`find / -xdev \( -path /var/cache -o -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -name '*-' -o -name '.pwd.lock' \) -prune -o -printf '%p %U %G %m\n' | sort
ls /run/fsban 2>/dev/null || true
ls /var/lib/systemd/deb-systemd-helper-enabled 2>/dev/null | grep fsban || true
cat /etc/passwd /etc/group /etc/shadow /etc/gshadow; iptables-save; iptables-legacy-save; ipset list; nft list tables | grep fsban || true`)
}

// clean compares the machine with an earlier list of it. Tables that iptables makes when it is first asked are not fsban's.
func (m *machine) clean(before string) {
	m.Helper()
	seen := make(map[string]bool)
	for line := range strings.Lines(before + "\n") {
		seen[line] = true
	}
	lines := make(map[string]bool)
	for line := range strings.Lines(m.files() + "\n") {
		lines[line] = true
		if strings.Contains(line, "fsban") || strings.Contains(line, "FSBAN") || strings.HasPrefix(line, "/") && !seen[line] && !strings.HasPrefix(line, "/etc/alternatives/") {
			m.Errorf("left: %s", line)
		}
	}
	for line := range seen {
		if strings.HasPrefix(line, "/") && !lines[line] {
			m.Errorf("gone: %s", line)
		}
	}
}
