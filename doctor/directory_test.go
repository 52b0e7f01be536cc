package doctor

import (
	"strings"
	"testing"

	"fsban/advisory"
)

func TestPasswords(t *testing.T) {
	s := &system{globals: map[string]string{defaultPassword: "Shared-by-all-9"}}
	for _, test := range []struct {
		id, password string
		want         flaw
	}{
		{"1000", "1234", fresh},
		{"1000", "1000", number},
		{"1000", "0001", number},
		{"1000", "10001000", number},
		{"1000", "a1000b", number},
		{"Anna", "anna12", number},
		{"1000", "1000-kQ8vTz31", strong},
		{"1000", "password", common},
		{"1000", "P@ssw0rd", common},
		{"1000", "7777777777777", common},
		{"1000", "123456789", common},
		{"1000", "Shared-by-all-9", shared},
		{"1000", "x7Q-k2!", short},
		{"1000", "83746152930", short},
		{"1000", "837461529301", strong},
		{"1000", "kQ8vTz31", strong},
		{"1000", "correct horse battery staple", strong},
		{"1", "pq1rs", short},
	} {
		if got := s.weakness(&user{id: test.id}, test.password); got != test.want {
			t.Errorf("%s, %s: %d, want %d", test.id, test.password, got, test.want)
		}
	}
}

func TestUsersAreNamedInRuns(t *testing.T) {
	many := make([]string, 50)
	for i := range many {
		many[i] = strings.Repeat("x", i+1)
	}
	for _, test := range []struct {
		names []string
		want  string
	}{
		{[]string{"1000"}, "1000"},
		{[]string{"1002", "1000", "1001", "1000"}, "1000 to 1002"},
		{[]string{"1000", "1001", "brian"}, "1000, 1001 and brian"},
		{[]string{"99", "100", "101"}, "99, 100 and 101"},
		{[]string{"009", "010", "011", "7"}, "7 and 009 to 011"},
		{[]string{"99999999999999999999998", "99999999999999999999999"}, "99999999999999999999998 and 99999999999999999999999"},
	} {
		if got := nameUsers(test.names); got != test.want {
			t.Errorf("%q: %s", test.names, got)
		}
	}
	if got := nameUsers(many); !strings.HasSuffix(got, "and 30 more") {
		t.Errorf("got %s", got)
	}
}

func TestVersions(t *testing.T) {
	for _, test := range []struct {
		older, newer string
	}{
		{"1.10.6", "1.10.7"}, {"1.10.7", "1.10.10"}, {"1.10.12", "1.11.1"}, {"1.11.3-dev", "1.11.3"}, {"1.11.2", "1.11.3-dev"}, {"1.6.20", "1.10.0"},
	} {
		if a, b := versionOf(test.older), versionOf(test.newer); !a.before(b) || b.before(a) || a.before(a) {
			t.Errorf("%s is not before %s", test.older, test.newer)
		}
	}
	if versionOf("").before(versionOf("1.0.0")) {
		t.Error("an unknown version is old")
	}
	for text, want := range map[string]string{
		"FreeSWITCH Version 1.11.1-release+git~20260526T204126Z~c2c59645f6~64bit (git c2c5964 2026-05-26 20:41:26Z 64bit)": "1.11.1",
		"FreeSWITCH Version 1.11.3-dev+git~20260821T141014Z~cc93a683ca~64bit (git cc93a68)":                                "1.11.3-dev",
		"UP 0 years\nFreeSWITCH (Version 1.10.12 -release-10222002881-a88d069d6f 64bit) is ready":                          "1.10.12",
		"something else 1.2.3": "",
	} {
		if got := versionIn(text); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	for _, a := range advisory.All {
		if !versionOf(a.Fixed).known || a.Source == "" {
			t.Errorf("%+v", a)
		}
	}
}

func TestAnAdvisoryOfAModuleNeedsTheModule(t *testing.T) {
	for _, loaded := range []bool{true, false} {
		s := &system{version: "1.11.0", modules: map[string]bool{"mod_verto": loaded}}
		found := s.versionFindings()
		if len(found) != 1 || strings.Contains(found[0].Seen, "CVE-2026-49841") != loaded {
			t.Errorf("mod_verto %v: %+v", loaded, found)
		}
	}
	s := &system{version: "1.11.4"}
	if found := s.versionFindings(); found != nil {
		t.Errorf("found %+v", found)
	}
}
