package ctilog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func BenchmarkLines(b *testing.B) {
	const lines = 500_000
	path := filepath.Join(b.TempDir(), "cti_fail2ban.log")
	text := strings.Join(numberedLines(0, lines), "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		ctx, cancel := context.WithCancel(b.Context())
		err := NewFollower(path, Options{OnLine: func(l Line) {
			if n++; n == lines {
				cancel()
			}
		}}).Run(ctx)
		if !errors.Is(err, context.Canceled) {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*lines/b.Elapsed().Seconds(), "lines/s")
}

// BenchmarkLatency measures the delay between a write to the file and OnLine.
func BenchmarkLatency(b *testing.B) {
	path := filepath.Join(b.TempDir(), "cti_fail2ban.log")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	came := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	follower := NewFollower(path, Options{OnLine: func(Line) { came <- struct{}{} }})
	go func() { ended <- follower.Run(ctx) }()
	for !follower.Status().Following {
		time.Sleep(time.Millisecond)
	}
	line := []byte(numbered(1) + "\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Write(line); err != nil {
			b.Fatal(err)
		}
		<-came
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
}
