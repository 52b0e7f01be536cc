package saved

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const (
	iptablesSave  = "*raw\n:PREROUTING ACCEPT [0:0]\n:FSBAN - [0:0]\n-A PREROUTING -j FSBAN\n-A FSBAN -m set --match-set fsban4 src -j DROP\nCOMMIT\n"
	ip6tables     = "*raw\n-A FSBAN -m set --match-set fsban6 src -j DROP\nCOMMIT\n"
	rulesBackend  = "*raw\n:FSBAN - [0:0]\n-A PREROUTING -j FSBAN\n-A FSBAN -s 192.0.2.7/32 -j DROP\nCOMMIT\n"
	ipsetSave     = "create other hash:ip\ncreate fsban4 hash:net family inet timeout 0\nadd fsban4 192.0.2.7 timeout 600\n"
	nftList       = "table ip nat {\n}\ntable inet fsban {\n\tset fsban4 {\n\t\ttype ipv4_addr\n\t}\n}\n"
	nftOfIptables = "flush ruleset\ntable ip raw {\n\tchain FSBAN {\n\t\txt match set counter packets 0 bytes 0 drop\n\t}\n\n\tchain PREROUTING {\n\t\tcounter packets 0 bytes 0 jump FSBAN\n\t}\n}\n"
	nftOfRules    = "table ip raw {\n\tchain FSBAN {\n\t\tip saddr 192.0.2.7 drop\n\t}\n\tchain OTHER {\n\t\txt match set drop\n\t}\n\tchain PREROUTING {\n\t\tjump FSBAN\n\t}\n}\n"
	foreign       = "*filter\n:INPUT ACCEPT [0:0]\n# -A FSBAN -m set --match-set fsban4 src -j DROP\n-A INPUT -m set --match-set fsban4x src -j DROP\n-A FSBAN-TRY -j DROP\n" +
		"-A INPUT -m comment --comment FSBAN -j ACCEPT\nCOMMIT\ncreate fsban44 hash:ip\ntable inet fsbanana {\n}\n"
)

