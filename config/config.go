// Package config holds fsban's configuration: schema, defaults, parsing, validation and reload.
//
// Parse reports every problem at once, each with its line and dotted key, and never half applies a file. A file
// needs only the settings that differ from Default.
package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fsban/detect"
	"fsban/firewall"
	"fsban/internal/regular"
	"fsban/policy"
)

// Path is the default place of the configuration file.
const Path = "/etc/fsban/config.yaml"

// These hold the passwords of the event socket and of the fleet's Redis where neither file nor configuration should.
const (
	PasswordEnv      = "FSBAN_FREESWITCH_PASSWORD"
	FleetPasswordEnv = "FSBAN_FLEET_PASSWORD"
)

// A Config is a whole configuration. The yaml tags are the keys of the file; config.example.yaml explains each.
type Config struct {
	FreeSWITCH FreeSWITCH `yaml:"freeswitch"`
	CTILog     CTILog     `yaml:"cti_log"`
	CTIEvent   CTIEvent   `yaml:"cti_event"`
	Calls      Calls      `yaml:"calls"`
	SIP        SIP        `yaml:"sip"`
	Policy     Policy     `yaml:"policy"`
	Firewall   Firewall   `yaml:"firewall"`
	Fleet      Fleet      `yaml:"fleet"`
	State      State      `yaml:"state"`
	Control    Control    `yaml:"control"`
	HTTP       HTTP       `yaml:"http"`
	Log        Log        `yaml:"log"`
}

// FreeSWITCH is the address of the event socket and the login.
type FreeSWITCH struct {
	Address      string `yaml:"address"`
	User         string `yaml:"user"`
	Password     Secret `yaml:"password"`
	PasswordFile string `yaml:"password_file"`
	Log          bool   `yaml:"log"`
}

// CTILog is the location of mod_cti's log.
type CTILog struct {
	Path string `yaml:"path"`
}

// CTILogOff as cti_log.path is no log at all.
const CTILogOff = "off"

// ctiLogPlaces are the places of the log in installations of mod_cti.
var ctiLogPlaces = []string{"/ddt/fs/log/cti_fail2ban.log", "/fs/var/log/freeswitch/cti_fail2ban.log"}

// File returns the file to follow, or "" for none: the configured one, or the first of the known places with an existing
// directory.
func (c *CTILog) File() string {
	switch c.Path {
	case CTILogOff:
		return ""
	case "":
		for _, place := range ctiLogPlaces {
			if info, err := os.Stat(filepath.Dir(place)); err == nil && info.IsDir() {
				return place
			}
		}
		return ""
	}
	return c.Path
}

// CTIEvent names the subclasses and headers of mod_cti's events.
type CTIEvent struct {
	Subclasses   []string `yaml:"subclasses"`
	IPHeader     string   `yaml:"ip_header"`
	UserHeader   string   `yaml:"user_header"`
	ReasonHeader string   `yaml:"reason_header"`
}

// Calls selects the unauthenticated calls that count.
type Calls struct {
	Contexts    []string `yaml:"contexts"`
	DenyPrefix  []string `yaml:"deny_prefix"`
	AllowPrefix []string `yaml:"allow_prefix"`
	MaxLength   int      `yaml:"destination_number_max_len"`
}

// UsesModCTI reports whether a source of mod_cti is configured.
func (c *Config) UsesModCTI() bool { return c.CTILog.File() != "" || len(c.CTIEvent.Subclasses) > 0 }

// Detect returns the options of a detect.Detector.
func (c *Config) Detect() detect.Options {
	o := detect.Options{Gateways: c.Policy.IgnoreGateways, Calls: detect.Calls{
		Contexts: c.Calls.Contexts, DenyPrefix: c.Calls.DenyPrefix, AllowPrefix: c.Calls.AllowPrefix, MaxLength: c.Calls.MaxLength,
	}}
	for _, s := range c.CTIEvent.Subclasses {
		o.CTIEvents = append(o.CTIEvents, detect.CTIEvent{Subclass: s, Addr: c.CTIEvent.IPHeader, User: c.CTIEvent.UserHeader,
			Reason: c.CTIEvent.ReasonHeader})
	}
	return o
}

// Firewall configures the enforcement of bans in the kernel.
type Firewall struct {
	Enforce bool     `yaml:"enforce"`
	Backend string   `yaml:"backend"`
	Chains  []string `yaml:"chains"`
	Ports   []string `yaml:"ports"`
	Target  string   `yaml:"target"`
	MaxBans int      `yaml:"max_bans"`
	Check   Duration `yaml:"check"`
}

// State says where bans are kept over a restart, and how long those that have ended.
type State struct {
	Directory  string   `yaml:"directory"`
	History    Duration `yaml:"history"`
	HistoryMax int      `yaml:"history_max"`
}

// Control is the path of the control socket, and the groups that may use it in addition to root.
type Control struct {
	Socket  string `yaml:"socket"`
	Readers string `yaml:"readers"` // a unix group; empty: nobody
	Admins  string `yaml:"admins"`
}

// HTTP is the address of metrics and health checks.
type HTTP struct {
	Listen        string `yaml:"listen"`
	WebConfigFile string `yaml:"web_config_file"`
}

