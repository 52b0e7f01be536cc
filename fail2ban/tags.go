package fail2ban

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// maxReplaced is how often one tag may be replaced within one value.
const maxReplaced = 25

var tag = regexp.MustCompile(`<([^ <>]+)>`)

// replaceTags replaces <name> in values by the value of that name, or by the result of more. Unknown names, like <HOST>, stay.
func replaceTags(values map[string]string, ignore map[string]bool, more func(string) (string, bool, error)) (map[string]string, error) {
	values = maps.Clone(values)
	counts := make(map[string]map[string]int)
	for again := true; again; {
		again = false
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if ignore[name] {
				continue
			}
			if counts[name] == nil {
				counts[name] = make(map[string]int)
			}
			t := tagged{name: name, values: values, ignore: ignore, more: more, count: counts[name]}
			value, err := t.replace(values[name])
			if err != nil {
				return nil, err
			}
			again = again || value != values[name] && tag.MatchString(value)
			values[name] = value
		}
	}
	return values, nil
}

// tagged is one value with tags.
type tagged struct {
	name   string
	values map[string]string
	ignore map[string]bool
	more   func(string) (string, bool, error)
	count  map[string]int
}

func (t *tagged) replace(value string) (string, error) {
	for at := 0; ; {
		m := tag.FindStringSubmatchIndex(value[at:])
		if m == nil {
			return value, nil
		}
		name := value[at+m[2] : at+m[3]]
		if t.ignore[name] {
			at += m[1]
			continue
		}
		if name == t.name || t.count[name] >= maxReplaced {
			return "", fmt.Errorf("<%.60s> in %s refers to itself", name, t.name)
		}
		by, known := t.values[name]
		if !known {
			var err error
			if by, known, err = t.more(name); err != nil {
				return "", err
			}
		}
		if !known {
			at += m[1]
			continue
		}
		at += m[0]
		if value = strings.ReplaceAll(value, "<"+name+">", by); len(value) > maxText {
			return "", fmt.Errorf("%s grows too large", t.name)
		}
		t.count[name]++
	}
}

var errSyntax = errors.New("is not written as NAME[OPTION=VALUE, ...]")

// options reads NAME[OPTION=VALUE, OPTION="VALUE"][...], as filters and actions are written.
func options(text string) (name string, opts map[string]string, err error) {
	text = strings.TrimFunc(text, isSpace)
	opts = make(map[string]string)
	name, rest, bracket := strings.Cut(text, "[")
	name = strings.TrimFunc(name, isSpace)
	if name == "" || bracket && !strings.HasSuffix(rest, "]") {
		return "", nil, fmt.Errorf("%.60q %w", text, errSyntax)
	}
	rest = strings.TrimSuffix(rest, "]")
	for strings.TrimFunc(rest, isSpace) != "" {
		m := option.FindStringSubmatch(rest)
		if m == nil {
			return "", nil, fmt.Errorf("%.60q %w", text, errSyntax)
		}
		opts[m[1]] = strings.TrimFunc(m[2]+m[3]+m[4], isSpace)
		rest = rest[len(m[0]):]
	}
	return name, opts, nil
}

var (
	option = regexp.MustCompile(`^[\s,]*([\w.-]+)=(?:"([^"]*)"|'([^']*)'|([^,\]]*))(?:,|\]\s*\[|$)`)
	action = regexp.MustCompile(`[^\[\s]+(?:\s*\[(?:[^\]"']|"[^"]*"|'[^']*')*\])*`)
)

// actions splits a list of actions.
func actions(text string) []string { return action.FindAllString(text, -1) }
