package house_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	maxFields = 20 // of a struct; settings aside: types of package config, and types named Options or ending in it
	maxFiles  = 25 // of a package, tests not counted
	maxLines  = 80 // of a function, tests included
)

// TestLimits keeps structs, functions and packages small, and components apart: a struct that embeds a pointer to another
// struct of this module sees all its fields.
func TestLimits(t *testing.T) {
	over := make(map[string]string)
	files := make(map[string]int)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "." {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		isTest := strings.HasSuffix(path, "_test.go")
		if !isTest {
			files[filepath.Dir(path)]++
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		own := ownImports(file)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if lines := set.Position(n.End()).Line - set.Position(n.Pos()).Line + 1; lines > maxLines {
					over["func "+path+" "+n.Name.Name] = fmt.Sprintf("%d lines, limit %d", lines, maxLines)
				}
			case *ast.TypeSpec:
				s, ok := n.Type.(*ast.StructType)
				if !ok {
					return true
				}
				settings := filepath.Dir(path) == "config" || strings.HasSuffix(n.Name.Name, "Options")
				if fields := s.Fields.NumFields(); fields > maxFields && !settings {
					over["struct "+path+" "+n.Name.Name] = fmt.Sprintf("%d fields, limit %d", fields, maxFields)
				}
				if isTest {
					return true
				}
				for _, f := range s.Fields.List {
					if name := embedded(f, own); name != "" {
						over["embedding "+path+" "+n.Name.Name+" "+name] = "embeds a component: name the field"
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, n := range files {
		if n > maxFiles {
			over["package "+dir] = fmt.Sprintf("%d files, limit %d", n, maxFiles)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(over)) {
		t.Errorf("%s: %s", key, over[key])
	}
}

// ownImports returns the names under which a file knows packages of this module.
func ownImports(file *ast.File) map[string]bool {
	names := make(map[string]bool)
	for _, spec := range file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil || isStandard(path) || !strings.HasPrefix(path, "fsban/") {
			continue
		}
		name := path[strings.LastIndex(path, "/")+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = true
	}
	return names
}

// embedded returns the type of a field that embeds a pointer to a type of this module, or "".
func embedded(f *ast.Field, own map[string]bool) string {
	star, ok := f.Type.(*ast.StarExpr)
	if !ok || len(f.Names) > 0 {
		return ""
	}
	switch x := star.X.(type) {
	case *ast.Ident:
		return "*" + x.Name
	case *ast.SelectorExpr:
		if pkg, ok := x.X.(*ast.Ident); ok && own[pkg.Name] {
			return "*" + pkg.Name + "." + x.Sel.Name
		}
	}
	return ""
}
