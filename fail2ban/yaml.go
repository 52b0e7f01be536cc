package fail2ban

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// A Setting is one key of fsban's configuration that is not as by default.
type Setting struct {
	Key      string   // dotted: section.key
	Value    string   // as YAML
	List     []string // as YAML, instead of Value; without either there are only the comments
	Comments []string
}

// YAML writes the configuration that the plan stands for. head are lines of comment at its top.
func (p *Plan) YAML(head ...string) []byte {
	var b bytes.Buffer
	for _, line := range head {
		b.WriteString(strings.TrimRight("# "+comment(line), " ") + "\n")
	}
	section := ""
	for _, s := range p.sorted() {
		in, key, _ := strings.Cut(s.Key, ".")
		if in != section {
			fmt.Fprintf(&b, "\n%s:\n", in)
			section = in
		}
		for _, c := range s.Comments {
			fmt.Fprintf(&b, "  # %s\n", comment(c))
		}
		switch {
		case len(s.List) > 0:
			fmt.Fprintf(&b, "  %s:\n    - %s\n", key, strings.Join(s.List, "\n    - "))
		case s.Value != "":
			fmt.Fprintf(&b, "  %s: %s\n", key, s.Value)
		}
	}
	return b.Bytes()
}

// sorted returns the settings section by section, in the order of config.example.yaml.
func (p *Plan) sorted() []Setting {
	var list []Setting
	for _, section := range []string{"cti_log.", "policy."} {
		for _, s := range p.Settings {
			if strings.HasPrefix(s.Key, section) {
				list = append(list, s)
			}
		}
	}
	return list
}

// maxComment bounds a comment, in bytes.
const maxComment = 400

// comment makes one line of whatever a value was.
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

// yamlString quotes what YAML could take for something else.
func yamlString(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" && s != "" {
		return s
	}
	return strconv.QuoteToASCII(s)
}
