package dialplan

import (
	"regexp"
	"strings"
	"testing"
)

// accepts runs the automaton over a whole text.
func (p *pattern) accepts(text string) bool {
	at := int32(0)
	for _, c := range text {
		if at = p.step(at, c); at < 0 {
			return true
		}
	}
	return p.states[at].accepts
}

var texts = []string{"", "0", "00", "1000", "1019", "10190", "+4930123", "0049301234567", "5551212", "abc", "a", " ", "10[01]", "^", "$", "1000\\", "~"}

func TestAnAutomatonMatchesAsTheExpressionDoes(t *testing.T) {
	for _, expression := range []string{
		`^(10[01][0-9])$`, `10`, `^10`, `10$`, `^$`, ``, `.*`, `^(.*)$`, `^\+?\d{3,}$`, `^(redial|870)$`, `^vmain$|^4000$|^\*98$`, `[^0-9]`, `(?i)^ABC$`, `^(a|b)*$`, `a$|^1`,
		`^(\d*)0(\d*)$`, `x*$`, `^^1`, `0$$`, `()`, `(|^1)0+$`,
	} {
		p, re := newPattern(expression), regexp.MustCompile(expression)
		if !p.exact {
			t.Errorf("%s is not exact", expression)
		}
		for _, text := range texts {
			if got, want := p.accepts(text), re.MatchString(text); got != want {
				t.Errorf("%s on %q: %v, want %v", expression, text, got, want)
			}
		}
	}
}

func TestUnsupportedPatternsMatchMore(t *testing.T) {
	for expression, text := range map[string]string{
		`^((?!6000)60\d{2})$`:                "6001",
		`^(?=\d)(1.*)$`:                      "1000",
		`(?<!0)1$`:                           "21",
		`^(\d)\1$`:                           "11",
		`^\d++$`:                             "12",
		`(`:                                  "anything",
		`[`:                                  "anything",
		`(?!`:                                "anything",
		`^a\b`:                               "a b",
		strings.Repeat("(a|b|c)", 200) + `$`: "abc",
		`^\d{1,999}\d{1,999}$`:               "1",
		`^(((\d{30}){30}){30})$`:             "1",
	} {
		if p := newPattern(expression); p.exact || !p.accepts(text) {
			t.Errorf("%.30s: exact %v, %q matches %v", expression, p.exact, text, p.accepts(text))
		}
	}
	if p := newPattern(`/^ABC$/i`); !p.accepts("abc") || p.accepts("abcd") {
		t.Error("/^ABC$/i")
	}
}

func TestExamples(t *testing.T) {
	set := func(expressions ...string) numbers {
		var n numbers
		for _, e := range expressions {
			if rest, not := strings.CutPrefix(e, "!"); not {
				n = n.without(newPattern(rest))
			} else {
				n = n.and(newPattern(e))
			}
		}
		return n
	}
	for _, test := range []struct {
		n    numbers
		want string
		ok   bool
	}{
		{set(`^(10[01][0-9])$`, `^(\d{7})$`), "", false},
		{set(`^(\d{4})$`, `^10`), "1000", true},
		{set(`^\d+$`, `!^0`), "1", true},
		{set(`^(3[5-8][01][0-9])$`, `!^(35\d{2})$`, `!^(36\d{2})$`, `!^(37\d{2})$`, `!^(38\d{2})$`), "", false},
		{set(`^(3[5-8][01][0-9])$`, `!^(35\d{2})$`, `!^(37\d{2})$`), "3600", true},
		{set(`.`, `![0-9]`), " ", true},
		{set(`.`, `!.*`), "", false},
		{set(`.`, `!^(?!1)`), "0", true}, // a pattern that matches too much takes nothing away
		{set(`^$`), "", true},
		{numbers{}, "", true},
	} {
		if got, ok := test.n.example(new(int)); got != test.want || ok != test.ok {
			t.Errorf("%s gives %q, %v, want %q, %v", test.n.key(), got, ok, test.want, test.ok)
		}
	}
}

// An automaton agrees with Go's own matcher, and compiling ends for every expression.
func FuzzPattern(f *testing.F) {
	for _, seed := range []string{`^(10[01][0-9])$`, `^9(888|8888)$`, `(?i)a*$|^b`, `^((?!6000)60\d{2})$`, `(a|b)*c{2,3}`, `$^`, `(^|1)0($|2)`} {
		f.Add(seed, "1000")
	}
	f.Fuzz(func(t *testing.T, expression, text string) {
		p := newPattern(expression)
		if len(text) > 100 || strings.IndexFunc(text, func(r rune) bool { return r < firstSymbol || r > lastSymbol }) >= 0 {
			return
		}
		got := p.accepts(text)
		if strings.HasPrefix(expression, "/") {
			return
		}
		re, err := regexp.Compile(expression)
		if err != nil {
			return
		}
		if want := re.MatchString(text); want && !got || p.exact && got != want && len(p.states) < maxStates {
			t.Errorf("%q on %q: %v, want %v", expression, text, got, want)
		}
		n := numbers{}.and(p)
		if example, ok := n.example(new(int)); ok && example != "" && !p.accepts(example) {
			t.Errorf("%q: %q is no example", expression, example)
		}
	})
}
