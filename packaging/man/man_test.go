package man

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// build builds the writer of a program's documents, as packaging/dist.sh does.
func build(t *testing.T, program string) (writer string) {
	t.Helper()
	writer = filepath.Join(t.TempDir(), program)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", "docs", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", writer, "../../cmd/"+program)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return writer
}

// write runs a writer and returns the files that it has written, by name.
func write(t *testing.T, writer, epoch string) (map[string][]byte, error) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), writer, dir)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+epoch, "TZ=Asia/Shanghai")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.New(string(out))
	}
	return read(t, dir), nil
}

func TestPagesAreCompleteAndReproducible(t *testing.T) {
	writer := build(t, "fsban")
	files, err := write(t, writer, "1700000000")
	if err != nil {
		t.Fatal(err)
	}
	others, err := write(t, writer, "1700000000")
	if err != nil {
		t.Fatal(err)
	}
	if !maps.EqualFunc(files, others, bytes.Equal) {
		t.Error("the files differ the second time")
	}
	// One page for each command in the list of fsban.1.
	top := string(files["man/fsban.1"])
	_, list, _ := strings.Cut(top, ".SH COMMANDS\n")
	list, _, _ = strings.Cut(list, "\n.SH ")
	commands := 0
	for _, m := range regexp.MustCompile(`(?m)^\\fB(.*)\\fP$`).FindAllStringSubmatch(list, -1) {
		name := strings.ReplaceAll(m[1], `\-`, "-")
		commands++
		page := string(files["man/fsban-"+name+".1"])
		for _, want := range []string{
			`.TH "FSBAN\-` + strings.ToUpper(strings.ReplaceAll(name, "-", `\-`)) + `" "1" "Nov 2023" "fsban v1.2.3" "fsban"`,
			".SH NAME\nfsban", ".SH SYNOPSIS\n", ".SH DESCRIPTION\n", ".SH EXIT STATUS\n0 on success, 1 on failure, 2 on wrong usage", ".SH OPTIONS\n", "fsban(1)",
		} {
			if !strings.Contains(strings.ReplaceAll(page, `\-`, "-"), strings.ReplaceAll(want, `\-`, "-")) {
				t.Errorf("page of %s lacks %q", name, want)
			}
		}
		if !strings.Contains(strings.ReplaceAll(top, `\-`, "-"), "fsban-"+name+"(1)") {
			t.Errorf("fsban.1 does not refer to %s", name)
		}
	}
	if commands < 15 {
		t.Errorf("only %d commands: %s", commands, list)
	}
	for _, shell := range []string{"fsban.bash", "_fsban", "fsban.fish"} {
		if !bytes.Contains(files["completion/"+shell], []byte("fsban")) {
			t.Errorf("there is no completion %s", shell)
		}
	}
	if len(files) != commands+1+3 {
		t.Errorf("%d files for %d commands", len(files), commands)
	}
}

func TestTheDemoHasAPageAndNoCompletions(t *testing.T) {
	writer := build(t, "fsban-demo")
	files, err := write(t, writer, "1700000000")
	if err != nil || len(files) != 1 || !bytes.Contains(files["man/fsban-demo.1"], []byte("--night")) {
		t.Errorf("%d files, %v", len(files), err)
	}
	// A page needs a date.
	for _, epoch := range []string{"", "today"} {
		if _, err := write(t, writer, epoch); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH: ") {
			t.Errorf("%q: %v", epoch, err)
		}
	}
}

func TestTextIsNoMarkup(t *testing.T) {
	text := "a_b_c *x* <y> [z](u) `q` \\ # \n\n  key_*\n  other"
	want := "a\\_b\\_c \\*x\\* \\<y\\> \\[z\\](u) \\`q\\` \\\\ \\# \n\n      key_*\n      other"
	if got := markdown(text); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// read returns the files below dir by name.
func read(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for _, pattern := range []string{"man/*", "completion/*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range names {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name, _ := filepath.Rel(dir, path)
			files[name] = text
		}
	}
	return files
}
