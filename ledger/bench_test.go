package ledger

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

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

// BenchmarkExpire is the look for bans that are over, which is done each second, among 100,000 that are not.
func BenchmarkExpire(b *testing.B) {
	l := open(b, filepath.Join(b.TempDir(), "fsban.db"), start)
	for i := range many {
		l.Add(ban(fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255), time.Hour+time.Duration(i)*time.Second))
	}
	for b.Loop() {
		if over := l.Expire(start); len(over) > 0 {
			b.Fatal(over)
		}
	}
}

// BenchmarkTurnover is a journal that is full, and as much again to be written.
func BenchmarkTurnover(b *testing.B) {
	l := open(b, filepath.Join(b.TempDir(), "fsban.db"), start)
	e := Entry{Attempt: policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: start, User: "1000"}}
	for b.Loop() {
		for range MaxJournal {
			l.Note(e, start)
		}
		l.Seal(nil, start)
		if err := l.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNote is an attempt noted while the disk takes nothing, and as many are waiting for it as may.
func BenchmarkNote(b *testing.B) {
	l := open(b, filepath.Join(b.TempDir(), "fsban.db"), start)
	e := Entry{Attempt: policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: start, User: "1000"}}
	for range MaxJournal {
		l.Note(e, start)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.Note(e, start)
	}
}
