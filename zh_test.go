package house_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

var (
	fence   = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```")
	span    = regexp.MustCompile("`([^`]+)`")
	heading = regexp.MustCompile(`(?m)^(#+) .*`)
	figure  = regexp.MustCompile(`\b\d(?:[\d.,:/-]*\d)?`)
	name    = regexp.MustCompile(`Fsban[A-Z]\w+|[A-Z][A-Z_]{4,}|\b[a-z]+_[a-z_]+|/[a-z][\w.-]*/[\w./-]*\w`) // alerts, capabilities and states, fields, paths
	number  = []string{"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"}
)

// chinese maps each English page to its Chinese edition.
func chinese(t *testing.T) map[string]string {
	t.Helper()
	editions := map[string]string{"README.md": "README.zh-CN.md"}
	pages, err := filepath.Glob("docs/zh-CN/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		editions[filepath.Join("docs", filepath.Base(page))] = page
	}
	return editions
}

// Both editions of a page have the same headings in number and level, and under each of them the same commands, settings,
// metric names, paths, figures (exit codes among them) and links. A link leads to the Chinese edition of a page if there is one.
func TestChineseEditionsAreEqual(t *testing.T) {
	editions := chinese(t)
	if len(editions) < 5 {
		t.Errorf("only %d Chinese editions found", len(editions))
	}
	for page, edition := range editions {
		for _, d := range pageDifferences(t, editions, page, read(t, page), read(t, edition)) {
			t.Errorf("%s: %s", edition, d)
		}
	}
}

func TestChineseEditionWithoutACommandIsFound(t *testing.T) {
	commands := 0
	editions := chinese(t)
	for page, edition := range editions {
		from, to := sections(read(t, page)), sections(read(t, edition))
		for i := range min(len(from), len(to)) {
			for command := range spans(from[i]) {
				if !strings.HasPrefix(command, "fsban ") {
					continue
				}
				commands++
				without := regexp.MustCompile("`" + strings.ReplaceAll(regexp.QuoteMeta(command), " ", `\s`) + "`")
				if len(sectionDifferences(t, editions, page, from[i], without.ReplaceAllString(to[i], ""))) == 0 {
					t.Errorf("%s without %q equals %s", edition, command, page)
				}
				if len(sectionDifferences(t, editions, page, without.ReplaceAllString(from[i], ""), to[i])) == 0 {
					t.Errorf("%s without %q equals %s", page, command, edition)
				}
			}
		}
	}
	if commands < 100 {
		t.Errorf("only %d commands found", commands)
	}
}

func TestDifferencesOfEditions(t *testing.T) {
	const english = "# Page\n\n[中文](zh-CN/operation.md)\n\n## Use\n\nRun `fsban list` after 90 s, see [alerts](runbook.md#fsbandown); exit code 3, /etc/fsban/x.\n\n```sh\nfsban check   # look\nfsban top\n```\n"
	const edition = "# 页面\n\n[English](../operation.md)\n\n## 使用\n\n等 90 秒后运行 `fsban list`，见[告警](runbook.md#fsbandown)；退出码 3，/etc/fsban/x。\n\n```sh\nfsban check   # 查看\nfsban top\n```\n"
	for _, tt := range []struct{ name, old, new string }{
		{"equal", "", ""},
		{"command in a line", "`fsban list`", "`fsban`"},
		{"command in a block", "fsban top\n", ""},
		{"argument in a block", "fsban top", "fsban top --json"},
		{"argument before a comment", "fsban check ", "fsban check --json"},
		{"figure", "90", "60"},
		{"exit code", "退出码 3", "退出码 4"},
		{"path", "/etc/fsban/x", "/etc/fsban/y"},
		{"anchor of a link", "(runbook.md#fsbandown)", "(runbook.md)"},
		{"link to the English edition", "(runbook.md#fsbandown)", "(../runbook.md#fsbandown)"},
		{"link back", "[English](../operation.md)", ""},
		{"heading", "## 使用\n", ""},
		{"level of a heading", "## 使用\n", "### 使用\n"},
	} {
		d := pageDifferences(t, chinese(t), "docs/operation.md", english, strings.Replace(edition, tt.old, tt.new, 1))
		if (len(d) == 0) != (tt.name == "equal") {
			t.Errorf("%s: differences %q", tt.name, d)
		}
	}
}

// pageDifferences compares the text of a page with that of its Chinese edition.
func pageDifferences(t *testing.T, editions map[string]string, page, english, text string) (list []string) {
	t.Helper()
	from, to := sections(english), sections(text)
	if len(from) != len(to) {
		return []string{fmt.Sprintf("%d headings, %s has %d", len(to), page, len(from))}
	}
	for i := range from {
		list = append(list, sectionDifferences(t, editions, page, from[i], to[i])...)
	}
	return list
}

func sectionDifferences(t *testing.T, editions map[string]string, page, english, text string) (list []string) {
	t.Helper()
	title := heading.FindString(english)
	if level := heading.FindStringSubmatch(text); level == nil || !strings.HasPrefix(title, level[1]+" ") {
		list = append(list, fmt.Sprintf("%q: another level of heading", title))
	}
	list = append(list, blockDifferences(title, english, text)...)
	list = append(list, setDifferences(title, "code", spans(english), spans(text))...)
	list = append(list, setDifferences(title, "link", targets(t, editions, page, english), targets(t, editions, editions[page], text))...)
	a, b := prose(english), prose(text)
	list = append(list, setDifferences(title, "name", found(name, a), found(name, b))...)
	figures := found(figure, a)
	for n, word := range number { // an English word may be a digit in Chinese
		if digit := fmt.Sprint(n); found(figure, b)[digit] && regexp.MustCompile(`(?i)\b`+word+`\b`).MatchString(a) {
			figures[digit] = true
		}
	}
	return append(list, setDifferences(title, "figure", figures, found(figure, b))...)
}

// sections splits a page before each heading outside of code.
func sections(text string) (list []string) {
	start := 0
	blocks := fence.FindAllStringIndex(text, -1)
	for _, h := range heading.FindAllStringIndex(text, -1) {
		inside := slices.ContainsFunc(blocks, func(b []int) bool { return b[0] < h[0] && h[0] < b[1] })
		if !inside && h[0] > 0 {
			list = append(list, text[start:h[0]])
			start = h[0]
		}
	}
	return append(list, text[start:])
}

// blockDifferences compares code blocks line by line. Only a comment may be in Chinese.
func blockDifferences(title, english, text string) (list []string) {
	from, to := strings.Split(blocks(english), "\n"), strings.Split(blocks(text), "\n")
	if len(from) != len(to) {
		return []string{fmt.Sprintf("%q: %d lines of code instead of %d", title, len(to), len(from))}
	}
	for i := range from {
		a, b := from[i], to[i]
		if code, comment, ok := strings.Cut(b, "# "); ok && strings.ContainsFunc(comment, isHan) {
			b = code
			a, _, _ = strings.Cut(a, "# ")
		}
		if strings.Join(strings.Fields(a), " ") != strings.Join(strings.Fields(b), " ") {
			list = append(list, fmt.Sprintf("%q: code %q instead of %q", title, to[i], from[i]))
		}
	}
	return list
}

func isHan(r rune) bool { return unicode.Is(unicode.Han, r) }

func blocks(text string) string {
	var b strings.Builder
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		b.WriteString(m[1])
	}
	return b.String()
}

// spans returns the code within lines, in single spaces.
func spans(text string) map[string]bool {
	set := map[string]bool{}
	for _, m := range span.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		set[strings.Join(strings.Fields(m[1]), " ")] = true
	}
	return set
}

