package guess

import (
	"strings"
	"testing"
)

func TestDidYouMean(t *testing.T) {
	rules := []string{"auth", "scanner", "toll", "enumeration", "acl", "unproven"}
	commands := []string{"status", "top", "list", "why", "ban", "unban", "banned", "allow", "disallow", "allowed", "import-fail2ban"}
	for _, tt := range []struct {
		word  string
		names []string
		want  string
	}{
		{"aut", rules, "did you mean auth?"},
		{"uath", rules, "did you mean auth?"},
		{"AUTH", rules, "did you mean auth?"},
		{"auht", rules, "did you mean auth?"},
		{"enumerration", rules, "did you mean enumeration?"},
		{"enum", rules, "did you mean enumeration?"},
		{"acll", rules, "did you mean acl?"},
		{"stats", commands, "did you mean status?"},
		{"bann", commands, "did you mean ban or banned?"},
		{"unbann", commands, "did you mean unban?"},
		{"import_fail2ban", commands, "did you mean import-fail2ban?"},
		{"lsit", commands, "did you mean list?"},
		{"ls", commands, ""},
		{"for", []string{"sort", "json", "left"}, ""},
		{"sor", []string{"sort", "json", "left"}, "did you mean sort?"},
		{"top", []string{"toll", "stop", "topology"}, "did you mean stop or topology?"},
		{"un", []string{"ban", "run"}, "did you mean run?"},
		{"statsu", commands, "did you mean status?"},
		{"unprovn", rules, "did you mean unproven?"},
		{"auth", rules, ""}, // it is one
		{"nosuch", commands, ""},
		{"x", rules, ""},
		{"", rules, ""},
		{"auth", nil, ""},
		{"\x1b[2J", rules, ""},
		{strings.Repeat("a", 65), []string{strings.Repeat("a", 64)}, ""},
	} {
		if got := DidYouMean(tt.word, tt.names); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.word, got, tt.want)
		}
	}
}
