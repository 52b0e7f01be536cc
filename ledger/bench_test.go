package ledger

import (
	"fmt"
	"path/filepath"
	"testing"

	"fsban/policy"
)

const many = 100_000

func filled(b *testing.B, path string) {
	l := open(b, path, start)
	for i := range many {
		l.Add(ban(fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255), policy.Forever))
	}
	flush(b, l)
}

// BenchmarkOpen is a start with 100,000 bans.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "fsban.db")
	filled(b, path)
	for b.Loop() {
		l, err := Open(path, start)
		if err != nil || len(l.bans) != many {
			b.Fatal(err)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlush is the writing of 100,000 new bans.
func BenchmarkFlush(b *testing.B) {
	for i := 0; b.Loop(); i++ {
		filled(b, filepath.Join(b.TempDir(), fmt.Sprint(i)))
	}
}
