// Package captures holds bytes recorded from a real FreeSWITCH, for tests. README.md says where they come from.
package captures

import (
	"embed"
	"io/fs"
	"path"
	"slices"
	"testing"
)

//go:embed recorded
var recorded embed.FS

// Read returns a recording, like "register-success.plain.esl".
func Read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := recorded.ReadFile("recorded/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Names returns the recordings whose name matches a pattern, like "*.plain.esl", sorted.
func Names(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := fs.Glob(recorded, "recorded/"+pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recording matches %q (%v)", pattern, err)
	}
	for i, p := range paths {
		paths[i] = path.Base(p)
	}
	slices.Sort(paths)
	return paths
}
