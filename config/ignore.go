package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// An IgnoreList holds addresses, prefixes and host names that are never banned.
type IgnoreList []string

// maxHosts bounds how many names have to be looked up; maxIgnored how long an ignore file is.
const (
	maxHosts   = 1000
	maxIgnored = 100_000
)

// IgnorePrefixes returns the addresses and prefixes of policy.ignoreip, which Parse has checked.
func (p *Policy) IgnorePrefixes() []netip.Prefix {
	prefixes, _ := p.IgnoreIP.split()
	return prefixes
}

// IgnoreHosts returns the host names of policy.ignoreip, in lower case. Somebody else looks them up.
func (p *Policy) IgnoreHosts() []string {
	_, hosts := p.IgnoreIP.split()
	return hosts
}

func (l IgnoreList) split() (prefixes []netip.Prefix, hosts []string) {
	for _, s := range l {
		switch prefix, host, err := parseIgnored(s); {
		case err != nil: // nothing that Parse lets pass
		case host != "":
			hosts = append(hosts, host)
		default:
			prefixes = append(prefixes, prefix)
		}
	}
	return prefixes, hosts
}

// ParseIgnoreFile reads policy.ignore_file: entries as in policy.ignoreip, one or several a line, and comments that begin with #.
// name is the file's name in errors. The error is a *Problems, with every invalid line.
func ParseIgnoreFile(name string, data []byte) (prefixes []netip.Prefix, hosts []string, err error) {
	var problems []Problem
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\ufeff"))) {
		number++
		text, _, _ := strings.Cut(string(line), "#")
		for _, word := range words(text) {
			prefix, host, err := parseIgnored(word)
			switch {
			case err != nil:
				problems = append(problems, Problem{Line: number, Text: err.Error()})
			case host != "":
				hosts = append(hosts, host)
			default:
				prefixes = append(prefixes, prefix)
			}
		}
	}
	if n := len(prefixes) + len(hosts); n > maxIgnored {
		problems = append(problems, Problem{Text: fmt.Sprintf("%d entries: write at most %d", n, maxIgnored)})
	}
	if len(hosts) > maxHosts {
		problems = append(problems, Problem{Text: fmt.Sprintf("%d host names: write at most %d", len(hosts), maxHosts)})
	}
	if len(problems) > 0 {
		return nil, nil, &Problems{filepath.Base(name), problems}
	}
	return prefixes, hosts, nil
}

// words splits a line of fail2ban's at spaces and commas.
func words(s string) []string { return strings.Fields(strings.ReplaceAll(s, ",", " ")) }

// hostName is the form of a host name. Its last label begins with a letter, so that no address with a slip of the pen in
// it is taken for one.
var hostName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// parseIgnored reads an address or prefix, or else a host name.
func parseIgnored(s string) (prefix netip.Prefix, host string, err error) {
	if prefix, err = ParsePrefix(s); err == nil {
		return prefix, "", nil
	}
	host = strings.ToLower(strings.TrimSuffix(s, "."))
	if len(host) > 253 || !hostName.MatchString(host) {
		return netip.Prefix{}, "", fmt.Errorf("%.60q is not an address, prefix or host name: write 192.0.2.7, 192.0.2.0/24, 2001:db8::/32 or "+
			"sip.example.com", s)
	}
	return netip.Prefix{}, host, nil
}

// cleanIgnored returns an entry of an IgnoreList as it is shown: prefixes without needless bits, names in lower case.
func cleanIgnored(s string) (string, error) {
	prefix, host, err := parseIgnored(s)
	if err != nil || host != "" {
		return host, err
	}
	return prefix.String(), nil
}

func (p *Policy) validateIgnored(problem report) {
	if hosts := p.IgnoreHosts(); len(hosts) > maxHosts {
		problem("policy.ignoreip", "%d host names: write at most %d", len(hosts), maxHosts)
	}
	if f := p.IgnoreFile; f != "" && !filepath.IsAbs(f) {
		problem("policy.ignore_file", "%q is not an absolute path", f)
	}
	problem.names("policy.ignore_acls", p.IgnoreACLs, "an access list in acl.conf.xml")
	for _, name := range p.IgnoreACLs {
		// FreeSWITCH's own lists of all addresses, or of all that are not private.
		if strings.HasSuffix(name, ".auto") && (strings.HasPrefix(name, "any") || strings.HasPrefix(name, "wan")) {
			problem("policy.ignore_acls", "%q allows the whole internet: nobody would be banned", name)
		}
	}
	if p.IgnoreSSH && len(p.SSHPorts) == 0 {
		problem("policy.ssh_ports", "name the port of sshd, or set ignore_ssh: false")
	}
	if len(p.SSHPorts) > maxNames {
		problem("policy.ssh_ports", "%d ports: write at most %d", len(p.SSHPorts), maxNames)
	}
	for i, port := range p.SSHPorts {
		problem.within("policy.ssh_ports", port, 1, 65535, "")
		if slices.Contains(p.SSHPorts[:i], port) {
			problem("policy.ssh_ports", "%d stands here twice", port)
		}
	}
}
