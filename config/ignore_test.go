package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestIgnoredAreAddressesPrefixesAndNames(t *testing.T) {
	for name, test := range map[string]struct{ file, prefixes, hosts string }{
		"the default":     {"maxretry: 5", "127.0.0.0/8 ::1/128", ""},
		"none":            {"ignoreip: []", "", ""},
		"fail2ban's list": {"ignoreip: 127.0.0.1/8 ::1 ::ffff:192.0.2.7, 2001:db8::1/32", "127.0.0.0/8 ::1/128 192.0.2.7/32 2001:db8::/32", ""},
		"names, too":      {"ignoreip: [SIP.Carrier.Example., 192.0.2.7, pbx_1, xn--bcher-kva.example]", "192.0.2.7/32", "sip.carrier.example pbx_1 xn--bcher-kva.example"},
		"in a line":       {"ignoreip: office.example,192.0.2.0/24", "192.0.2.0/24", "office.example"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse("config.yaml", []byte("policy:\n  "+test.file+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(c.Policy.IgnorePrefixes()); got != test.prefixes {
				t.Errorf("prefixes %s, want %s", got, test.prefixes)
			}
			if got := strings.Join(c.Policy.IgnoreHosts(), " "); got != test.hosts {
				t.Errorf("hosts %s, want %s", got, test.hosts)
			}
		})
	}
}

func texts(prefixes []netip.Prefix) string { return strings.Trim(fmt.Sprint(prefixes), "[]") }

// A slip of the pen must not become a name that is looked up and never found.
func TestNoAddressWithAnErrorIsAName(t *testing.T) {
	for _, s := range []string{
		"", ".", "192.0.2.300", "10.0.0.0/33", "192.0.2", "192.0.2.", "192.0.2.07", "192.0.2.1-9", "192.0.2.1-192.0.2.9", "192.0.2.7a", "1",
		"0x7f.0x1", "192.0.2.0/255.255.255.0", "fe80::1%eth0", "2001:db8::zz", "2001:db8", "[::1]", "sip.example.com:5060", "sip:example.com",
		"a..example", "-a.example", "a-.example", ".example", "a b", "büro.example", "*.example.com", "file:/etc/ignore",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 126) + "aa",
	} {
		if prefix, host, err := parseIgnored(s); err == nil {
			t.Errorf("%q is taken for %v, %q", s, prefix, host)
		}
	}
}

func TestIgnoreFile(t *testing.T) {
	const file = "\ufeff# carriers\r\n192.0.2.0/24, 198.51.100.7 sip.carrier.example # two sites\r\n\r\n\t2001:db8::/32#v6\nOffice.Example"
	prefixes, hosts, err := ParseIgnoreFile("/etc/fsban/ignore.txt", []byte(file))
	if err != nil || texts(prefixes) != "192.0.2.0/24 198.51.100.7/32 2001:db8::/32" || !slices.Equal(hosts, []string{"sip.carrier.example", "office.example"}) {
		t.Errorf("%v, %v, %v", prefixes, hosts, err)
	}
	if prefixes, hosts, err := ParseIgnoreFile("empty", nil); len(prefixes)+len(hosts) > 0 || err != nil {
		t.Errorf("an empty file: %v, %v, %v", prefixes, hosts, err)
	}
	for name, test := range map[string]struct{ file, want string }{
		"every line that is wrong": {
			"192.0.2.7\n192.0.2.300 ok.example 10.0.0.0/33\n# 1.2.3\n\x1b[2J\n",
			`ignore.txt: line 2: "192.0.2.300" is not an address, prefix or host name: write 192.0.2.7, 192.0.2.0/24, 2001:db8::/32 or sip.example.com
ignore.txt: line 2: "10.0.0.0/33" is not an address, prefix or host name: write 192.0.2.7, 192.0.2.0/24, 2001:db8::/32 or sip.example.com
ignore.txt: line 4: "\x1b[2J" is not an address, prefix or host name: write 192.0.2.7, 192.0.2.0/24, 2001:db8::/32 or sip.example.com`,
		},
		"too long":       {strings.Repeat("192.0.2.7\n", maxIgnored+1), "ignore.txt: 100001 entries: write at most 100000"},
		"too many names": {strings.Repeat("a.example\n", maxHosts+1), "ignore.txt: 1001 host names: write at most 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			prefixes, hosts, err := ParseIgnoreFile("/etc/fsban/ignore.txt", []byte(test.file))
			if err == nil || err.Error() != test.want || prefixes != nil || hosts != nil {
				t.Errorf("%v, %v,\n%v, want\n%s", prefixes, hosts, err, test.want)
			}
		})
	}
}

// Whatever an ignore file holds, it is a list of clean entries, or a list of problems, each in one line and with its line.
func FuzzParseIgnoreFile(f *testing.F) {
	for _, s := range []string{"192.0.2.7\n", "# c\na.example, 10.0.0.1/8 ::1 # x", "192.0.2.300\n\n10.0.0.0/33", "\x00\n\x1b[2J", "a#b\r\nc"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		prefixes, hosts, err := ParseIgnoreFile("ignore.txt", data)
		if err != nil {
			var problems *Problems
			if !errors.As(err, &problems) || strings.Count(err.Error(), "\n")+1 != len(problems.List) || prefixes != nil || hosts != nil {
				t.Errorf("%v, %v, %v", prefixes, hosts, err)
			}
			return
		}
		p := Policy{}
		for _, prefix := range prefixes {
			p.IgnoreIP = append(p.IgnoreIP, prefix.String())
		}
		p.IgnoreIP = append(p.IgnoreIP, hosts...)
		if !reflect.DeepEqual(p.IgnorePrefixes(), prefixes) || !reflect.DeepEqual(p.IgnoreHosts(), hosts) {
			t.Errorf("%v and %v are read again as %v and %v", prefixes, hosts, p.IgnorePrefixes(), p.IgnoreHosts())
		}
	})
}

func TestTheSettingsOfTheNeverBanList(t *testing.T) {
	c, err := Parse("config.yaml", []byte("policy:\n  ignore_file: /etc/fsban/ignore\n  ignore_gateways: false\n  ignore_acls: [domains, lan]\n  ignore_ssh: false\n  ssh_ports: []\n"))
	want := Default()
	p := &want.Policy
	p.IgnoreFile, p.IgnoreGateways, p.IgnoreACLs, p.IgnoreSSH, p.SSHPorts = "/etc/fsban/ignore", false, []string{"domains", "lan"}, false, []int{}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("%+v, %v", c.Policy, err)
	}
	if c, err := Parse("config.yaml", []byte("policy: {ssh_ports: 22 2222}\n")); err != nil || !slices.Equal(c.Policy.SSHPorts, []int{22, 2222}) {
		t.Errorf("%v, %v", c.Policy.SSHPorts, err)
	}
}
