package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fsban/config"
	"fsban/daemon"
	"fsban/detect"
)

// The login of docs/installation.md may see all that fsban asks for by default, and is short enough for FreeSWITCH.
func TestDocumentedLoginSeesEnough(t *testing.T) {
	text, err := os.ReadFile("../../docs/installation.md")
	if err != nil {
		t.Fatal(err)
	}
	params := make(map[string]string)
	for _, m := range regexp.MustCompile(`<param name="([^"]+)" value="([^"]*)"/>`).FindAllStringSubmatch(string(text), -1) {
		params[m[1]] = m[2]
	}
	allowed := strings.Fields(params["esl-allowed-events"])
	cfg := config.Default()
	asked := daemon.Subscription(&cfg, detect.New(cfg.Detect()))
	want := slices.Concat(asked.Events, asked.Subclasses)
	for _, f := range asked.Filtered {
		want = append(want, f.Event)
	}
	for _, event := range want {
		if !slices.Contains(allowed, event) {
			t.Errorf("it may not see %s", event)
		}
	}
	if len(want) < 8 || len(allowed) != len(want)+1 { // and CUSTOM
		t.Errorf("it may see %q, fsban asks for %q", allowed, want)
	}
	if asked.LogLevel > 0 && params["esl-allowed-log"] != "true" {
		t.Error("it may not see the log")
	}
	if n := len(params["esl-allowed-events"] + params["esl-allowed-api"]); n >= 430 {
		t.Errorf("FreeSWITCH answers no login with %d characters of events and commands", n)
	}
}
