package config

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// docs/configuration.md consists of the comments of config.example.yaml, key by key.
func TestReferenceIsTheExample(t *testing.T) {
	const file = "../docs/configuration.md"
	var doc yaml.Node
	if err := yaml.Unmarshal(example(t), &doc); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString(referenceHead)
	referenceOf(&want, doc.Content[0], "")
	if *update {
		if err := os.WriteFile(file, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Errorf("%s is not what config.example.yaml says: go test ./config -run Reference -update", file)
	}
}

const referenceHead = `# Configuration: every setting

The file is /etc/fsban/config.yaml, or the one that ` + "`--config`" + ` names; without a file the defaults hold. A file needs only
the differences from these defaults. ` + "`fsban check`" + ` reports every error with its line and key, ` + "`fsban reload`" + ` applies a change;
settings marked (restart) need ` + "`systemctl restart fsban`" + `. Durations have a unit: 90s, 10m, 24h, 7d. This page is generated from
[config.example.yaml](../config.example.yaml).
`

// referenceOf writes a line for each key, and then a heading for each section: a key after a section would seem to be part of it.
func referenceOf(w *strings.Builder, n *yaml.Node, path string) {
	plain := 0
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if isSection(value) {
			continue
		}
		if plain++; plain == 1 {
			w.WriteString("\n")
		}
		fmt.Fprintf(w, "- `%s: %s`", key.Value, inline(value))
		if slices.Contains(restart, strings.TrimPrefix(path+"."+key.Value, ".")) {
			w.WriteString(" (restart)")
		}
		if comment := uncommented(key.HeadComment); comment != "" {
			fmt.Fprintf(w, "  \n  %s", strings.ReplaceAll(comment, "\n", "\n  "))
		}
		w.WriteString("\n")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !isSection(value) {
			continue
		}
		name := strings.TrimPrefix(path+"."+key.Value, ".")
		fmt.Fprintf(w, "\n%s %s\n", strings.Repeat("#", 2+strings.Count(name, ".")), name)
		if comment := uncommented(key.HeadComment); comment != "" {
			fmt.Fprintf(w, "\n%s\n", comment)
		}
		referenceOf(w, value, name)
	}
}

func isSection(value *yaml.Node) bool {
	return value.Kind == yaml.MappingNode && len(value.Content) > 0
}

// uncommented is a comment without its marks. The file's own head, which stands before an empty line, is left out.
func uncommented(comment string) string {
	if at := strings.LastIndex(comment, "\n\n"); at >= 0 {
		comment = comment[at+2:]
	}
	lines := strings.Split(comment, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(strings.TrimPrefix(line, "#"), " ")
	}
	return strings.Join(lines, "\n")
}

// inline is a value as the file has it, on one line.
func inline(value *yaml.Node) string {
	out, err := yaml.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}
