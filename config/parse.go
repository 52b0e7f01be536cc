package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"fsban/policy"
)

// Problems are all that is wrong with one file.
type Problems struct {
	File string
	List []Problem
}

// A Problem is one thing that is wrong: where, and what would be right.
type Problem struct {
	Line int    // 0 where the file does not say it at all
	Key  string // dotted
	Text string
}

func (p *Problems) Error() string {
	var b strings.Builder
	for i, q := range p.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.File + ": ")
		if q.Line > 0 {
			fmt.Fprintf(&b, "line %d: ", q.Line)
		}
		if q.Key != "" {
			b.WriteString(q.Key + ": ")
		}
		b.WriteString(q.Text)
	}
	return b.String()
}

// Parse reads a configuration. name is what its errors call the file. The error is a *Problems.
func Parse(name string, data []byte) (Config, error) {
	c := Default()
	p := &parser{lines: make(map[string]int)}
	p.document(data, &c)
	unread := slices.Clone(p.problems) // their settings have the default still
	c.validate(func(key, format string, args ...any) {
		if !slices.ContainsFunc(unread, func(q Problem) bool { return q.Key == key }) {
			p.problem(key, format, args...)
		}
	})
	if len(p.problems) > 0 {
		slices.SortStableFunc(p.problems, func(a, b Problem) int { return a.Line - b.Line })
		return Config{}, &Problems{filepath.Base(name), p.problems}
	}
	return c, nil
}

// A parser puts a YAML document into a Config. It knows the few types that a Config has, and for each key where it was
// said, which a YAML library's own decoding would lose.
type parser struct {
	problems []Problem
	lines    map[string]int
}

func (p *parser) problem(key, format string, args ...any) {
	p.problems = append(p.problems, Problem{p.lines[key], key, fmt.Sprintf(format, args...)})
}

func (p *parser) document(data []byte, c *Config) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return // an empty file changes nothing
	} else if err != nil {
		p.problem("", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		p.problem("", "there is more than one document (---): only one is read")
		return
	}
	p.mapping(doc.Content[0], reflect.ValueOf(c).Elem(), "")
}

