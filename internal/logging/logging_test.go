package logging

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"fsban/config"
)

// A log without a reader, such as a journal on a hanging disk, blocks no caller.
func TestBlockedOutputBlocksNoCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, write := io.Pipe()
		lines := NewSink(write)
		log := slog.New(NewHandler(lines))
		log.Info("the first")
		synctest.Wait() // the write blocks until the log is read
		for range maxLines + 7 {
			log.Info("banned", "addr", "one of many")
		}
		if n := lines.Dropped(); n != 7 {
			t.Errorf("%d lines were dropped, want 7", n)
		}
		text := make(chan string)
		go func() {
			all, _ := io.ReadAll(read)
			text <- string(all)
		}()
		synctest.Wait()
		log.Info("the last")
		lines.Close()
		if err := write.Close(); err != nil {
			t.Fatal(err)
		}
		all := <-text
		if n := strings.Count(all, "one of many"); n != maxLines || !strings.HasSuffix(all, `"the last"`+"\n") {
			t.Errorf("%d of many lines were written, want %d; the end: %q", n, maxLines, all[max(0, len(all)-80):])
		}
	})
}

func TestCloseReturnsWhenTheOutputBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, write := io.Pipe()
		lines := NewSink(write)
		slog.New(NewHandler(lines)).Info("nobody reads it")
		lines.Close()
		if err := read.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// In systemd's journal each line has a priority, or journalctl -p would find none; elsewhere it has none.
func TestJournalLinesHaveAPriority(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	for stream, want := range map[string]string{fmt.Sprintf("%d:%d", st.Dev, st.Ino): "<7> <6> <4> <3> ", fmt.Sprintf("%d:%d", st.Dev, st.Ino+1): "tim tim tim tim ", "": "tim tim tim tim "} {
		for _, format := range []string{"text", "json"} {
			t.Setenv("JOURNAL_STREAM", stream)
			if err := f.Truncate(0); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			lines := NewSink(f)
			l := NewHandler(lines)
			l.Set(config.Log{Level: "debug", Format: format})
			log := slog.New(l)
			for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
				log.Log(t.Context(), level, "hello", "user", "level=ERROR <0>")
			}
			lines.Close()
			text, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for line := range strings.Lines(string(text)) {
				got += strings.TrimLeft(line, "{\"")[:3] + " "
			}
			if got != want {
				t.Errorf("JOURNAL_STREAM=%s, %s: the lines begin with %q, want %q:\n%s", stream, format, got, want, text)
			}
		}
	}
}
