// Package term lays out text and tables for a terminal, and makes text of peers safe to print.
package term

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Screen describes the width and the abilities of an output. The zero Width is a file or a pipe.
type Screen struct {
	Out    io.Writer
	Width  int  // cells in a line; 0: no terminal, lines are not cut
	Height int  // lines; 0: no terminal
	Colors bool // the output is a terminal, and NO_COLOR and TERM allow colors
	ASCII  bool // the locale has no other characters
	Thin   bool // block characters are one cell wide
}

// DefaultWidth is the width of a terminal of unknown size.
const DefaultWidth = 80

// NewScreen describes out by its terminal and the environment. COLUMNS and LINES override the size.
func NewScreen(out io.Writer) *Screen {
	s := &Screen{Out: out}
	if f, ok := out.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			s.Width, s.Height = cmp.Or(int(size.Col), DefaultWidth), int(size.Row)
			s.Colors = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
		}
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n >= 20 {
		s.Width = n
	}
	if n, err := strconv.Atoi(os.Getenv("LINES")); err == nil && n > 0 {
		s.Height = n
	}
	locale := strings.ToLower(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	s.ASCII = !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
	// Many terminals in China, Japan and Korea draw block characters two cells wide.
	s.Thin = !s.ASCII && !strings.HasPrefix(locale, "zh") && !strings.HasPrefix(locale, "ja") && !strings.HasPrefix(locale, "ko")
	return s
}

// Closed reports whether nobody reads the output any more: the reader of a pipe has ended, or the terminal is gone.
func (s *Screen) Closed() bool {
	f, ok := s.Out.(*os.File)
	if !ok {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}} //nolint:gosec // a descriptor is small
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0
}

// IsTerminal reports whether f is a terminal.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

// A Color is the parameter of the terminal's SGR sequence.
type Color string

// The colors and styles in use.
const (
	Bold   Color = "1"
	Faint  Color = "2"
	Red    Color = "1;31"
	Green  Color = "1;32"
	Yellow Color = "33"
	Invert Color = "7"
)

// Paint colors text if the screen has colors.
func (s *Screen) Paint(c Color, text string) string {
	if !s.Colors || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// Protection renders whether fsban protects or only watches.
func (s *Screen) Protection(ready, watching bool) string {
	switch {
	case ready:
		return s.Paint(Green, "PROTECTING")
	case watching:
		return s.Paint(Yellow, "WATCHING: nobody is blocked")
	}
	return s.Paint(Red, "NOT PROTECTING")
}

// Row returns name followed by the cleaned text, on as many lines as the screen needs; on a pipe on one line.
func (s *Screen) Row(name, text string) []string {
	if s.Width == 0 {
		return []string{name + s.Clean(text)}
	}
	return s.Wrap(name, text)
}

// PrintRow prints a row.
func (s *Screen) PrintRow(name, text string) { s.PrintLines(s.Row(name, text)) }

// PrintLines prints lines as they are.
func (s *Screen) PrintLines(lines []string) {
	for _, line := range lines {
		fmt.Fprintln(s.Out, line)
	}
}
