package fail2ban

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// A Setting is one key of fsban's configuration that is not as by default.
type Setting struct {
	Key      string   // dotted: section.key, or section.section.key
	Value    string   // as YAML
	List     []string // as YAML, instead of Value; without either there are only the comments
	Comments []string
}

// YAML writes the configuration that the plan stands for, with the head and the problems of fail2ban's configuration as
// comments. Options that are not taken follow at the end, each with the reason.
func (p *Plan) YAML(problems []string, head ...string) []byte {
	var b bytes.Buffer
	for _, line := range head {
		b.WriteString(strings.TrimRight("# "+comment(line), " ") + "\n")
	}
	var open []string // the sections that the last line is in
	for _, s := range p.sorted() {
		names := strings.Split(s.Key, ".")
		sections, key := names[:len(names)-1], names[len(names)-1]
		for depth, name := range sections {
			if depth < len(open) && open[depth] == name {
				continue
			}
			if depth == 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "%s%s:\n", indent(depth), name)
			open = append(open[:depth:depth], name)
		}
		open = open[:len(sections)]
		in := indent(len(sections))
		for _, c := range s.Comments {
			fmt.Fprintf(&b, "%s# %s\n", in, comment(c))
		}
		switch {
		case len(s.List) > 0:
			fmt.Fprintf(&b, "%s%s:\n", in, key)
			for _, entry := range s.List {
				fmt.Fprintf(&b, "%s  - %s\n", in, entry)
			}
		case s.Value != "":
			fmt.Fprintf(&b, "%s%s: %s\n", in, key, s.Value)
		}
	}
	p.writeNotTaken(&b, problems)
	return b.Bytes()
}

// writeNotTaken keeps problems, and options that are not taken, as comments.
func (p *Plan) writeNotTaken(b *bytes.Buffer, problems []string) {
	lines := slices.Clone(problems)
	for _, i := range p.Items {
		if i.Verdict != NotTaken {
			continue
		}
		text := "[" + i.Jail + "] "
		if i.Option != "" {
			text += i.Option + " = " + comment(i.Value)
			if i.From != "" {
				text += " (" + i.From + ")"
			}
			text += ": "
		}
		lines = append(lines, text+i.Text)
	}
	if len(lines) > 0 {
		b.WriteString("\n# Not taken from fail2ban, and why:\n")
	}
	for _, line := range lines {
		fmt.Fprintf(b, "#   %s\n", comment(line))
	}
}

func indent(depth int) string { return strings.Repeat("  ", depth) }

// sorted returns the settings section by section, in the order of config.example.yaml.
func (p *Plan) sorted() []Setting {
	order := func(s Setting) int {
		return slices.IndexFunc([]string{"policy.rules.", "policy.escalation.", "policy.", "cti_log."},
			func(in string) bool { return strings.HasPrefix(s.Key, in) })
	}
	list := slices.Clone(p.Settings)
	slices.SortStableFunc(list, func(a, b Setting) int { return order(b) - order(a) })
	return list
}

// maxComment bounds a comment, in bytes.
const maxComment = 800

// comment turns a value into one printable line.
func comment(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxComment {
		s = strings.ToValidUTF8(s[:maxComment], "") + " ..."
	}
	return s
}

// yamlString quotes text that YAML could misread.
func yamlString(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" && s != "" {
		return s
	}
	return strconv.QuoteToASCII(s)
}