// mapping puts the keys of n into the struct v.
func (p *parser) mapping(n *yaml.Node, v reflect.Value, path string) {
	if isNull(n) {
		return // "policy:" with everything under it commented out
	}
	if n.Kind != yaml.MappingNode {
		p.lines[path] = n.Line
		p.problem(path, "write keys and values here, each on a line of its own")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, value := n.Content[i], n.Content[i+1]
		key := strings.TrimPrefix(path+"."+k.Value, ".")
		if _, twice := p.lines[key]; twice {
			p.problems = append(p.problems, Problem{k.Line, key, fmt.Sprintf("said already in line %d", p.lines[key])})
			continue
		}
		p.lines[key] = k.Line
		field, ok := fieldOf(v, k.Value)
		if !ok {
			p.problem(key, "no such setting (here are: %s)", strings.Join(keysOf(v), ", "))
			continue
		}
		if field.Kind() == reflect.Struct {
			p.mapping(value, field, key)
			continue
		}
		p.set(key, field, resolve(value))
	}
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("yaml") == key {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func keysOf(v reflect.Value) []string {
	keys := make([]string, v.NumField())
	for i := range keys {
		keys[i] = v.Type().Field(i).Tag.Get("yaml")
	}
	return keys
}

// set puts the value n into the setting of that key, or says what would be right.
func (p *parser) set(key string, to reflect.Value, n *yaml.Node) {
	switch to := to.Addr().Interface().(type) {
	case *[]netip.Prefix:
		list(p, key, to, n, ParsePrefix)
	case *[]string:
		list(p, key, to, n, func(s string) (string, error) { return s, nil })
	default:
		if n.Kind != yaml.ScalarNode || isNull(n) {
			p.problem(key, "write one value here, or remove the line for the default")
		} else if err := setScalar(to, n.Value); err != nil {
			p.problem(key, "%s", err)
		}
	}
}

func setScalar(to any, text string) (err error) {
	switch to := to.(type) {
	case *string:
		*to = text
	case *Secret:
		*to = Secret(text)
	case *bool:
		*to, err = parseBool(text)
	case *int:
		*to, err = parseInt(text)
	case *Duration:
		var d time.Duration
		d, err = ParseDuration(text)
		*to = Duration(d)
	default:
		panic(fmt.Sprintf("config: no way to read a %T", to))
	}
	return err
}

func parseBool(s string) (bool, error) {
	switch s {
	case "true", "yes", "on":
		return true, nil
	case "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("%.60q: write true or false", s)
}

// parseInt reads a decimal number, 1_000 included. One that begins with 0 means eight to some and ten to others.
func parseInt(s string) (int, error) {
	digits := strings.TrimLeft(s, "+-")
	if len(digits) > 1 && digits[0] == '0' {
		return 0, fmt.Errorf("%.60q begins with 0: write a decimal number without it", s)
	}
	i, err := strconv.ParseInt(s, 0, 0)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%.60q is too large", s)
	} else if err != nil {
		return 0, fmt.Errorf("%.60q is not a whole number", s)
	}
	return int(i), nil
}

// list reads a list of values, or one line of them, and reports each that is wrong where it stands.
func list[T any](p *parser, key string, to *[]T, n *yaml.Node, parse func(string) (T, error)) {
	type text struct {
		line  int
		value string
	}
	var texts []text
	switch {
	case n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			item = resolve(item)
			if item.Kind != yaml.ScalarNode || isNull(item) {
				p.problems = append(p.problems, Problem{item.Line, key, "write plain values in this list"})
				continue
			}
			texts = append(texts, text{item.Line, item.Value})
		}
	case n.Kind == yaml.ScalarNode && !isNull(n):
		for _, word := range strings.Fields(strings.ReplaceAll(n.Value, ",", " ")) {
			texts = append(texts, text{n.Line, word})
		}
	default:
		p.problem(key, "write a list here: [a, b], or [] for none")
		return
	}
	values := make([]T, 0, len(texts))
	for _, t := range texts {
		value, err := parse(t.value)
		if err != nil {
			p.problems = append(p.problems, Problem{t.line, key, err.Error()})
			continue
		}
		values = append(values, value)
	}
	*to = values
}

// ParsePrefix reads an address or a prefix. An IPv4-mapped address is the IPv4 address; bits below the prefix's length
// are dropped, so that fail2ban's 127.0.0.1/8 means what it means there.
func ParsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%.60q is not an address or prefix: write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32", s)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// maxDuration keeps sums of durations far from overflow.
const maxDuration = 100 * 365 * 24 * time.Hour

// ParseDuration reads a duration with a unit: s, m, h, d (24h) or w (7d). "forever", and fail2ban's -1, are
// policy.Forever.
func ParseDuration(s string) (time.Duration, error) {
	if s == "forever" || s == "-1" {
		return policy.Forever, nil
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return 0, fmt.Errorf("%q has no unit: write %ds or %s", s, n, Duration(time.Duration(n)*time.Second))
	}
	days, rest := cutDays(s)
	total := time.Duration(days) * 24 * time.Hour
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || rest[0] == '-' || rest[0] == '+' {
			days = -1
		}
		total += min(d, maxDuration+1)
	}
	if s == "" || days < 0 || total > maxDuration {
		return 0, fmt.Errorf("%.40q is not a duration: write 90s, 10m, 24h or 7d", s)
	}
	return total, nil
}

// cutDays reads the weeks and days that s begins with, and returns the rest of it. It is -1 for too many.
func cutDays(s string) (days int, rest string) {
	for _, unit := range []struct {
		name string
		days int
	}{{"w", 7}, {"d", 1}} {
		number, after, ok := strings.Cut(s, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return -1, ""
		}
		days += int(n) * unit.days
		s = after
	}
	if days > int(maxDuration/(24*time.Hour)) {
		return -1, ""
	}
	return days, s
}
