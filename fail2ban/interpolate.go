package fail2ban

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
)

// Bounds of replacing references: Python's depth, and ours for the growth of a few lines.
const (
	maxDepth = 10
	maxText  = 1 << 20 // bytes of one value
	maxWork  = 8 << 20 // bytes to look at for it
)

var (
	errNoSection = errors.New("no such section")
	errNoOption  = errors.New("no such option")
)

// get returns an option of a section, or of [DEFAULT], with every reference in it replaced. vars come before both. If a
// reference cannot be replaced, it stays in the text as written, and get returns the text with the first error.
func (r *reader) get(name, option string, vars map[string]string) (Option, error) {
	sect, ok := r.sections[name]
	if !ok && name != defaultSection {
		return Option{}, errNoSection
	}
	s := scope{files: r, name: name, section: sect, over: make(map[string]string, len(vars))}
	for k, v := range vars {
		s.over[strings.ToLower(k)] = v
	}
	o, ok := s.lookup(strings.ToLower(option))
	if !ok {
		return Option{}, errNoOption
	}
	e := expansion{}
	if err := e.expand(o.Text, s, 1); err != nil {
		e.fail(o.Text, err)
	}
	o.Text = string(e.out)
	if e.err != nil {
		return o, fmt.Errorf("%s (%v): %w", option, o.From, e.err)
	}
	return o, nil
}

// A scope resolves the names in one value: overrides, its section, [DEFAULT].
type scope struct {
	files   *reader
	name    string
	section section
	over    map[string]string
}

func (s *scope) lookup(option string) (Option, bool) {
	if v, ok := s.over[option]; ok {
		return Option{Text: v}, true
	}
	if o, ok := s.section[option]; ok {
		return o, true
	}
	o, ok := s.files.defaults[option]
	return o, ok
}

// An expansion replaces %(name)s in one value, as Python's configparser does.
type expansion struct {
	out  []byte
	work int
	err  error // the first reference that could not be replaced
}

// fail keeps text as written and remembers the first error.
func (e *expansion) fail(text string, err error) {
	e.out = append(e.out, text[:min(len(text), maxText)]...)
	e.err = cmp.Or(e.err, err)
}

// expand appends the expanded text. An error means that nothing was appended.
func (e *expansion) expand(text string, s scope, depth int) error {
	if depth > maxDepth {
		return errors.New("values refer to each other more than 10 deep, or in a circle")
	}
	if e.work += len(text) + 1000; e.work > maxWork {
		return errors.New("too much to replace")
	}
	s.over = maps.Clone(s.over)
	s.over["__name__"] = s.name
	s.addSectionOptions(text)
	start := len(e.out)
	for {
		before, rest, found := strings.Cut(text, "%")
		if e.out = append(e.out, before...); len(e.out) > maxText {
			e.out = e.out[:start]
			return errors.New("the value grows too large")
		}
		switch {
		case !found:
			return nil
		case strings.HasPrefix(rest, "%"):
			e.out = append(e.out, '%')
			text = rest[1:]
			continue
		}
		m := reference.FindStringSubmatch(rest)
		if m == nil {
			e.fail("%", fmt.Errorf("%.40q: write %%%% for a percent sign", "%"+rest))
			text = rest
			continue
		}
		text = rest[len(m[0]):]
		o, ok := s.lookup(strings.ToLower(m[1]))
		if !ok {
			e.fail("%"+m[0], fmt.Errorf("%%(%.60s)s is set nowhere", m[1]))
		} else if err := e.expand(o.Text, s, depth+1); err != nil {
			e.fail("%"+m[0], err)
		}
	}
}

var (
	reference        = regexp.MustCompile(`^\(([^)]+)\)s`)
	sectionReference = regexp.MustCompile(`%\((([\p{L}\p{N}_-]+)/([^)]+))\)s`)
)

// addSectionOptions puts the options of other sections that text names, like %(sshd/port)s, over the others: known/NAME is
// the value of NAME before a later file, or the filter's; default/NAME is that of [DEFAULT].
func (s *scope) addSectionOptions(text string) {
	for _, m := range sectionReference.FindAllStringSubmatch(text, -1) {
		whole, name, option := m[1], m[2], m[3]
		if _, there := s.lookup(whole); there {
			continue
		}
		from := s.files.defaults
		switch lower := strings.ToLower(name); {
		case lower == "known":
			from = s.files.sections[knownPrefix+s.name]
		case lower != "default":
			var ok bool
			if from, ok = s.files.sections[name]; !ok {
				continue
			}
		}
		o, ok := from[option]
		if !ok {
			o, ok = s.files.defaults[option]
		}
		if ok {
			s.over[whole] = o.Text
		}
	}
}
