package config

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"fsban/firewall"
	"fsban/policy"
)

// groupName is the form of a unix group's name. Whether there is one of that name is known where it is used.
var groupName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.@-]{0,62}\$?$`)

// A report receives a problem of a key.
type report func(key, format string, args ...any)

// validate reports everything that cannot work, by its dotted key.
func (c *Config) validate(problem report) {
	c.FreeSWITCH.validate(problem)
	c.Policy.validate(problem)
	c.Firewall.validate(problem)
	c.Fleet.validate(problem)
	if p := c.CTILog.Path; p != "" && p != CTILogOff && !filepath.IsAbs(p) {
		problem("cti_log.path", "%q is not an absolute path, nor %q", p, CTILogOff)
	}
	c.CTIEvent.validate(problem)
	c.Calls.validate(problem)
	c.SIP.validate(problem)
	if !filepath.IsAbs(c.State.Directory) {
		problem("state.directory", "%q is not an absolute path", c.State.Directory)
	}
	if c.State.History < Duration(time.Minute) || c.State.History > Duration(maxHistory) {
		problem("state.history", "%v is not between 1m and 3650d (history_max: 0 keeps nothing)", c.State.History)
	}
	if c.State.HistoryMax < 0 || c.State.HistoryMax > maxHistoryMax {
		problem("state.history_max", "%d is not between 0 and %d", c.State.HistoryMax, maxHistoryMax)
	}
	// sun_path holds 107 bytes.
	if !filepath.IsAbs(c.Control.Socket) || len(c.Control.Socket) > 107 {
		problem("control.socket", "%q is not an absolute path of at most 107 bytes", c.Control.Socket)
	}
	for _, g := range []struct{ key, name string }{{"control.readers", c.Control.Readers}, {"control.admins", c.Control.Admins}} {
		if g.name != "" && !groupName.MatchString(g.name) {
			problem(g.key, "%.60q is not the name of a unix group, nor \"\" for nobody but root", g.name)
		}
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

func (f *FreeSWITCH) validate(problem report) {
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

// Bounds of the history of ended bans: each costs about 1 KiB on disk and 50 bytes of memory.
const (
	maxHistory    = 3650 * 24 * time.Hour
	maxHistoryMax = 100_000
)

// maxNames bounds the lists of names; a login's list of events has a bound in FreeSWITCH too.
const maxNames = 100

func (c *CTIEvent) validate(problem report) {
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
	for _, h := range []struct{ key, name string }{{"ip_header", c.IPHeader}, {"user_header", c.UserHeader},
		{"reason_header", c.ReasonHeader}} {
		if h.name != "" && !isName(h.name) || h.name == "" && h.key == "ip_header" {
			problem("cti_event."+h.key, "%.60q is not the name of a header: fsban discover lists those that come", h.name)
		}
	}
}

func (c *Calls) validate(problem report) {
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

func numbersBegin(problem report, key string, list []string) {
	if len(list) > maxNames {
		problem(key, "%d prefixes: write at most %d", len(list), maxNames)
	}
	for _, prefix := range list {
		if prefix == "" || len(prefix) > 32 || strings.Trim(prefix, "0123456789+*#") != "" {
			problem(key, "%.60q is not the beginning of a number, like \"00\" or \"+\"", prefix)
		}
	}
}

// isName reports whether s is one word of a command to the event socket.
func isName(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) &&
		!strings.ContainsAny(s[:1], "+-/")
}

func (f *Firewall) validate(problem report) {
	if f.Backend == "dry-run" {
		problem("firewall.backend", "%q is no backend: write firewall.enforce: false to watch only", f.Backend)
	} else if !slices.Contains(backends, f.Backend) {
		problem("firewall.backend", "%q is none of %s", f.Backend, strings.Join(backends, ", "))
	}
	if len(f.Chains) == 0 {
		problem("firewall.chains", "name at least one chain, like raw/PREROUTING")
	}
	for _, c := range f.Chains {
		if _, err := firewall.ParseHook(c); err != nil {
			problem("firewall.chains", "%v", err)
		}
	}
	for _, p := range f.Ports {
		if _, err := firewall.ParsePorts(p); err != nil {
			problem("firewall.ports", "%v", err)
		}
	}
	if err := f.Options().Validate(); err != nil {
		problem("firewall.target", "%s", strings.TrimPrefix(err.Error(), "firewall.target: "))
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

// within reports a number outside low to high. If off is not empty, 0 is valid too, with the meaning off.
func (problem report) within(key string, n, low, high int, off string) {
	if (n < low || n > high) && (n != 0 || off == "") {
		problem(key, "%d: write %d to %d%s", n, low, high, orZero("0", off))
	}
}

// decimal reports a number that is not from low to high.
func (problem report) decimal(key string, f, low, high float64) {
	if !(f >= low && f <= high) {
		problem(key, "%v: write %v to %v", f, low, high)
	}
}

// lasts reports a duration outside low to high. If off is not empty, 0s is valid too, with the meaning off.
func (problem report) lasts(key string, d Duration, low, high time.Duration, off string) {
	if (d < Duration(low) || d > Duration(high)) && (d != 0 || off == "") {
		problem(key, "%v: write %v to %v%s", d, Duration(low), Duration(high), orZero("0s", off))
	}
}

func orZero(zero, off string) string {
	if off == "" {
		return ""
	}
	return ", or " + zero + " for " + off
}

func (problem report) findTime(key string, d Duration) {
	problem.lasts(key, d, time.Second, maxFindTime, "")
}

func (problem report) banTime(key string, d Duration) {
	if t := time.Duration(d); t != policy.Forever && (t < time.Second || t > maxBanTime) {
		problem(key, "%v: write at least 1s, at most 3650d, or forever", d)
	}
}

// names reports invalid and duplicate names.
func (problem report) names(key string, list []string, what string) {
	if len(list) > maxNames {
		problem(key, "%d names: write at most %d", len(list), maxNames)
	}
	for i, name := range list {
		if !isName(name) {
			problem(key, "%.60q is not the name of %s", name, what)
		} else if slices.Contains(list[:i], name) {
			problem(key, "%q stands here twice", name)
		}
	}
}
