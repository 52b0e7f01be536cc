package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Fleet says which Redis several fsbans share their bans through, and how.
type Fleet struct {
	Redis        string   `yaml:"redis"`
	Sentinel     string   `yaml:"sentinel"`
	Cluster      bool     `yaml:"cluster"`
	Username     string   `yaml:"username"`
	Password     Secret   `yaml:"password"`
	PasswordFile string   `yaml:"password_file"`
	TLS          FleetTLS `yaml:"tls"`
	Name         string   `yaml:"name"`
	Node         string   `yaml:"node"`
	Share        string   `yaml:"share"`
}

// FleetTLS configures the certificates of Redis and of fsban, if fleet.redis begins with rediss://.
type FleetTLS struct {
	CAFile     string `yaml:"ca_file"`
	CertFile   string `yaml:"cert_file"`
	KeyFile    string `yaml:"key_file"`
	ServerName string `yaml:"server_name"`
}

// The values of fleet.share.
const (
	ShareBans     = "bans"
	ShareFailures = "failures"
)

// On reports whether a fleet is configured.
func (f *Fleet) On() bool { return f.Redis != "" }

// fleetName is the form of the names of a fleet and of a node, which are parts of keys and entries in Redis.
var fleetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$`)

func (f *Fleet) validate(problem report) {
	if _, _, _, err := f.Addresses(); err != nil {
		problem("fleet.redis", "%v", err)
	}
	if !fleetName.MatchString(f.Name) {
		problem("fleet.name", "%.60q: write 1 to 60 of letters, digits, \".\", \"_\" and \"-\"", f.Name)
	}
	if f.Node != "" && !fleetName.MatchString(f.Node) {
		problem("fleet.node", "%.60q: write 1 to 60 of letters, digits, \".\", \"_\" and \"-\", or \"\" for the host's name", f.Node)
	}
	if !slices.Contains([]string{ShareBans, ShareFailures}, f.Share) {
		problem("fleet.share", "%.60q is neither %s nor %s", f.Share, ShareBans, ShareFailures)
	}
	if f.Sentinel != "" && f.Cluster {
		problem("fleet.cluster", "set either sentinel or cluster, not both")
	}
	if f.Password != "" && f.PasswordFile != "" {
		problem("fleet.password_file", "set either password or password_file, not both")
	}
	for _, file := range []struct{ key, path string }{
		{"password_file", f.PasswordFile}, {"tls.ca_file", f.TLS.CAFile}, {"tls.cert_file", f.TLS.CertFile}, {"tls.key_file", f.TLS.KeyFile},
	} {
		if file.path != "" && !filepath.IsAbs(file.path) {
			problem("fleet."+file.key, "%q is not an absolute path", file.path)
		}
	}
	if (f.TLS.CertFile == "") != (f.TLS.KeyFile == "") {
		problem("fleet.tls.cert_file", "cert_file and key_file belong together")
	}
}

// Addresses returns where Redis is, as Parse has checked it: host:port of one, or of several sentinels or nodes of a cluster.
func (f *Fleet) Addresses() (addrs []string, db int, secure bool, err error) {
	if f.Redis == "" {
		return nil, 0, false, nil
	}
	const form = "%.80q: write redis://host:6379/0, rediss:// for TLS, or unix:///path; several hosts with commas between them"
	scheme, rest, ok := strings.Cut(f.Redis, "://")
	if scheme == "unix" && filepath.IsAbs(rest) && f.Sentinel == "" && !f.Cluster {
		return []string{rest}, 0, false, nil
	}
	if strings.Contains(f.Redis, "@") {
		return nil, 0, false, fmt.Errorf("no login here, because this is shown: set username and password_file")
	}
	if !ok || scheme != "redis" && scheme != "rediss" || rest == "" {
		return nil, 0, false, fmt.Errorf(form, f.Redis)
	}
	hosts, number, _ := strings.Cut(rest, "/")
	if number != "" {
		if db, err = strconv.Atoi(number); err != nil || db < 0 || db > 9999 {
			return nil, 0, false, fmt.Errorf("%.40q is not the number of a database", number)
		}
	}
	for host := range strings.SplitSeq(hosts, ",") {
		u, parseErr := url.Parse(scheme + "://" + host)
		if parseErr != nil || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, 0, false, fmt.Errorf(form, f.Redis)
		}
		port := u.Port()
		if port == "" {
			if port = "6379"; f.Sentinel != "" {
				port = "26379"
			}
		}
		addr := net.JoinHostPort(u.Hostname(), port)
		if err := hostPort(addr); err != nil {
			return nil, 0, false, err
		}
		addrs = append(addrs, addr)
	}
	switch {
	case len(addrs) > 1 && f.Sentinel == "" && !f.Cluster:
		return nil, 0, false, fmt.Errorf("several hosts: set sentinel if they are sentinels, or cluster: true")
	case db != 0 && f.Cluster:
		return nil, 0, false, fmt.Errorf("a cluster has no database but 0")
	}
	return addrs, db, scheme == "rediss", nil
}
