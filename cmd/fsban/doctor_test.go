package main

import (
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
)

// setReplies has the FreeSWITCH of a script answer as a fixture of package doctor, its clock apart.
func setReplies(ts *testscript.TestScript, _ bool, args []string) {
	archive, err := txtar.ParseFile("../../doctor/testdata/" + args[0] + ".txtar")
	ts.Check(err)
	for _, f := range archive.Files {
		switchOf(ts).SetReply(f.Name, string(f.Data))
	}
	switchOf(ts).SetReply("strmicroepoch", strconv.FormatInt(time.Now().UnixMicro(), 10))
}

func TestTextIsWrapped(t *testing.T) {
	text := strings.Repeat("wörter → ", 40) + strings.Repeat("x", 200) + " end"
	got := wrap("    seen    ", "            ", text)
	for line := range strings.Lines(got) {
		line = strings.TrimSuffix(line, "\n")
		if n := utf8.RuneCountInString(line); n > width && !strings.Contains(line, "xxx") || strings.HasSuffix(line, " ") {
			t.Errorf("%d: %q", n, line)
		}
	}
	if joined := strings.Join(strings.Fields(got), " "); joined != "seen "+strings.Join(strings.Fields(text), " ") {
		t.Errorf("got %s", joined)
	}
}
