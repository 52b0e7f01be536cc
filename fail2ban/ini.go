package fail2ban

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An Origin is where an option stands.
type Origin struct {
	File    string // relative to the configuration's directory where it is inside; "" for fail2ban's own default
	Line    int
	Section string
}

func (o Origin) String() string {
	if o.File == "" {
		return "built into fail2ban"
	}
	return fmt.Sprintf("[%s] in %s, line %d", o.Section, o.File, o.Line)
}

// An Option is a value, and where it comes from.
type Option struct {
	Text string
	From Origin
}

// A section holds options by their name, which is in lower case.
type section map[string]Option

// An ini is one file, before anything in its values is replaced.
type ini struct {
	defaults section
	sections map[string]section
	order    []string // of the sections
}

// defaultSection is the section that holds for all others.
const defaultSection = "DEFAULT"

// errNotText is the error of a file that is not UTF-8. fail2ban goes on without such a file.
var errNotText = errors.New("is not UTF-8 text")

// parseINI reads a file as Python's configparser does, with fail2ban's settings for it: ";" begins a comment also behind
// a value, an indented line continues one, and a repeated option in one file is an error.
func parseINI(name string, data []byte) (*ini, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s %w", name, errNotText)
	}
	p := iniParser{name: name, file: &ini{defaults: section{}, sections: make(map[string]section)}}
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(data))
	for number, line := range strings.Split(text, "\n") {
		if err := p.line(number+1, line); err != nil {
			return nil, err
		}
	}
	p.end()
	return p.file, nil
}

type iniParser struct {
	name    string
	file    *ini
	section string
	into    section // nil before the first section
	option  string  // the one that a line may continue, or ""
	value   []string
	at      int // line
	indent  int
}

func (p *iniParser) line(number int, line string) error {
	text, comment := cutComment(line)
	text = strings.TrimFunc(text, isSpace)
	if text == "" {
		if !comment && p.option != "" {
			p.value = append(p.value, "")
		}
		return nil
	}
	indent := indentOf(line)
	if p.option != "" && indent > p.indent {
		p.value = append(p.value, text)
		return nil
	}
	p.end()
	p.indent = indent
	if end := strings.LastIndexByte(text, ']'); text[0] == '[' && end > 1 {
		return p.header(number, text[1:end])
	}
	if p.into == nil {
		return fmt.Errorf("%s: line %d: %.60q stands before any [section]", p.name, number, text)
	}
	sep := strings.IndexAny(text, "=:")
	if sep <= 0 {
		return fmt.Errorf("%s: line %d: %.60q is neither a [section] nor an option = value", p.name, number, text)
	}
	p.option = strings.ToLower(strings.TrimRightFunc(text[:sep], isSpace))
	p.value, p.at = []string{strings.TrimLeftFunc(text[sep+1:], isSpace)}, number
	if _, twice := p.into[p.option]; twice {
		return fmt.Errorf("%s: line %d: %.60q is in [%s] already", p.name, number, p.option, p.section)
	}
	return nil
}

func (p *iniParser) header(number int, name string) error {
	p.section = name
	if name == defaultSection {
		p.into = p.file.defaults
		return nil
	}
	if _, twice := p.file.sections[name]; twice {
		return fmt.Errorf("%s: line %d: [%.60s] is there already", p.name, number, name)
	}
	p.into = section{}
	p.file.sections[name] = p.into
	p.file.order = append(p.file.order, name)
	return nil
}

// end puts the option that was being read into its section.
func (p *iniParser) end() {
	if p.option != "" {
		text := strings.TrimRightFunc(strings.Join(p.value, "\n"), isSpace)
		p.into[p.option] = Option{text, Origin{p.name, p.at, p.section}}
		p.option, p.value = "", nil
	}
}

// cutComment returns line without its comment, and whether it has one.
func cutComment(line string) (string, bool) {
	if t := strings.TrimFunc(line, isSpace); t != "" && (t[0] == '#' || t[0] == ';') {
		return "", true
	}
	for i := 0; i < len(line); i++ {
		if before, _ := utf8.DecodeLastRuneInString(line[:i]); line[i] == ';' && (i == 0 || isSpace(before)) {
			return line[:i], true
		}
	}
	return line, false
}

func indentOf(line string) int {
	n := 0
	for _, r := range line {
		if !isSpace(r) {
			break
		}
		n++
	}
	return n
}

// isSpace reports whether Python takes r for a space.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
