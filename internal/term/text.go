package term

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// Clean escapes every character that does not print as itself or that would move its neighbors: control characters, invalid
// UTF-8, right-to-left text, combining marks, and on an ASCII screen all beyond ASCII.
func (s *Screen) Clean(text string) string {
	if isPlain(text) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(text[0])|0x100, 16)[1:])
		case !unicode.IsPrint(r), s.ASCII && r >= utf8.RuneSelf, moves(r):
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

// moves reports whether r does not stay in one or two cells of its own.
func moves(r rune) bool {
	for _, span := range [][2]rune{
		{0x590, 0x8ff}, {0xfb1d, 0xfdff}, {0xfe70, 0xfeff}, {0x10800, 0x10fff}, {0x1e800, 0x1efff}, // from right to left
		{0x1f1e6, 0x1f1ff}, {0x1f3fb, 0x1f3ff}, // flags and skin tones, which join
	} {
		if r >= span[0] && r <= span[1] {
			return true
		}
	}
	return r >= utf8.RuneSelf && (unicode.IsMark(r) || Width(string(r)) == 0)
}

// Quote cleans text of a peer and puts it into quotation marks, in at most that many cells.
func (s *Screen) Quote(text string, most int) string {
	text = s.Clean(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text))
	return `"` + Truncate(text, most-2) + `"`
}

// Width returns the number of cells that cleaned text takes.
func Width(text string) int { return ansi.StringWidth(text) }

// Truncate cuts text to that many cells, and marks the cut.
func Truncate(text string, most int) string {
	if Width(text) <= most {
		return text
	}
	return ansi.Truncate(text, max(most, 0), ".."[:min(2, max(most, 0))])
}

// Pad fills text with spaces to that many cells.
func Pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-Width(text)))
}

// hyphen stands in for "-" while text is wrapped, because ansi breaks words at it. Clean escapes it, so no text contains it.
const hyphen = "\ue000"

// Wrap breaks cleaned text into lines of the screen's width. The first begins with name, the others are indented by its
// width. A word longer than a line stays whole.
func (s *Screen) Wrap(name, text string) []string {
	room := max(1, cmp.Or(s.Width, DefaultWidth)-Width(name))
	text = s.Clean(strings.Join(strings.Fields(text), " "))
	text = ansi.Wordwrap(strings.ReplaceAll(text, "-", hyphen), room, "")
	lines := strings.Split(strings.ReplaceAll(text, hyphen, "-"), "\n")
	for i := range lines {
		lines[i] = name + lines[i]
		name = strings.Repeat(" ", Width(name))
	}
	return lines
}

// Human writes a number in at most three digits and a unit.
func Human(n uint64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	x, unit := float64(n), 0
	for ; x >= 999.5; unit++ {
		x /= 1000
	}
	text := fmt.Sprintf("%.1f", x)
	if x >= 9.95 {
		text = fmt.Sprintf("%.0f", x)
	}
	return text + string(" kMGTPE"[unit])
}

// Duration writes a duration in its two largest units.
func Duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return "0s"
	case d < 10*time.Minute:
		return d.Round(time.Second).String()
	case d > 1000*day:
		return fmt.Sprintf("%dy", d/(365*day))
	case d > 2*day:
		d = d.Round(time.Hour)
	default:
		d = d.Round(time.Minute)
	}
	text := ""
	if days := d / day; days > 0 {
		text = fmt.Sprintf("%dd", days)
		if d %= day; d == 0 {
			return text
		}
	}
	rest := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(rest, zero) {
			rest = rest[:len(rest)-2]
		}
	}
	return text + rest
}

// Prefix writes a prefix as an operator types it: a single address without its length.
func Prefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