// Log is level and format of the log, which goes to standard error.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Backends of firewall.backend.
const (
	BackendAuto     = firewall.Auto
	BackendIPTables = firewall.IPTables
	BackendNFTables = firewall.NFTables
	BackendRules    = firewall.Rules
)

var backends = []string{BackendAuto, BackendIPTables, BackendNFTables, BackendRules}

// A Duration is a time.Duration that is written with a unit, days and weeks included, or as "forever".
type Duration time.Duration

func (d Duration) String() string {
	switch t := time.Duration(d); {
	case t == policy.Forever:
		return "forever"
	case t >= 24*time.Hour && t%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", t/(24*time.Hour))
	default:
		s := t.String()
		for _, zero := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(s, zero) {
				s = s[:len(s)-2]
			}
		}
		return s
	}
}

// A Secret is text that is never printed.
type Secret string

const hidden = "(hidden)"

func (Secret) String() string { return hidden }

// Format hides the secret from every verb, also those that do not fit it.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// MarshalText keeps the secret out of every encoding.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue keeps the secret out of logs.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// Default returns the configuration that holds where a file says nothing: the jail of the reference deployment (maxretry
// 5, findtime 300, bantime 86400), against a FreeSWITCH with its own defaults.
func Default() Config {
	return Config{
		FreeSWITCH: FreeSWITCH{Address: "127.0.0.1:8021", Password: "ClueCon", Log: true},
		CTIEvent:   CTIEvent{Subclasses: []string{}, IPHeader: "ip", UserHeader: "user", ReasonHeader: "reason"},
		Calls:      Calls{Contexts: []string{"public"}, DenyPrefix: []string{}, AllowPrefix: []string{}},
		SIP:        SIP{Tap: TapAuto, Ports: []string{}, HEP: HEP{Listen: "127.0.0.1:9060", From: []string{}}},
		Policy:     defaultPolicy(),
		Firewall: Firewall{Enforce: true, Backend: BackendAuto, Chains: []string{"raw/PREROUTING"}, Ports: []string{},
			Target:  string(firewall.Drop),
			MaxBans: 1_000_000, Check: Duration(10 * time.Second)},
		Fleet:   Fleet{Name: "fsban", Share: ShareBans},
		State:   State{Directory: "/var/lib/fsban", History: Duration(30 * 24 * time.Hour), HistoryMax: 10_000},
		Control: Control{Socket: "/run/fsban/fsban.sock"},
		HTTP:    HTTP{Listen: "127.0.0.1:9738"},
		Log:     Log{Level: "info", Format: "text"},
	}
}

// Load reads the file at path, or Default where path is Path and there is no such file, and resolves the passwords: the
// environment before password_file before password.
func Load(path string) (Config, error) {
	data, err := readConfig(path)
	switch {
	case err == nil:
	case os.IsNotExist(err) && path == Path:
		data = nil
	default:
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(path, data)
	if err != nil {
		return Config{}, err
	}
	err = errors.Join(
		resolvePassword(&c.FreeSWITCH.Password, PasswordEnv, "freeswitch.password_file", c.FreeSWITCH.PasswordFile),
		resolvePassword(&c.Fleet.Password, FleetPasswordEnv, "fleet.password_file", c.Fleet.PasswordFile),
	)
	if err != nil {
		return Config{}, err
	}
	return c, nil
}

// Socket returns control.socket of the file at path, even if other settings there are invalid, or the default if the file does not
// exist or may not be read. The error of a file of which control.socket cannot be read is a *Problems; the default comes with it.
func Socket(path string) (string, error) {
	c := Default()
	data, err := readConfig(path)
	if err != nil {
		return c.Control.Socket, nil //nolint:nilerr // see above
	}
	p := &parser{lines: make(map[string]int)}
	p.document(data, &c)
	p.problems = slices.DeleteFunc(p.problems, func(q Problem) bool {
		return q.Key != "" && q.Key != "control" && q.Key != "control.socket"
	})
	if len(p.problems) > 0 {
		return Default().Control.Socket, &Problems{filepath.Base(path), p.problems}
	}
	return c.Control.Socket, nil
}

// resolvePassword puts into to the password that stands in the environment under env, or else in the file that the setting
// key names.
func resolvePassword(to *Secret, env, key, file string) error {
	text, from := os.Getenv(env), env
	if text == "" {
		if file == "" {
			return nil
		}
		data, err := regular.Read(file, maxSecret)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if text, from = strings.TrimRight(string(data), "\r\n"), key; text == "" {
			return fmt.Errorf("%s: %s is empty", key, file)
		}
	}
	if strings.ContainsAny(text, "\r\n") {
		return fmt.Errorf("%s: the password has more than one line", from)
	}
	*to = Secret(text)
	return nil
}

// Options returns the options of a firewall backend. Parse has validated them.
func (f *Firewall) Options() firewall.Options {
	o := firewall.Options{Target: firewall.Target(f.Target), MaxBans: f.MaxBans}
	for _, c := range f.Chains {
		if h, err := firewall.ParseHook(c); err == nil {
			o.Hooks = append(o.Hooks, h)
		}
	}
	for _, p := range f.Ports {
		if ports, err := firewall.ParsePorts(p); err == nil {
			o.Ports = append(o.Ports, ports)
		}
	}
	return o
}

// SlogLevel returns log.level, which Parse has checked.
func (l *Log) SlogLevel() slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level))
	return level
}
