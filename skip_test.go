package house_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maySkip names the files that may end a test unrun, each with its reason. All other tests run or fail.
var maySkip = map[string]string{
	"internal/testenv/testenv.go":  "deselects system tests in short mode",
	"internal/netns/netns_test.go": "proves that a test skipped inside a namespace fails outside",
	"cmd/fsban/main_test.go":       "passes the deselection of system tests to a script",
}

// TestNoTestSkips prevents that a missing program passes unnoticed: only package testenv deselects tests, in short mode.
func TestNoTestSkips(t *testing.T) {
	skip := regexp.MustCompile(`\.Skip(f|Now)?\(|(?m)^(\[[^\]]*\] *)*skip\b`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, ".txtar") || maySkip[path] != "" || path == "skip_test.go" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range skip.FindAllString(string(data), -1) {
			if found != "[short] skip" || filepath.Ext(path) == ".go" {
				t.Errorf("%s skips a test with %q: call testenv.System instead", path, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
