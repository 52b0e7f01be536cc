package config

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

func TestExampleIsTheDefault(t *testing.T) {
	data := example(t)
	got, err := Parse("config.example.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the example says\n%+v, the defaults are\n%+v", got, want)
	}
	// It says so itself: nothing of this comes from the defaults.
	p, alone := &parser{lines: make(map[string]int)}, Config{}
	if p.document(data, &alone); len(p.problems) > 0 || !reflect.DeepEqual(alone, want) {
		t.Errorf("without the defaults the example says\n%+v, %v, want\n%+v", alone, p.problems, want)
	}
	// The example has every key, also those with a zero default, in the order of Config.
	said, known := keysSaid(p), keysKnown(reflect.ValueOf(want), "")
	for _, key := range known {
		if !slices.Contains(said, key) {
			t.Errorf("%s is not in the example", key)
		}
	}
	if !slices.Equal(said, known) {
		t.Errorf("the example has the keys\n%v, in order of Config they are\n%v", said, known)
	}
}

// keysSaid lists the dotted keys of a file, by line.
func keysSaid(p *parser) []string {
	keys := make([]string, 0, len(p.lines))
	for k := range p.lines {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return p.lines[a] - p.lines[b] })
	return keys
}

// keysKnown lists the dotted keys of a struct. Of the rules the first has all that it sets, the others only what differs
// from a new rule.
func keysKnown(v reflect.Value, path string) []string {
	var keys []string
	for i := range v.NumField() {
		f := v.Field(i)
		key := strings.TrimPrefix(path+"."+v.Type().Field(i).Tag.Get("yaml"), ".")
		if f.Kind() == reflect.Pointer && f.IsNil() {
			continue
		}
		keys = append(keys, key)
		if rules, ok := reflect.TypeAssert[Ruleset](f); ok {
			for n, r := range rules {
				keys = append(keys, key+"."+r.Name)
				keys = append(keys, keysOfRule(r, key+"."+r.Name, n == 0)...)
			}
		} else if f.Kind() == reflect.Struct {
			keys = append(keys, keysKnown(f, key)...)
		}
	}
	return keys
}

func keysOfRule(r Rule, path string, all bool) []string {
	v, fresh := reflect.ValueOf(r.RuleSettings), reflect.ValueOf(newRule(r.Name).RuleSettings)
	keys := keysKnown(v, path)
	if all {
		return keys
	}
	return slices.DeleteFunc(keys, func(key string) bool {
		name := key[len(path)+1:]
		mine, _ := fieldOf(v, name)
		its, _ := fieldOf(fresh, name)
		return reflect.DeepEqual(mine.Interface(), its.Interface())
	})
}

// Each key has a comment above it; of the rules' keys, where the key comes first.
func TestExampleExplainsEachKey(t *testing.T) {
	const rules = "policy.rules."
	explained := make(map[string]bool) // keys of rules
	var explain func(n *yaml.Node, path string)
	explain = func(n *yaml.Node, path string) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			key := strings.TrimPrefix(path+"."+k.Value, ".")
			comment := strings.TrimSpace(strings.TrimLeft(k.HeadComment, "#"))
			_, of, _ := strings.Cut(strings.TrimPrefix(key, rules), ".")
			ofRule := strings.HasPrefix(key, rules) && of != ""
			before := ofRule && explained[of]
			if len(comment) < 10 && !before {
				t.Errorf("%s has no comment above it", key)
			}
			if ofRule {
				explained[of] = true
			}
			if v.Kind == yaml.MappingNode {
				explain(v, key)
			}
		}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(example(t), &doc); err != nil {
		t.Fatal(err)
	}
	explain(doc.Content[0], "")
	for _, key := range keysOf(reflect.ValueOf(RuleSettings{})) {
		if !explained[key] {
			t.Errorf("no rule of the example explains %s", key)
		}
	}
}

func example(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}
