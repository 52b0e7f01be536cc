// Package fail2ban reads fail2ban's configuration and database, and says what of it fsban does too.
//
// Read reads the directory as fail2ban 1.0 does, with its order of files, includes and two ways to name a value in another
// one. Translate turns jails into settings of fsban. ReadBans reads who is banned, without fail2ban, Python or
// SQLite. Nothing is ever changed.
package fail2ban

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Configuration is what a directory like /etc/fail2ban says.
type Configuration struct {
	Files    []string // of which the jails are made, in order
	Jails    []*Jail  // in order
	DBFile   string   // of the database; "" for none
	Problems []string // what fail2ban complains of too, and goes on
}

// A Jail is one jail as it is in force.
type Jail struct {
	Name        string
	Enabled     bool
	Filter      string
	FailRegex   []string
	IgnoreRegex []string
	Actions     []Action
	Problems    []string // why parts of it cannot be read; fail2ban has the same trouble
	options     map[string]Option
	broken      map[string]bool // options that are set and cannot be read: one of Problems says why
}

// An Action is what fail2ban does to ban.
type Action struct {
	Name    string
	Options map[string]string
	Text    string
}

// jailOptions are those that mean something to fail2ban. The others are names for use in values.
var jailOptions = []string{
	"maxretry", "findtime", "bantime", "bantime.increment", "bantime.factor", "bantime.formula", "bantime.multipliers",
	"bantime.maxtime", "bantime.rndtime", "bantime.overalljails", "ignorecommand", "ignoreself", "ignoreip", "logpath",
	"maxmatches", "ignorecache", "logtimezone", "logencoding", "action", "port", "protocol",
	"usedns", "failregex", "ignoreregex",
}

// defaultDBFile is where fail2ban keeps its database when it is not told otherwise.
const defaultDBFile = "/var/lib/fail2ban/fail2ban.sqlite3"

// Read reads the configuration in dir, and the jails that are named as if they were enabled. What fail2ban refuses is an
// error.
func Read(dir string, named ...string) (*Configuration, error) {
	s := newStore(dir)
	r, err := s.load("jail")
	if err != nil {
		return nil, fmt.Errorf("fail2ban's configuration: %w", err)
	}
	if len(r.files) == 0 {
		return nil, fmt.Errorf("fail2ban's configuration: neither jail.conf nor jail.local is in %s", dir)
	}
	c := new(Configuration)
	for _, path := range r.files {
		if name, err := filepath.Rel(dir, path); err == nil {
			path = name
		}
		c.Files = append(c.Files, path)
	}
	r.defaults["fail2ban_version"] = Option{Text: "1.0.2"}
	r.defaults["fail2ban_confpath"] = Option{Text: dir}
	for _, name := range r.order {
		if name != "INCLUDES" && !strings.HasPrefix(name, knownPrefix) {
			c.Jails = append(c.Jails, s.jail(r, name, slices.Contains(named, name)))
		}
	}
	if c.DBFile, err = s.dbFile(); err != nil {
		return nil, fmt.Errorf("fail2ban's configuration: %w", err)
	}
	c.Problems = s.problems
	return c, nil
}

// Jail returns the jail of that name, or nil.
func (c *Configuration) Jail(name string) *Jail {
	for _, j := range c.Jails {
		if j.Name == name {
			return j
		}
	}
	return nil
}

func (s *store) dbFile() (string, error) {
	r, err := s.load("fail2ban")
	if err != nil {
		return "", err
	}
	o, err := r.get("Definition", "dbfile", nil)
	if err != nil {
		return defaultDBFile, orNotSet(err)
	}
	if strings.EqualFold(o.Text, "none") || o.Text == ":memory:" {
		return "", nil
	}
	return o.Text, nil
}

