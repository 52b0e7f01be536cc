package house_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

var (
	code = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	link = regexp.MustCompile(`\]\(([^()\s]+)\)`)
)

// Every link within the repository leads to an existing file, directory or heading. External links are not followed.
func TestLinksResolve(t *testing.T) {
	seen := 0
	for _, page := range pages(t) {
		for _, target := range linksOf(t, page) {
			seen++
			path, anchor, _ := strings.Cut(target, "#")
			file := page
			if path != "" {
				file = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: %s: %v", page, target, err)
			} else if anchor != "" && !slices.Contains(anchorsOf(t, file), anchor) {
				t.Errorf("%s: %s: %s has no such heading", page, target, file)
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d links found", seen)
	}
}

func TestEachPageIsLinkedFromTheReadme(t *testing.T) {
	linked := linksOf(t, "README.md")
	for _, page := range pages(t) {
		if filepath.Dir(page) == "docs" && !slices.Contains(linked, filepath.ToSlash(page)) {
			t.Errorf("README.md does not link to %s", page)
		}
	}
}

// docs/design.md justifies each direct dependency.
func TestEachDependencyHasItsReason(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	design, err := os.ReadFile("docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(design), "\n## Dependencies\n")
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1) { // the others are // indirect
		name := filepath.Base(regexp.MustCompile(`/v\d+$`).ReplaceAllString(m[1], ""))
		if !strings.Contains(table, name) {
			t.Errorf("%s: docs/design.md does not justify it", m[1])
		}
	}
}

// pages returns all Markdown files except those of tests and tools.
func pages(t *testing.T) (list []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || slices.Contains([]string{"testdata", "node_modules", "dist"}, d.Name())) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			list = append(list, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// linksOf returns the links of a page to files in the repository.
func linksOf(t *testing.T, page string) (list []string) {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(string(data), ""), -1) {
		if !strings.Contains(m[1], ":") {
			list = append(list, m[1])
		}
	}
	return list
}

// anchorsOf returns the headings of a page as GitHub names them: lower case, a hyphen for each space, without punctuation.
func anchorsOf(t *testing.T, page string) (list []string) {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	fenced := false
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		_, text, heading := strings.Cut(strings.TrimRight(line, "\n"), "# ")
		if fenced || !heading || !strings.HasPrefix(line, "#") {
			continue
		}
		list = append(list, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, text))
	}
	return list
}
