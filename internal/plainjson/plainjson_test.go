package plainjson

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

func TestCharactersThatDoNotPrintAreEscaped(t *testing.T) {
	for text, want := range map[string]string{
		"":                          `""`,
		"plain ü 日 😀":               `"plain ü 日 😀"`,
		"a\u009b31mb":               `"a\u009b31mb"`,
		"a\x7fb":                    `"a\u007fb"`,
		"\u202egnp.exe":             `"\u202egnp.exe"`,
		"\u2066x\u2069\u200e":       `"\u2066x\u2069\u200e"`,
		"a\u200bb\ufeff":            `"a\u200bb\ufeff"`,
		"\U000e0041":                `"\udb40\udc41"`,
		"\u0085\u2028":              `"\u0085\u2028"`,
		"a\x00\x1b[31m\r\n":         `"a\u0000\u001b[31m\r\n"`,
		"bad \xff\xc2 UTF-8":        `"bad \ufffd\ufffd UTF-8"`,
		`"quoted\` + "\u202e" + `"`: `"\"quoted\\\u202e\""`,
	} {
		var b bytes.Buffer
		e := json.NewEncoder(Writer{&b})
		e.SetEscapeHTML(false)
		if err := e.Encode(text); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSuffix(b.String(), "\n"); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// FuzzEscape: the escaped text has the same meaning, and nothing in it acts upon a terminal.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"x", "\u009b2J", "\u202e", "\U000e0041", "\xff", "\\u202e", "\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text, err := json.Marshal(map[string]string{s: s})
		if err != nil {
			t.Fatal(err)
		}
		escaped := Escape(text)
		var before, after map[string]string
		if err := json.Unmarshal(text, &before); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(escaped, &after); err != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%q becomes %q: %v", text, escaped, err)
		}
		for _, r := range string(escaped) {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %U", escaped, r)
			}
		}
	})
}