// jail reads one jail. What is wrong with it is a problem of it alone. Of one that is not enabled only its filter and log
// are read, unless it is wanted.
func (s *store) jail(r *reader, name string, wanted bool) *Jail {
	j := &Jail{Name: name, options: make(map[string]Option), broken: make(map[string]bool)}
	texts := make(map[string]string) // of the options so far
	take := func(option string) {
		o, err := r.get(name, option, nil)
		switch {
		case err == nil:
			j.options[option], texts[option] = o, o.Text
		case orNotSet(err) != nil:
			j.broken[option] = true
			j.Problems = append(j.Problems, err.Error())
		}
	}
	for _, option := range []string{"enabled", "backend", "filter"} {
		take(option)
	}
	for _, p := range j.Problems {
		s.problems = append(s.problems, fmt.Sprintf("[%s]: %s: fail2ban refuses everything for this", name, p))
	}
	j.Enabled = parseBool(texts["enabled"])
	if !j.Enabled && !wanted {
		take("logpath")
		j.Filter, _, _ = options(texts["filter"])
		j.Problems = nil
		return j
	}
	var own map[string]string
	if texts["filter"] != "" {
		var err error
		if j.Filter, own, err = options(texts["filter"]); err != nil {
			j.Problems = append(j.Problems, "filter: "+err.Error())
		}
	}
	if j.Filter != "" {
		f, err := s.filter(j.Filter, own, texts, true)
		if err != nil {
			j.Problems = append(j.Problems, fmt.Sprintf("filter %s: %v", j.Filter, err))
		} else {
			for k, v := range f.combined {
				if !strings.HasPrefix(k, "known/") {
					r.put(name, "known/"+k, Option{Text: v})
				}
			}
		}
	}
	for _, option := range jailOptions {
		take(option)
	}
	s.regexes(j, own, texts)
	for _, text := range actions(texts["action"]) {
		action, opts, err := options(text)
		if err != nil {
			j.Problems = append(j.Problems, "action: "+err.Error())
			continue
		}
		j.Actions = append(j.Actions, Action{action, opts, text})
	}
	return j
}

// regexes finds what the jail looks for: its own expressions, or its filter's.
func (s *store) regexes(j *Jail, own, texts map[string]string) {
	if j.Filter != "" {
		f, err := s.filter(j.Filter, own, texts, false)
		if err == nil {
			for _, name := range []string{"failregex", "ignoreregex"} {
				if _, set := j.options[name]; !set && f.combined[name] != "" {
					j.options[name] = Option{f.combined[name], f.sections["Definition"][name].From}
				}
			}
		} else if text := fmt.Sprintf("filter %s: %v", j.Filter, err); !slices.Contains(j.Problems, text) {
			j.Problems = append(j.Problems, text)
		}
	}
	for _, x := range []struct {
		name string
		to   *[]string
	}{{"failregex", &j.FailRegex}, {"ignoreregex", &j.IgnoreRegex}} {
		for _, line := range strings.Split(j.options[x.name].Text, "\n") {
			if line != "" {
				*x.to = append(*x.to, line)
			}
		}
	}
}

// Option returns an option in force, and whether any file sets it.
func (j *Jail) Option(name string) (Option, bool) {
	o, ok := j.options[name]
	return o, ok
}

// Seconds returns a duration, or what fail2ban takes where no file says it.
func (j *Jail) Seconds(name string, builtin float64) (float64, Option, error) {
	o, ok := j.options[name]
	if j.broken[name] {
		return 0, o, errBroken
	}
	if !ok {
		return builtin, Option{Text: strconv.FormatFloat(builtin, 'f', -1, 64)}, nil
	}
	v, err := Seconds(o.Text)
	return v, o, err
}

var errBroken = errors.New("it cannot be read")

// What fail2ban takes where no file says it.
const (
	builtinFindTime = 600
	builtinBanTime  = 600
	builtinMaxRetry = 3
)

// MaxRetry returns the number of failures that ban.
func (j *Jail) MaxRetry() (int, Option, error) {
	o, ok := j.options["maxretry"]
	if j.broken["maxretry"] {
		return 0, o, errBroken
	}
	if !ok {
		return builtinMaxRetry, Option{Text: strconv.Itoa(builtinMaxRetry)}, nil
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(strings.TrimFunc(o.Text, isSpace), "_", ""), 10, 0)
	if errors.Is(err, strconv.ErrRange) {
		return int(n), o, nil // the largest, or the smallest
	}
	if err != nil {
		return 0, o, fmt.Errorf("%.60q is not a whole number", o.Text)
	}
	return int(n), o, nil
}

// IgnoreIP returns the words of ignoreip.
func (j *Jail) IgnoreIP() []string {
	return strings.FieldsFunc(j.options["ignoreip"].Text, func(r rune) bool { return r == ',' || isSpace(r) })
}

// LogPaths returns the files, or patterns of files, that the jail reads. None with backend systemd.
func (j *Jail) LogPaths() []string {
	if strings.HasPrefix(j.options["backend"].Text, "systemd") {
		return nil
	}
	var paths []string
	for _, line := range strings.Split(j.options["logpath"].Text, "\n") {
		path := line
		if space := strings.LastIndexByte(line, ' '); space > 0 {
			path = line[:space] // the rest says where in the file to begin
		}
		if path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// parseBool reads what fail2ban takes for true. All else is false.
func parseBool(s string) bool {
	switch strings.ToLower(s) {
	case "1", "on", "true", "yes":
		return true
	}
	return false
}
