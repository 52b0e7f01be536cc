package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/sys/unix"
)

// A screen is where people read: how wide it is and what it can show.
type screen struct {
	out    io.Writer
	width  int  // in cells; 0: no terminal, a line may have any length
	colors bool // as NO_COLOR and TERM have it; never where there is no terminal
	ascii  bool // the locale knows no other characters
	thin   bool // characters for drawing are one cell wide
}

// usualWidth is that of a terminal.
const usualWidth = 80

// screenOf looks at out. COLUMNS overrules how wide it is.
func screenOf(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			s.width = cmp.Or(int(size.Col), usualWidth)
			s.colors = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		}
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n >= 20 {
		s.width = n
	}
	locale := strings.ToLower(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	s.ascii = !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
	// Many terminals in China, Japan and Korea draw these two cells wide.
	s.thin = !s.ascii && !strings.HasPrefix(locale, "zh") && !strings.HasPrefix(locale, "ja") && !strings.HasPrefix(locale, "ko")
	return s
}

// isTerminal tells whether f is one.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// A color is the number that a terminal knows it by.
type color string

const (
	bold   color = "1"
	faint  color = "2"
	red    color = "1;31"
	green  color = "1;32"
	yellow color = "33"
	invert color = "7"
)

func (s *screen) paint(c color, text string) string {
	if !s.colors || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// clean is text of others as a terminal can bear it: what does not stand for itself is escaped, and so is what would move
// its neighbours: writing from right to left, marks that join with the character before.
func (s *screen) clean(text string) string {
	if isPlain(text) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(text[0])|0x100, 16)[1:])
		case !unicode.IsPrint(r), s.ascii && r >= utf8.RuneSelf, moves(r):
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
		text = text[size:]
	}
	return b.String()
}

func isPlain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// moves tells whether r does not stay in a cell, or two, of its own.
func moves(r rune) bool {
	for _, span := range [][2]rune{
		{0x590, 0x8ff}, {0xfb1d, 0xfdff}, {0xfe70, 0xfeff}, {0x10800, 0x10fff}, {0x1e800, 0x1efff}, // from right to left
		{0x1f1e6, 0x1f1ff}, {0x1f3fb, 0x1f3ff}, // flags and shades, that join
	} {
		if r >= span[0] && r <= span[1] {
			return true
		}
	}
	return r >= utf8.RuneSelf && (unicode.IsMark(r) || cells(string(r)) == 0)
}

// quote is what a peer said of itself, in quotation marks, in at most that many cells.
func (s *screen) quote(text string, most int) string {
	text = s.clean(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text))
	return `"` + shorten(text, most-2) + `"`
}

// cells is how wide a clean text is.
func cells(text string) int { return ansi.StringWidth(text) }

// shorten cuts a text to that many cells, and shows that it did.
func shorten(text string, most int) string {
	if cells(text) <= most {
		return text
	}
	return ansi.Truncate(text, max(most, 0), ".."[:min(2, max(most, 0))])
}

// fill pads a text to that many cells.
func fill(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-cells(text)))
}

// row is text with a name before it, on as many lines as the terminal needs.
func (s *screen) row(name, text string) []string {
	if s.width == 0 {
		return []string{name + s.clean(text)}
	}
	return strings.Split(strings.TrimSuffix(s.wrap(name, strings.Repeat(" ", cells(name)), text), "\n"), "\n")
}

// say prints a row.
func (s *screen) say(name, text string) {
	for _, line := range s.row(name, text) {
		fmt.Fprintln(s.out, line)
	}
}

// wrap breaks text into lines, cleaned. A word that is longer than a line stays whole.
func (s *screen) wrap(first, indent, text string) string {
	width := cmp.Or(s.width, usualWidth)
	var b strings.Builder
	line, used, empty := first, cells(first), true
	for word := range strings.FieldsSeq(text) {
		word = s.clean(word)
		w := cells(word)
		if !empty && used+1+w > width {
			b.WriteString(line + "\n")
			line, used, empty = indent, cells(indent), true
		}
		if !empty {
			line, used = line+" ", used+1
		}
		line, used, empty = line+word, used+w, false
	}
	return b.String() + line + "\n"
}
