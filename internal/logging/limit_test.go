package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fsban/config"
)

// safeBuffer is a bytes.Buffer for several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// 800 lines a second of each kind for three minutes, as a forged flood causes: the bans' lines stay, the rest is a summary a minute.
func TestAFloodIsASummaryAMinuteAndEveryBanALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out safeBuffer
		log := slog.New(NewHandler(&out))
		for range 3 * 60 {
			for i := range 800 {
				log.Warn("a ban is held", "addr", i)
				log.Info("unrelated", "addr", i)
			}
			log.Info("banned", "addr", "x")
			time.Sleep(time.Second)
		}
		synctest.Wait()
		text := out.String()
		for message, want := range map[string]int{
			"msg=banned ": 180, `msg="a ban is held"`: 3 * perMinute, "msg=unrelated": 3 * perMinute,
			`msg="log lines left out" message="a ban is held"`: 3, "message=unrelated": 3,
		} {
			if n := strings.Count(text, message); n != want {
				t.Errorf("%d lines with %s, want %d", n, message, want)
			}
		}
		left := 0
		for _, m := range regexp.MustCompile(`lines=(\d+)`).FindAllStringSubmatch(text, -1) {
			n, err := strconv.Atoi(m[1])
			if left += n; err != nil {
				t.Error(err)
			}
		}
		if lines := strings.Count(text, "\n"); lines != 180+2*3*(perMinute+1) || left != 2*(3*60*800-3*perMinute) {
			t.Errorf("%d lines, and %d left out", lines, left)
		}
	})
}

// The same number of lines at other times: a burst now and then, lines of several levels, and an end in the middle of a minute.
func TestBurstsAreCountedAndTheLastOnesAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out safeBuffer
		h := NewHandler(&out)
		log := slog.New(h)
		for range 3 {
			for range perMinute + 5 {
				log.With("node", 1).Info("clash")
			}
			log.Error("clash")
			time.Sleep(10 * time.Minute)
		}
		synctest.Wait()
		if n := strings.Count(out.String(), `level=ERROR msg="log lines left out" message=clash lines=6`); n != 3 {
			t.Errorf("%d summaries:\n%s", n, out.String())
		}
		h.Set(config.Log{Level: "debug", Format: "json"})
		for range 3 * perMinute {
			log.Warn("last")
			log.Debug("detail")
		}
		h.Flush()
		h.Flush()
		text := out.String()
		if n := strings.Count(text, `"msg":"log lines left out","message":"last","lines":60`); n != 1 || strings.Count(text, `"detail"`) != 3*perMinute {
			t.Errorf("%d summaries:\n%s", n, text)
		}
	})
}

func TestKindsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHandler(&safeBuffer{})
		for i := range 3 * maxKinds {
			slog.New(h).Info(strings.Repeat("x", i))
		}
		time.Sleep(time.Minute)
		slog.New(h).Info("new")
		if n := len(h.limit.kinds); n != 1 {
			t.Errorf("%d kinds", n)
		}
	})
}

// A user name may contain any character: no format of the log passes on one that acts upon a terminal or reorders the line.
func TestNoFormatPassesOnCharactersThatActUponATerminal(t *testing.T) {
	const name = "a\u009b31m\u202egnp\u2066x\u200b\x7f\x1b[2J\U000e0041\u0085"
	for _, format := range []string{"text", "json"} {
		var out safeBuffer
		h := NewHandler(&out)
		h.Set(config.Log{Level: "info", Format: format})
		slog.New(h).With("of", name).Info("banned", "user", name, "error", errors.New(name), slog.Group("g", "k", name))
		line := strings.TrimSuffix(out.String(), "\n")
		for _, r := range line {
			if r < ' ' || r >= 0x7f {
				t.Errorf("%s: %U in %q", format, r, line)
			}
		}
		var fields struct{ Of, User, Error string }
		if format == "json" && (json.Unmarshal([]byte(line), &fields) != nil || fields.User != name || fields.Of != name || fields.Error != name) {
			t.Errorf("%+q", fields)
		}
	}
}
