package house_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPackagesWithoutTheRaceDetectorStartNoGoroutines checks that the packages of PURE in the Makefile use neither
// goroutines nor means to share data between them.
func TestPackagesWithoutTheRaceDetectorStartNoGoroutines(t *testing.T) {
	data, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?m)^PURE +=(.*)$`).FindSubmatch(data)
	if list == nil {
		t.Fatal("the Makefile has no PURE")
	}
	files := 0
	for dir := range strings.FieldsSeq(string(list[1])) {
		paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: no Go files, %v", dir, err)
		}
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			files++
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range file.Imports {
				if name := strings.Trim(i.Path.Value, `"`); name == "sync" || name == "sync/atomic" || strings.HasPrefix(name, "golang.org/x/sync/") {
					t.Errorf("%s imports %s: test it with the race detector", path, name)
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n.(type) {
				case *ast.GoStmt, *ast.ChanType:
					t.Errorf("%s has a goroutine or a channel: test it with the race detector", path)
				}
				return true
			})
		}
	}
	if files < 20 {
		t.Errorf("%d files", files)
	}
}
