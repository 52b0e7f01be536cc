// Package fail2ban translates fail2ban's configuration into fsban's, and takes over its bans.
//
// Read reads the directory as fail2ban 1.0 does, with its order of files, includes and two ways to name a value in another
// one. Translate turns jails into settings of fsban. AskBans asks the running fail2ban, ParseBans reads a saved answer. Nothing
// of fail2ban's is changed.
package fail2ban

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Configuration is the content of a directory like /etc/fail2ban.
type Configuration struct {
	Files    []string // of which the jails are made, in order
	Jails    []*Jail  // in order
	Problems []string // complaints of fail2ban's that do not stop it
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
	broken      map[string]brokenOption
}

// A brokenOption is set to a value with references that cannot be replaced. fail2ban refuses it.
type brokenOption struct {
	Option // with these references as written
	err    error
}

// partial lists options read word by word or line by line, so that the readable parts of a broken value count.
var partial = []string{"ignoreip", "logpath"}

// An Action is an action of a jail.
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

// Read reads the configuration in dir, and the jails that are named as if they were enabled. A configuration that fail2ban refuses is an
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

// jail reads one jail. Its errors are problems of it alone. Of one that is not enabled only its filter and log
// are read, unless it is wanted.
func (s *store) jail(r *reader, name string, wanted bool) *Jail {
	j := &Jail{Name: name, options: make(map[string]Option), broken: make(map[string]brokenOption)}
	texts := make(map[string]string) // of the options so far
	take := func(option string) {
		o, err := r.get(name, option, nil)
		switch {
		case err == nil:
			j.options[option], texts[option] = o, o.Text
		case orNotSet(err) != nil:
			j.broken[option] = brokenOption{o, err}
			if slices.Contains(partial, option) {
				j.options[option], texts[option] = o, o.Text
			}
		}
	}
	for _, option := range []string{"enabled", "backend", "filter"} {
		take(option)
	}
	for _, option := range slices.Sorted(maps.Keys(j.broken)) {
		s.problems = append(s.problems, fmt.Sprintf("[%s]: %v: fail2ban refuses everything for this", name, j.broken[option].err))
	}
	j.Enabled = parseBool(texts["enabled"])
	if !j.Enabled && !wanted {
		take("logpath")
		j.Filter, _, _ = options(texts["filter"])
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

// regexes finds the expressions of the jail: its own, or its filter's.
func (s *store) regexes(j *Jail, own, texts map[string]string) {
	if j.Filter != "" {
		f, err := s.filter(j.Filter, own, texts, false)
		if err == nil {
			for _, name := range []string{"failregex", "ignoreregex"} {
				if _, set := j.options[name]; !set && f.combined[name] != "" {
					j.options[name] = Option{f.combined[name], f.files.sections["Definition"][name].From}
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
		for line := range strings.SplitSeq(j.options[x.name].Text, "\n") {
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

// Seconds returns a duration, or fail2ban's default if no file sets it.
func (j *Jail) Seconds(name string, builtin float64) (float64, Option, error) {
	o, ok := j.options[name]
	if b, broken := j.broken[name]; broken {
		return 0, b.Option, errors.Unwrap(b.err)
	}
	if !ok {
		return builtin, Option{Text: strconv.FormatFloat(builtin, 'f', -1, 64)}, nil
	}
	v, err := Seconds(o.Text)
	return v, o, err
}

// fail2ban's defaults for options that no file sets.
const (
	builtinFindTime = 600
	builtinBanTime  = 600
	builtinMaxRetry = 3
)

// MaxRetry returns the number of failures that ban.
func (j *Jail) MaxRetry() (int, Option, error) {
	o, ok := j.options["maxretry"]
	if b, broken := j.broken["maxretry"]; broken {
		return 0, b.Option, errors.Unwrap(b.err)
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

// An ignoreWord is a word of ignoreip.
type ignoreWord struct {
	text string
	hash bool // it follows a # in its line, which is no comment for fail2ban
}

func (j *Jail) ignoreWords() (words []ignoreWord) {
	for line := range strings.Lines(j.options["ignoreip"].Text) {
		hash := false
		for _, word := range strings.FieldsFunc(line, func(r rune) bool { return r == ',' || isSpace(r) }) {
			hash = hash || strings.HasPrefix(word, "#")
			words = append(words, ignoreWord{word, hash})
		}
	}
	return words
}

// LogPaths returns the files, or patterns of files, that the jail reads. None with backend systemd.
func (j *Jail) LogPaths() []string {
	if strings.HasPrefix(j.options["backend"].Text, "systemd") {
		return nil
	}
	var paths []string
	for line := range strings.SplitSeq(j.options["logpath"].Text, "\n") {
		path := line
		if space := strings.LastIndexByte(line, ' '); space > 0 {
			path = line[:space] // the rest is the position in the file to begin at
		}
		if path != "" {
			paths = append(paths, path)
		}
	}
	return paths
}

// parseBool reports whether fail2ban takes s for true.
func parseBool(s string) bool {
	switch strings.ToLower(s) {
	case "1", "on", "true", "yes":
		return true
	}
	return false
}
