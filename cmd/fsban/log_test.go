package main

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
)

// A log that nobody reads, a journal whose disk hangs, holds nobody up.
func TestNobodyWaitsForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, write := io.Pipe()
		lines := newSink(write)
		log := slog.New(newLogger(lines))
		log.Info("the first")
		synctest.Wait() // it is being written now, for as long as nobody reads
		for range maxLines + 7 {
			log.Info("one of many")
		}
		if n := lines.lost.Load(); n != 7 {
			t.Errorf("%d lines were lost, want 7", n)
		}
		text := make(chan string)
		go func() {
			all, _ := io.ReadAll(read)
			text <- string(all)
		}()
		synctest.Wait()
		log.Info("the last")
		lines.close()
		if err := write.Close(); err != nil {
			t.Fatal(err)
		}
		all := <-text
		if n := strings.Count(all, "one of many"); n != maxLines || !strings.HasSuffix(all, `"the last"`+"\n") {
			t.Errorf("%d of many lines were written, want %d; the end: %q", n, maxLines, all[max(0, len(all)-80):])
		}
	})
}

func TestTheEndDoesNotWaitForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, write := io.Pipe()
		lines := newSink(write)
		slog.New(newLogger(lines)).Info("nobody reads it")
		lines.close()
		if err := read.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