func host(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestSavedRulesAreFound(t *testing.T) {
	for name, test := range map[string]struct {
		files           map[string]string
		needSets, stale []string
	}{
		"nothing":            {nil, nil, nil},
		"rules of others":    {map[string]string{"etc/iptables/rules.v4": foreign, "etc/nftables.conf": foreign, "etc/ipset.conf": foreign}, nil, nil},
		"Debian":             {map[string]string{"etc/iptables/rules.v4": iptablesSave, "etc/iptables/rules.v6": ip6tables}, []string{"/etc/iptables/rules.v4", "/etc/iptables/rules.v6"}, nil},
		"iptables-services":  {map[string]string{"etc/sysconfig/iptables": iptablesSave, "etc/sysconfig/ip6tables": ip6tables}, []string{"/etc/sysconfig/iptables", "/etc/sysconfig/ip6tables"}, nil},
		"sets":               {map[string]string{"etc/ipset.conf": ipsetSave, "etc/iptables/ipsets": ipsetSave, "etc/sysconfig/ipset": ipsetSave}, nil, []string{"/etc/ipset.conf", "/etc/iptables/ipsets", "/etc/sysconfig/ipset"}},
		"nftables":           {map[string]string{"etc/nftables.conf": nftList, "etc/nftables.d/x": nftList, "etc/nftables/main.nft": nftList}, nil, []string{"/etc/nftables.conf", "/etc/nftables.d/x", "/etc/nftables/main.nft"}},
		"backend rules, nft": {map[string]string{"etc/nftables.conf": nftOfRules}, nil, []string{"/etc/nftables.conf"}},
		"backend rules":      {map[string]string{"etc/iptables/rules.v4": rulesBackend}, nil, []string{"/etc/iptables/rules.v4"}},
		"iptables-save -c":   {map[string]string{"etc/iptables/rules.v4": "[12:345] " + strings.Split(iptablesSave, "\n")[4] + "\n"}, []string{"/etc/iptables/rules.v4"}, nil},
		"only the tap":       {map[string]string{"etc/iptables/rules.v4": "*filter\n-A FSBAN-TAP-IN -p udp -m udp --dport 5060 -j NFLOG\nCOMMIT\n"}, nil, []string{"/etc/iptables/rules.v4"}},
		"only the jump":      {map[string]string{"etc/iptables/rules.v4": "*raw\n-A PREROUTING -j FSBAN\nCOMMIT\n"}, nil, []string{"/etc/iptables/rules.v4"}},
		"beyond 16 MiB":      {map[string]string{"etc/iptables/rules.v4": strings.Repeat("#\n", maxBytes/2) + iptablesSave}, nil, nil},
		"a directory of its": {map[string]string{"etc/iptables/rules.v4/file": iptablesSave}, nil, nil},
	} {
		r := Find(host(t, test.files), 0)
		if !slices.Equal(r.NeedSets, test.needSets) || !slices.Equal(r.Stale, test.stale) || r.SetsUnit {
			t.Errorf("%s: %+v", name, r)
		}
		if (len(r.Problems()) > 0) != (len(test.needSets) > 0) || len(r.Refused) > 0 {
			t.Errorf("%s: refused %v, problem %q", name, r.Refused, r.Problems())
		}
	}
}

func TestTheUnitMakesTheBootSafe(t *testing.T) {
	files := map[string]string{"etc/iptables/rules.v4": iptablesSave}
	for _, link := range []string{"etc/systemd/system/sysinit.target.wants/", "etc/systemd/system/netfilter-persistent.service.requires/", "usr/lib/systemd/system/network-pre.target.wants/"} {
		files[link+SetsUnit] = "[Unit]\n"
		r := Find(host(t, files), 0)
		if !r.SetsUnit || len(r.Problems()) > 0 || len(r.NeedSets) != 1 {
			t.Errorf("%s: %+v", link, r)
		}
		delete(files, link+SetsUnit)
	}
	files["usr/lib/systemd/system/"+SetsUnit] = "[Unit]\n" // installed, not enabled
	if r := Find(host(t, files), 0); r.SetsUnit || !strings.Contains(strings.Join(r.Problems(), "\n"), "/etc/iptables/rules.v4: the next boot cannot restore the firewall rules saved there") {
		t.Errorf("%+v, %q", r, r.Problems())
	}
}

// The unit does not help against a ruleset that nft cannot read.
func TestRulesetsThatNftCannotReadAreFound(t *testing.T) {
	for _, name := range []string{"etc/nftables.conf", "etc/nftables.d/saved", "etc/sysconfig/nftables.conf"} {
		text := nftOfIptables
		if name == "etc/nftables.d/saved" {
			text = strings.ReplaceAll(text, "FSBAN", "FSBAN-TAP-IN")
		}
		r := Find(host(t, map[string]string{name: text, "etc/systemd/system/sysinit.target.wants/" + SetsUnit: ""}), 0)
		if !slices.Equal(r.Refused, []string{"/" + name}) || !strings.Contains(strings.Join(r.Problems(), "\n"), "/"+name+": the next boot cannot restore") || strings.Contains(strings.Join(r.Problems(), "\n"), "enable") {
			t.Errorf("%s: %+v, %q", name, r, r.Problems())
		}
	}
}

func TestSavedSetsAreComparedWithThoseOfFsban(t *testing.T) {
	const own = "create fsban4 hash:net family inet hashsize 1024 maxelem 1000 timeout 0 counters bucketsize 12 initval 0x1a2b3c4d\n"
	const others = "create customers hash:ip family inet hashsize 1024 maxelem 65536\n"
	for name, test := range map[string]struct {
		file, want         string
		unusable, followed bool
	}{
		"alike":            {own + others, "", false, false},
		"larger hash":      {strings.Replace(own, "hashsize 1024", "hashsize 65536", 1), "", false, false},
		"other maxelem":    {strings.Replace(own, "1000", "65536", 1), "fsban4 is saved with maxelem 65536 instead of 1000 (firewall.max_bans)", false, false},
		"default maxelem":  {"create fsban6 hash:net family inet6 timeout 0 counters\n", "fsban6 is saved with maxelem 65536 instead of 1000 (firewall.max_bans)", false, false},
		"sets follow":      {strings.Replace(own, "1000", "2000", 1) + "add fsban4 192.0.2.7\n" + others, "fsban4 is saved with maxelem 2000 instead of 1000 (firewall.max_bans)", false, true},
		"sets before it":   {others + strings.Replace(own, "1000", "2000", 1), "fsban4 is saved with maxelem 2000 instead of 1000 (firewall.max_bans)", false, false},
		"other timeout":    {strings.Replace(own, "timeout 0", "timeout 600", 1), "fsban4 is saved with timeout 600 instead of 0", false, false},
		"no timeout":       {strings.Replace(own, "timeout 0 ", "", 1), "fsban4 is saved with no timeouts", true, false},
		"no counters":      {strings.Replace(own, " counters", "", 1), "fsban4 is saved with no counters", true, false},
		"comments":         {strings.Replace(own, "counters", "counters comment", 1), "fsban4 is saved with option comment", true, false},
		"other family":     {strings.Replace(own, "inet ", "inet6 ", 1), "fsban4 is saved with IPv6 instead of IPv4", true, false},
		"other type":       {"create fsban4 hash:ip maxelem 1000\n", "fsban4 is saved with type hash:ip instead of hash:net", true, false},
		"all":              {"create fsban4 hash:net forceadd\n", "fsban4 is saved with no timeouts, no counters, option forceadd, maxelem 65536 instead of 1000 (firewall.max_bans)", true, false},
		"cut line":         {"create fsban4\ncreate fsban6 hash:net family", "fsban6 is saved with IPv4 instead of IPv6, no timeouts, no counters, maxelem 65536 instead of 1000 (firewall.max_bans)", true, false},
		"sets of others":   {others + "create fsban4x hash:ip\n", "", false, false},
		"maxelem in words": {"create fsban4 hash:net timeout 0 counters maxelem many\n", "fsban4 is saved with maxelem 0 instead of 1000 (firewall.max_bans)", false, false},
	} {
		const path = "etc/iptables/ipsets"
		for _, unit := range []bool{false, true} {
			files := map[string]string{path: test.file}
			if unit {
				files["etc/systemd/system/sysinit.target.wants/"+SetsUnit] = ""
			}
			r := Find(host(t, files), 1000)
			problems := strings.Join(r.Problems(), "\n")
			switch {
			case test.want == "" && (len(r.Clashes) > 0 || problems != ""):
				t.Errorf("%s: %+v, %q", name, r.Clashes, problems)
			case test.want == "":
			case len(r.Clashes) != 1 || r.Clashes[0].String() != "/"+path+": "+test.want || r.Clashes[0].Unusable != test.unusable || r.Clashes[0].Followed != test.followed:
				t.Errorf("%s: %+v, want %s", name, r.Clashes, test.want)
			case strings.Contains(problems, "fsban enforces no bans") != (test.unusable && !unit), strings.Contains(problems, "restores no set that follows fsban4") != (test.followed && unit):
				t.Errorf("%s, unit enabled: %v: %q", name, unit, problems)
			}
		}
		if r := Find(host(t, map[string]string{path: test.file}), 0); len(r.Clashes) > 0 {
			t.Errorf("%s: without a size: %+v", name, r.Clashes)
		}
	}
}

func TestFindNeverWaits(t *testing.T) {
	root := host(t, map[string]string{"etc/iptables/x": ""})
	if err := syscall.Mkfifo(filepath.Join(root, "etc/iptables/rules.v4"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("rules.v6", filepath.Join(root, "etc/iptables/rules.v6")); err != nil {
		t.Fatal(err)
	}
	if r := Find(root, 0); len(r.Problems()) > 0 || len(slices.Concat(r.Stale, r.Unreadable)) > 0 {
		t.Errorf("%+v", r)
	}
}
