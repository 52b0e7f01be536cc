// Package captures holds bytes recorded from a real FreeSWITCH, for tests. README.md says where they come from.
package captures

import (
	"embed"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
)

//go:embed recorded sip
var recorded embed.FS

// Read returns a recording, like "register-success.plain.esl" or "sip/hep-tcp-register-wrong.hep".
func Read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := recorded.ReadFile(place(name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Names returns the recordings of one folder whose name matches a pattern, like "*.plain.esl" or "sip/*.hep", sorted and
// without the folder.
func Names(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := fs.Glob(recorded, place(pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recording matches %q (%v)", pattern, err)
	}
	for i, p := range paths {
		paths[i] = path.Base(p)
	}
	slices.Sort(paths)
	return paths
}

// place returns the path of a name or pattern.
func place(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return "recorded/" + name
}
