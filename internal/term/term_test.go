package term

import (
	"bytes"
	"encoding/csv"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestCleanTextCannotMoveItsNeighbours(t *testing.T) {
	s := &Screen{}
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
			if got := s.Clean(tt.text); got != tt.want {
				t.Errorf("clean is %q, want %q", got, tt.want)
			}
			if got := (&Screen{ASCII: true}).Clean(tt.text); got != tt.ascii {
				t.Errorf("in ASCII %q, want %q", got, tt.ascii)
			}
			if got := s.Clean(tt.want); got != tt.want {
				t.Errorf("cleaned twice: %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add("张三 \x1b]0;x\a \u202e e\u0301 \xff", 10)
	f.Fuzz(func(t *testing.T, text string, most int) {
		s := &Screen{}
		clean := s.Clean(text)
		width := 0
		for _, r := range clean {
			w := Width(string(r))
			if r < ' ' || r == 0x7f || r == utf8.RuneError && !strings.ContainsRune(text, utf8.RuneError) || moves(r) || w == 0 {
				t.Fatalf("clean(%q) is %q: it holds %q", text, clean, r)
			}
			width += w
		}
		if got := Width(clean); got != width {
			t.Errorf("%q is %d cells wide, each character by itself %d", clean, got, width)
		}
		if most %= 200; most >= 2 {
			if q := s.Quote(text, most); Width(q) > most {
				t.Errorf("%q is %d cells wide, should be %d at most", q, Width(q), most)
			}
		}
	})
}

func TestTableIsAlignedByDisplayWidth(t *testing.T) {
	tab := Table{Columns: []Column{{Name: "USER"}, {Name: "SINCE", Drop: 1}, {Name: "N", Right: true}, {Name: "WHY", Want: 6}}}
	tab.Add("张三", "yesterday", "7", "a long reason that nobody can read")
	tab.Add("1001", "today", "1200", "x")
	tab.Note("    a note that is too long for this")
	for width, want := range map[int]string{
		0:  "USER  SINCE         N  WHY\n张三  yesterday     7  a long reason that nobody can read\n1001  today      1200  x\n    a note that is too long for this\n",
		30: "USER  SINCE         N  WHY\n张三  yesterday     7  a lon..\n1001  today      1200  x\n    a note that is too long ..\n",
		25: "USER     N  WHY\n张三     7  a long reas..\n1001  1200  x\n    a note that is too ..\n",
		8:  "USER  ..\n张三  ..\n1001  ..\n    a ..\n",
	} {
		var out bytes.Buffer
		tab.Print(&Screen{Out: &out, Width: width})
		if out.String() != want {
			t.Errorf("%d cells wide:\n%s\nwant:\n%s", width, out.String(), want)
		}
	}
}

func TestSpareColumnsAreLeftOutIfEmpty(t *testing.T) {
	tab := Table{Columns: []Column{{Name: "BANNED"}, {Name: "NODE", Spare: true}, {Name: "WHY"}}}
	for node, want := range map[string]string{"": "BANNED     WHY\n192.0.2.7  x\n", "a": "BANNED     NODE  WHY\n192.0.2.7  a     x\n"} {
		tab.Rows = [][]string{{"192.0.2.7", node, "x"}}
		var out bytes.Buffer
		tab.Print(&Screen{Out: &out})
		if out.String() != want {
			t.Errorf("node %q:\n%s\nwant:\n%s", node, out.String(), want)
		}
	}
}

// A screen of 40 columns shows the first column in whole, on a line of its own if need be, and the columns that are never dropped.
func TestNarrowTableKeepsTheFirstColumn(t *testing.T) {
	tab := Table{Columns: []Column{{Name: "BANNED"}, {Name: "RULE", Drop: 2}, {Name: "LEFT"}, {Name: "PACKETS", Right: true, Drop: 1}, {Name: "WHY", Want: 14}}}
	tab.Add("192.0.2.7", "auth", "23h59m", "12", "1000 1001 1002 1003 1004")
	tab.Add("2001:db8:1234:5678:9abc:def0:1234:5678", "operator", "forever", "0", "scans since Monday")
	for width, want := range map[int]string{
		80: "BANNED                                  RULE      LEFT     WHY\n" +
			"192.0.2.7                               auth      23h59m   1000 1001 1002 1003..\n" +
			"2001:db8:1234:5678:9abc:def0:1234:5678  operator  forever  scans since Monday\n",
		40: "BANNED     LEFT     WHY\n192.0.2.7  23h59m   1000 1001 1002 100..\n" +
			"2001:db8:1234:5678:9abc:def0:1234:5678\n           forever  scans since Monday\n",
		24: "BANNED  LEFT     WHY\n192.0.2.7\n        23h59m   1000 ..\n2001:db8:1234:5678:9ab..\n        forever  scans..\n",
	} {
		var out bytes.Buffer
		tab.Print(&Screen{Out: &out, Width: width})
		if out.String() != want {
			t.Errorf("%d cells wide:\n%s\nwant:\n%s", width, out.String(), want)
		}
	}
}

func TestEveryFullScreenOfATableHasAHeader(t *testing.T) {
	for _, tt := range []struct{ height, rows, headers int }{{0, 1000, 1}, {24, 22, 1}, {24, 23, 2}, {24, 100, 5}, {3, 100, 1}} {
		tab := Table{Columns: []Column{{Name: "N"}}}
		for i := range tt.rows {
			tab.Add(strconv.Itoa(i))
		}
		var out bytes.Buffer
		tab.Print(&Screen{Out: &out, Width: 80, Height: tt.height})
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		headers := 0
		for i, line := range lines {
			if line == "N" {
				headers++
			}
			if tt.height > minRepeat && i+tt.height-1 <= len(lines) && !slices.Contains(lines[i:i+tt.height-1], "N") {
				t.Errorf("%d rows on %d lines: no header in lines %d to %d", tt.rows, tt.height, i, i+tt.height-2)
			}
		}
		if headers != tt.headers {
			t.Errorf("%d rows on %d lines: %d headers, want %d", tt.rows, tt.height, headers, tt.headers)
		}
	}
}

func TestColorsOnlyWhereTheyAreWanted(t *testing.T) {
	if got := (&Screen{}).Paint(Red, "no"); got != "no" {
		t.Errorf("without colors: %q", got)
	}
	if got := (&Screen{Colors: true}).Paint(Red, "yes"); got != "\x1b[1;31myes\x1b[0m" {
		t.Errorf("with colors: %q", got)
	}
	if s := NewScreen(new(bytes.Buffer)); s.Colors {
		t.Error("colors where there is no terminal")
	}
}

func TestLocaleDecidesWhichCharactersAreShown(t *testing.T) {
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
		if s := NewScreen(new(bytes.Buffer)); s.ASCII != tt.ascii || s.Thin != tt.thin {
			t.Errorf("%+v: ascii %v, thin %v", tt, s.ASCII, s.Thin)
		}
	}
}

func TestHumanNumbers(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 999: "999", 1000: "1.0k", 9949: "9.9k", 9950: "10k", 99999: "100k", 999499: "999k", 999500: "1.0M", 1 << 63: "9.2E",
	} {
		if got := Human(n); got != want {
			t.Errorf("Human(%d) is %q, want %q", n, got, want)
		}
	}
}

