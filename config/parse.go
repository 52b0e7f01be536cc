package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"fsban/internal/guess"
	"fsban/policy"
)

// Problems are all that is wrong with one file.
type Problems struct {
	File string
	List []Problem
}

// A Problem is one error in a file, with its place and a valid value.
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

// Parse reads a configuration. name is the file's name in errors. The error is a *Problems.
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
	p.pairs(n, path, func(key, name string, value *yaml.Node) {
		field, ok := fieldOf(v, name)
		if !ok {
			p.problem(key, "no such setting%s", suggestion(name, v))
			return
		}
		if rs, ok := reflect.TypeAssert[*Ruleset](field.Addr()); ok {
			p.ruleset(value, rs, key)
		} else if field.Kind() == reflect.Struct {
			p.mapping(value, field, key)
		} else {
			p.set(key, field, resolve(value))
		}
	})
}

// pairs calls do for each pair of n, with the dotted key and its last part.
func (p *parser) pairs(n *yaml.Node, path string, do func(key, name string, value *yaml.Node)) {
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
		key := strings.TrimPrefix(path+"."+printable(k.Value), ".")
		if _, twice := p.lines[key]; twice {
			p.problems = append(p.problems, Problem{k.Line, key, fmt.Sprintf("said already in line %d", p.lines[key])})
			continue
		}
		p.lines[key] = k.Line
		do(key, k.Value, value)
	}
}

// printable returns a key in a form that is safe in messages: keys are arbitrary text of the file.
func printable(key string) string {
	if len(key) > 60 || key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Sprintf("%.60q", key)
	}
	return key
}

// resolve returns the target of an alias.
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

// suggestion names the settings of v that an unknown key may have meant, or a setting of that name elsewhere, or all of v.
func suggestion(name string, v reflect.Value) string {
	keys := keysOf(v)
	if near := guess.DidYouMean(name, keys); near != "" {
		return ": " + near
	}
	if places := placesOf(name, reflect.TypeFor[Config](), ""); len(places) > 0 {
		return " here: there is " + strings.Join(places, ", ")
	}
	return " (here are: " + strings.Join(keys, ", ") + ")"
}

// placesOf returns the dotted keys of the settings and sections in t that have this name.
func placesOf(name string, t reflect.Type, path string) (places []string) {
	for f := range t.Fields() {
		key := strings.TrimPrefix(path+"."+f.Tag.Get("yaml"), ".")
		if f.Tag.Get("yaml") == name {
			places = append(places, key)
		}
		if f.Type.Kind() == reflect.Struct {
			places = append(places, placesOf(name, f.Type, key)...)
		}
	}
	return places
}

// set assigns the value n to the setting of that key, or reports a problem with a valid value.
func (p *parser) set(key string, to reflect.Value, n *yaml.Node) {
	if to.Kind() == reflect.Pointer {
		value, problems := reflect.New(to.Type().Elem()), len(p.problems)
		if p.set(key, value.Elem(), n); len(p.problems) == problems {
			to.Set(value)
		}
		return
	}
	switch to := to.Addr().Interface().(type) {
	case *IgnoreList:
		list(p, key, (*[]string)(to), n, cleanIgnored)
	case *[]policy.Kind:
		*to = []policy.Kind{} // said, however wrong
		list(p, key, to, n, parseKind)
	case *[]int:
		list(p, key, to, n, parseInt)
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
		for _, word := range words(n.Value) {
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
