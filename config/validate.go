package config

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"fsban/firewall"
	"fsban/policy"
)

// windowBudget bounds what the windows of all tracked addresses may take together: 8 bytes for each attempt remembered.
const windowBudget = 100_000_000

// validate reports everything that cannot work, by its dotted key.
func (c *Config) validate(problem func(key, format string, args ...any)) {
	c.FreeSWITCH.validate(problem)
	c.Policy.validate(problem)
	c.Firewall.validate(problem)
	if p := c.CTILog.Path; p != "" && p != CTILogOff && !filepath.IsAbs(p) {
		problem("cti_log.path", "%q is not an absolute path, nor %q", p, CTILogOff)
	}
	c.CTIEvent.validate(problem)
	c.Calls.validate(problem)
	if !filepath.IsAbs(c.State.Directory) {
		problem("state.directory", "%q is not an absolute path", c.State.Directory)
	}
	// sun_path holds 107 bytes.
	if !filepath.IsAbs(c.Control.Socket) || len(c.Control.Socket) > 107 {
		problem("control.socket", "%q is not an absolute path of at most 107 bytes", c.Control.Socket)
	}
	if c.HTTP.Listen != "" {
		if err := hostPort(c.HTTP.Listen); err != nil {
			problem("http.listen", "%v, or \"\" for no metrics", err)
		}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		problem("log.level", "%q is none of debug, info, warn, error", c.Log.Level)
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		problem("log.format", "%q is neither text nor json", c.Log.Format)
	}
}

func (f *FreeSWITCH) validate(problem func(key, format string, args ...any)) {
	if err := hostPort(f.Address); err != nil {
		problem("freeswitch.address", "%v", err)
	}
	if f.User != "" {
		name, domain, ok := strings.Cut(f.User, "@")
		if !ok || name == "" || domain == "" || strings.ContainsAny(f.User, " :\t\r\n") {
			problem("freeswitch.user", "%.60q is not user@domain", f.User)
		}
	}
	if f.PasswordFile != "" && f.Password != Default().FreeSWITCH.Password {
		problem("freeswitch.password_file", "set either password or password_file, not both")
	}
	if strings.ContainsAny(string(f.Password), "\r\n") {
		problem("freeswitch.password", "the password has more than one line")
	}
}

// maxNames bounds the lists of names; a login's list of events has a bound in FreeSWITCH too.
const maxNames = 100

func (c *CTIEvent) validate(problem func(key, format string, args ...any)) {
	if len(c.Subclasses) > maxNames {
		problem("cti_event.subclasses", "%d names: write at most %d", len(c.Subclasses), maxNames)
	}
	for i, s := range c.Subclasses {
		switch {
		case !isName(s):
			problem("cti_event.subclasses", "%.60q is not the name of an event: fsban discover lists those that come", s)
		case strings.HasPrefix(s, "sofia::"):
			problem("cti_event.subclasses", "%q is FreeSWITCH's own event, and read already", s)
		case slices.Contains(c.Subclasses[:i], s):
			problem("cti_event.subclasses", "%q stands here twice", s)
		}
	}
	for _, h := range []struct{ key, name string }{{"ip_header", c.IPHeader}, {"user_header", c.UserHeader}, {"reason_header", c.ReasonHeader}} {
		if h.name != "" && !isName(h.name) || h.name == "" && h.key == "ip_header" {
			problem("cti_event."+h.key, "%.60q is not the name of a header: fsban discover lists those that come", h.name)
		}
	}
}

func (c *Calls) validate(problem func(key, format string, args ...any)) {
	for _, context := range c.Contexts {
		if !isName(context) {
			problem("calls.contexts", "%.60q is not the name of a dialplan context", context)
		}
	}
	numbersBegin(problem, "calls.deny_prefix", c.DenyPrefix)
	numbersBegin(problem, "calls.allow_prefix", c.AllowPrefix)
	if len(c.Contexts) > maxNames {
		problem("calls.contexts", "%d names: write at most %d", len(c.Contexts), maxNames)
	}
	if c.MaxLength < 0 || c.MaxLength > 128 {
		problem("calls.destination_number_max_len", "%d: write 1 to 128, or 0 for any length", c.MaxLength)
	}
}

func numbersBegin(problem func(key, format string, args ...any), key string, list []string) {
	if len(list) > maxNames {
		problem(key, "%d prefixes: write at most %d", len(list), maxNames)
	}
	for _, prefix := range list {
		if prefix == "" || len(prefix) > 32 || strings.Trim(prefix, "0123456789+*#") != "" {
			problem(key, "%.60q is not the beginning of a number, like \"00\" or \"+\"", prefix)
		}
	}
}

// isName tells whether s can stand in a command to the event socket as one word.
func isName(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) && !strings.ContainsAny(s[:1], "+-/")
}

func (p *Policy) validate(problem func(key, format string, args ...any)) {
	if p.FindTime <= 0 || time.Duration(p.FindTime) > 365*24*time.Hour {
		problem("policy.findtime", "%v: write more than 0s and at most 365d", p.FindTime)
	}
	if t := time.Duration(p.BanTime); t != policy.Forever && (t < time.Second || t > 10*365*24*time.Hour) {
		problem("policy.bantime", "%v: write at least 1s, at most 3650d, or forever", p.BanTime)
	}
	if p.MaxRetry < 1 || p.MaxRetry > 1000 {
		problem("policy.maxretry", "%d: write 1 to 1000", p.MaxRetry)
	}
	if p.IPv4Prefix < 8 || p.IPv4Prefix > 32 {
		problem("policy.ipv4_prefix", "%d: write 8 to 32", p.IPv4Prefix)
	}
	if p.IPv6Prefix < 16 || p.IPv6Prefix > 128 {
		problem("policy.ipv6_prefix", "%d: write 16 to 128", p.IPv6Prefix)
	}
	if p.MaxTracked < 1000 || p.MaxTracked > 100_000_000 {
		problem("policy.max_tracked", "%d: write 1000 to 100000000", p.MaxTracked)
	} else if p.MaxRetry*p.MaxTracked > windowBudget && p.MaxRetry <= 1000 {
		problem("policy.max_tracked", "%d addresses with maxretry %d need too much memory: write at most %d", p.MaxTracked, p.MaxRetry, windowBudget/p.MaxRetry)
	}
}

func (f *Firewall) validate(problem func(key, format string, args ...any)) {
	if !slices.Contains([]string{BackendIPTables, BackendDryRun}, f.Backend) {
		problem("firewall.backend", "%q is none of %s, %s", f.Backend, BackendIPTables, BackendDryRun)
	}
	if len(f.Chains) == 0 {
		problem("firewall.chains", "name at least one chain, like raw/PREROUTING")
	}
	for _, c := range f.Chains {
		if _, err := firewall.ParseHook(c); err != nil {
			problem("firewall.chains", "%v", err)
		}
	}
	if f.MaxBans < 16 || f.MaxBans > 16_000_000 {
		problem("firewall.max_bans", "%d: write 16 to 16000000", f.MaxBans)
	}
	if f.Check < Duration(time.Second) || f.Check > Duration(time.Hour) {
		problem("firewall.check", "%v: write 1s to 1h", f.Check)
	}
}

func hostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		if n, portErr := strconv.ParseUint(port, 10, 16); portErr != nil || n == 0 {
			err = fmt.Errorf("port")
		}
	}
	if err != nil {
		return fmt.Errorf("%.80q is not host:port, like 127.0.0.1:8021 or [::1]:8021", s)
	}
	return nil
}