// prose returns the text without code and link targets.
func prose(text string) string {
	return link.ReplaceAllString(span.ReplaceAllString(fence.ReplaceAllString(text, ""), " "), "]")
}

func found(pattern *regexp.Regexp, text string) map[string]bool {
	set := map[string]bool{}
	for _, m := range pattern.FindAllString(text, -1) {
		set[m] = true
	}
	return set
}

// targets returns the links in the text of a page, relative to the repository, with the number of the heading in place of its
// name. An English page's link to a page with a Chinese edition counts as a link to that; the link between the editions of a
// page is "edition".
func targets(t *testing.T, editions map[string]string, page, text string) map[string]bool {
	t.Helper()
	set := map[string]bool{}
	for _, m := range link.FindAllStringSubmatch(span.ReplaceAllString(fence.ReplaceAllString(text, ""), ""), -1) {
		path, anchor, _ := strings.Cut(m[1], "#")
		file := page
		if path != "" {
			file = filepath.Join(filepath.Dir(page), path)
		}
		switch {
		case strings.Contains(m[1], ":"):
			set[m[1]] = true
			continue
		case file != page && (editions[page] == file || editions[file] == page):
			set["edition"] = true
			continue
		case anchor != "":
			anchor = fmt.Sprintf("#%d", slices.Index(anchorsOf(t, file), anchor))
		}
		if edition := editions[file]; edition != "" && editions[page] != "" {
			file = edition
		}
		set[file+anchor] = true
	}
	return set
}

// setDifferences lists the elements of one set that the other lacks, sorted.
func setDifferences(title, kind string, english, text map[string]bool) (list []string) {
	for _, e := range slices.Sorted(maps.Keys(english)) {
		if !text[e] {
			list = append(list, fmt.Sprintf("%q: lacks %s %q", title, kind, e))
		}
	}
	for _, e := range slices.Sorted(maps.Keys(text)) {
		if !english[e] {
			list = append(list, fmt.Sprintf("%q: %s %q is only in Chinese", title, kind, e))
		}
	}
	return list
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