func TestTextIsWrapped(t *testing.T) {
	s := &Screen{Width: 40}
	text := strings.Repeat("wörter → --flag a-b ", 40) + strings.Repeat("x", 200) + " end \x1b[2J"
	for _, name := range []string{"", "    seen    ", "  ! "} {
		got := s.Wrap(name, text)
		for i, line := range got {
			if n := Width(line); n > s.Width && !strings.Contains(line, "xxx") || strings.HasSuffix(line, " ") {
				t.Errorf("%q: %d cells: %q", name, n, line)
			}
			if begin := strings.Repeat(" ", Width(name)); i > 0 && (!strings.HasPrefix(line, begin) || line[len(begin)] == ' ') {
				t.Errorf("%q: indented otherwise: %q", name, line)
			}
		}
		joined := strings.Join(strings.Fields(strings.Join(got, " ")), " ")
		if want := strings.Join(strings.Fields(name+s.Clean(text)), " "); joined != want {
			t.Errorf("%q: got %s\nwant %s", name, joined, want)
		}
		if full := s.Wrap(name, strings.Repeat("y", s.Width-Width(name))+" z"); len(full) != 2 {
			t.Errorf("%q: a word as long as the line gives %q", name, full)
		}
	}
}

func TestDurationsHaveTwoUnits(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		0: "0s", 999 * time.Millisecond: "0s", 59*time.Second + 600*time.Millisecond: "1m0s", 11 * time.Minute: "11m", time.Hour: "1h",
		61 * time.Minute: "1h1m", 10 * time.Hour: "10h", day: "1d", 25 * time.Hour: "1d1h", day + 61*time.Minute: "1d1h1m", 49*time.Hour + 31*time.Minute: "2d2h", 1001 * day: "2y",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestCSVCellsAreQuotedAndAreNoFormulas(t *testing.T) {
	for cell, want := range map[string]string{
		"": `""`, "1001": `"1001"`, `a "b", c`: `"a ""b"", c"`, "a;b": `"a;b"`, "张三": `"张三"`, "1001\r\n=1": `"1001\r\n=1"`, "\x1b[2J": `"\x1b[2J"`,
		"=1+1": `"'=1+1"`, "+49": `"'+49"`, "-1": `"'-1"`, "@SUM(A1)": `"'@SUM(A1)"`, "  =1": `"'  =1"`, "\t=1": `"\t=1"`,
		"＝1": `"'＝1"`, "＋1": `"'＋1"`, "－1": `"'－1"`, "＠x": `"'＠x"`,
	} {
		if got := CSV(cell); got != want {
			t.Errorf("%q: %s, want %s", cell, got, want)
		}
	}
	if got, want := CSV("a", "b", ""), `"a","b",""`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A reader of CSV gets back the cleaned cells, and none that a spreadsheet calculates.
func FuzzCSV(f *testing.F) {
	f.Add("=cmd|' /C calc'!A0", "a,\"b\"\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		rows, err := csv.NewReader(strings.NewReader(CSV(a, b))).ReadAll()
		if err != nil || len(rows) != 1 || len(rows[0]) != 2 {
			t.Fatalf("%q, %q: %v, %v", a, b, rows, err)
		}
		for i, cell := range []string{a, b} {
			clean := (&Screen{}).Clean(cell)
			if got := rows[0][i]; got != clean && got != "'"+clean || strings.HasPrefix(strings.TrimSpace(got), "=") {
				t.Errorf("%q became %q", cell, got)
			}
		}
	})
}

func TestAClosedPipeIsNoticed(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	s := NewScreen(w)
	if s.Closed() || (&Screen{Out: io.Discard}).Closed() {
		t.Error("an open output counts as closed")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if !s.Closed() {
		t.Error("a pipe without a reader counts as open")
	}
}
