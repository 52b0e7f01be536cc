package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fsban/control"
	"fsban/policy"
)

func TestCleanTextCannotMoveItsNeighbours(t *testing.T) {
	s := &screen{}
	for name, tt := range map[string]struct{ text, want, ascii string }{
		"plain":               {`1001 a\b"c`, `1001 a\b"c`, `1001 a\b"c`},
		"clear the screen":    {"\x1b[2J1001", `\x1b[2J1001`, `\x1b[2J1001`},
		"a control of 8 bits": {"\u009b31m", `\u009b31m`, `\u009b31m`},
		"no UTF-8":            {"a\xffb", `a\xffb`, `a\xffb`},
		"lines":               {"a\r\nb\tc\x00", `a\r\nb\tc\x00`, `a\r\nb\tc\x00`},
		"wide":                {"张三", "张三", `\u5f20\u4e09`},
		"right to left":       {"א1", `\u05d01`, `\u05d01`},
		"overridden":          {"a\u202eb\u2066", `a\u202eb\u2066`, `a\u202eb\u2066`},
		"marks that pile up":  {"e\u0301\u0301", `e\u0301\u0301`, `e\u0301\u0301`},
		"nothing to see":      {"a\u200b\ufeff", `a\u200b\ufeff`, `a\u200b\ufeff`},
		"flag":                {"\U0001f1e9\U0001f1ea", `\U0001f1e9\U0001f1ea`, `\U0001f1e9\U0001f1ea`},
		"joined":              {"\U0001f468\u200d\U0001f469", "\U0001f468" + `\u200d` + "\U0001f469", `\U0001f468\u200d\U0001f469`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := s.clean(tt.text); got != tt.want {
				t.Errorf("clean is %q, want %q", got, tt.want)
			}
			if got := (&screen{ascii: true}).clean(tt.text); got != tt.ascii {
				t.Errorf("in ASCII %q, want %q", got, tt.ascii)
			}
			if got := s.clean(tt.want); got != tt.want {
				t.Errorf("cleaned twice: %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add("张三 \x1b]0;x\a \u202e e\u0301 \xff", 10)
	f.Fuzz(func(t *testing.T, text string, most int) {
		s := &screen{}
		clean := s.clean(text)
		width := 0
		for _, r := range clean {
			w := cells(string(r))
			if r < ' ' || r == 0x7f || r == utf8.RuneError && !strings.ContainsRune(text, utf8.RuneError) || moves(r) || w == 0 {
				t.Fatalf("clean(%q) is %q: it holds %q", text, clean, r)
			}
			width += w
		}
		if got := cells(clean); got != width {
			t.Errorf("%q is %d cells wide, each character by itself %d", clean, got, width)
		}
		if most %= 200; most >= 2 {
			if q := s.quote(text, most); cells(q) > most {
				t.Errorf("%q is %d cells wide, should be %d at most", q, cells(q), most)
			}
		}
	})
}

func TestTableIsAlignedByWhatATerminalShows(t *testing.T) {
	tab := table{columns: []column{{name: "USER"}, {name: "SINCE", drop: 1}, {name: "N", right: true}, {name: "WHY", least: 6}}}
	tab.add("张三", "yesterday", "7", "a long reason that nobody can read")
	tab.add("1001", "today", "1200", "x")
	tab.note("    a note that is too long for this")
	for width, want := range map[int]string{
		0:  "USER  SINCE         N  WHY\n张三  yesterday     7  a long reason that nobody can read\n1001  today      1200  x\n    a note that is too long for this\n",
		30: "USER  SINCE         N  WHY\n张三  yesterday     7  a lon..\n1001  today      1200  x\n    a note that is too long ..\n",
		25: "USER     N  WHY\n张三     7  a long reas..\n1001  1200  x\n    a note that is too ..\n",
		8:  "USER  ..\n张三  ..\n1001  ..\n    a ..\n",
	} {
		var out bytes.Buffer
		tab.print(&screen{out: &out, width: width})
		if out.String() != want {
			t.Errorf("%d cells wide:\n%s\nwant:\n%s", width, out.String(), want)
		}
	}
}

func TestColorsOnlyWhereTheyAreWanted(t *testing.T) {
	if got := (&screen{}).paint(red, "no"); got != "no" {
		t.Errorf("without colors: %q", got)
	}
	if got := (&screen{colors: true}).paint(red, "yes"); got != "\x1b[1;31myes\x1b[0m" {
		t.Errorf("with colors: %q", got)
	}
	if s := screenOf(new(bytes.Buffer)); s.colors {
		t.Error("colors where there is no terminal")
	}
}

func TestLocaleSaysWhatIsShown(t *testing.T) {
	for _, tt := range []struct {
		all, ctype, lang string
		ascii, thin      bool
	}{
		{"", "", "", true, false},
		{"C", "", "en_US.UTF-8", true, false},
		{"", "C.UTF-8", "C", false, true},
		{"", "", "de_DE.utf8", false, true},
		{"", "", "zh_CN.UTF-8", false, false},
		{"", "", "zh_CN.GBK", true, false},
	} {
		t.Setenv("LC_ALL", tt.all)
		t.Setenv("LC_CTYPE", tt.ctype)
		t.Setenv("LANG", tt.lang)
		if s := screenOf(new(bytes.Buffer)); s.ascii != tt.ascii || s.thin != tt.thin {
			t.Errorf("%+v: ascii %v, thin %v", tt, s.ascii, s.thin)
		}
	}
}

func TestHumanNumbers(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 999: "999", 1000: "1.0k", 9949: "9.9k", 9950: "10k", 99999: "100k", 999499: "999k", 999500: "1.0M", 1 << 63: "9.2E",
	} {
		if got := human(n); got != want {
			t.Errorf("human(%d) is %q, want %q", n, got, want)
		}
	}
}

func TestTextIsWrapped(t *testing.T) {
	text := strings.Repeat("wörter → ", 40) + strings.Repeat("x", 200) + " end"
	got := (&screen{}).wrap("    seen    ", "            ", text)
	for line := range strings.Lines(got) {
		line = strings.TrimSuffix(line, "\n")
		if n := cells(line); n > usualWidth && !strings.Contains(line, "xxx") || strings.HasSuffix(line, " ") {
			t.Errorf("%d: %q", n, line)
		}
	}
	if joined := strings.Join(strings.Fields(got), " "); joined != "seen "+strings.Join(strings.Fields(text), " ") {
		t.Errorf("got %s", joined)
	}
}

// What peers call themselves is printed by every command that shows attempts.
func TestNothingThatAPeerSaysReachesATerminal(t *testing.T) {
	addr, at := netip.MustParseAddr("203.0.113.7"), time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	prefix := netip.PrefixFrom(addr, 32)
	for _, who := range hostile {
		evidence := []control.Attempt{{Addr: addr, At: at, Kind: "auth_failure", Method: "INVITE", User: who, Number: who, UserAgent: who, Source: "event"}}
		ban := control.Ban{Prefix: prefix, Since: at, Rule: "auth", Attempts: 5, InKernel: true, Evidence: evidence}
		byHand := control.Ban{Prefix: prefix, Since: at, Rule: "operator", By: who, Reason: who}
		next := []control.Next{{Verdict: "counted", Rule: who}, {Verdict: "held", Rule: who, Guard: who}, {Verdict: who}}
		stuck := []control.StuckPhone{{Addr: addr, User: who, Domain: who, UserAgent: who}}
		for _, s := range []*screen{{}, {width: 80}, {width: 80, ascii: true}} {
			for name, print := range map[string]func(){
				"list": func() { printBans(s, []control.Ban{ban, byHand}, 2, true, at) },
				"held": func() { printHeld(s, []control.HeldBan{{Prefix: prefix, Evidence: evidence}}) },
				"status": func() {
					printStatus(s, hostileStatus(who), &control.Top{At: at, NewBans: []control.Ban{ban}}, true, at)
				},
				"why": func() {
					for _, b := range []*control.Ban{&ban, &byHand} {
						for _, line := range s.standing(&control.Standing{Addr: addr, Prefix: prefix, Ban: b, Attempts: evidence, Stuck: stuck, Next: next}, at) {
							fmt.Fprintln(s.out, line)
						}
					}
				},
				"replay": func() {
					r := &replayer{examples: []string{who}, unknown: 1, reports: []string{who}}
					r.bans = []replayBan{{Prefix: prefix, Rule: "auth", Evidence: []policy.Attempt{{User: who}}}}
					r.print(s)
				},
				"discover": func() {
					(&discovery{Subclasses: []*subclass{{Name: who, Headers: []header{{Name: who, Example: who}}}}}).print(s)
				},
			} {
				var out bytes.Buffer
				s.out = &out
				print()
				for line := range strings.Lines(out.String()) {
					if line = strings.TrimSuffix(line, "\n"); s.clean(line) != line {
						t.Errorf("%s of %q: %q", name, who, line)
					}
					if s.width > 0 && cells(line) > s.width && (name == "list" || name == "held") {
						t.Errorf("%s of %q is wider than the terminal: %q", name, who, line)
					}
				}
			}
		}
	}
}

func hostileStatus(who string) *control.Status {
	return &control.Status{
		Version: who, Problems: []string{who}, Sources: []control.Source{{Name: who, Address: who, Up: true, Speaks: []string{who}}}, Speakers: []control.Speaker{{Kind: who, Why: who}},
		Firewall: control.Firewall{Backend: who}, Policy: control.Policy{Rules: []control.Rule{{Name: who, Kinds: []string{who}}}, NeverBan: []control.NeverBan{{Origin: who}}},
	}
}

func TestWhatTheNextFailureLeadsTo(t *testing.T) {
	const day = 24 * time.Hour
	never := &control.NeverBan{Origin: "ignoreip"}
	ban := control.Next{User: "same", Verdict: "ban", Rule: "auth", Count: 5, MaxRetry: 5, BanTime: day, Offence: 1}
	again, forever, held := ban, ban, ban
	again.BanTime, again.Offence = 2*day+73*time.Minute, 2
	forever.BanTime = policy.Forever
	held.Verdict, held.Guard = "held", "ban_rate"
	for _, test := range []struct {
		standing control.Standing
		want     []string
	}{
		{control.Standing{Ban: &control.Ban{}}, []string{"does not count: it is banned"}},
		{control.Standing{Next: []control.Next{ban}}, []string{"bans it by auth for 1d"}},
		{control.Standing{Next: []control.Next{again}}, []string{"bans it by auth for 2d1h (its ban number 2)"}},
		{control.Standing{Next: []control.Next{forever}}, []string{"bans it by auth for good"}},
		{control.Standing{Next: []control.Next{held}}, []string{"would ban it by auth for 1d: the ban_rate guard holds that"}},
		{control.Standing{Next: []control.Next{{User: "another", Verdict: "counted", Rule: "auth", Count: 1, MaxRetry: 5}}}, []string{"counts as 1 of 5 for auth"}},
		{
			control.Standing{
				Attempts: make([]control.Attempt, 1),
				Next:     []control.Next{{User: "same", Verdict: "counted", Rule: "auth", Count: 4, MaxRetry: 6}, {User: "another", Verdict: "ban", Rule: "enumeration", BanTime: 3 * day}},
			},
			[]string{"counts as 4 of 6 for auth", "of another user bans it by enumeration for 3d"},
		},
		{
			control.Standing{
				Attempts: make([]control.Attempt, 1), Never: never,
				Next: []control.Next{{User: "same", Verdict: "spared", Rule: "auth", Count: 4}, {User: "another", Verdict: "spared", Rule: "enumeration", Count: 3}},
			},
			[]string{"is spared: never banned (ignoreip)"},
		},
		{
			control.Standing{Never: never, Next: []control.Next{{User: "same", Verdict: "spared_ban", Rule: "auth", BanTime: day}}},
			[]string{"would ban it by auth for 1d, and is spared: never banned (ignoreip)"},
		},
		{control.Standing{Next: []control.Next{{User: "another", Verdict: "excused"}}}, []string{"does not count: unbanned a moment ago"}},
		{control.Standing{Next: []control.Next{{User: "another", Verdict: "pass"}}}, []string{"does not count: no rule asks for it"}},
	} {
		if got := (&screen{}).next(&test.standing); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %q, want %q", test.standing.Next, got, test.want)
		}
	}
}
