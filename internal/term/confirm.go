package term

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// ErrNoTerminal is the error of Confirm without an operator to ask.
var ErrNoTerminal = errors.New("standard input is no terminal to confirm on")

// Confirm asks a question on out and reports whether the line read from in is yes or y. Any other answer, and the end of the
// input, is no. If in is a file but no terminal the error is ErrNoTerminal, and nothing is asked.
func Confirm(in io.Reader, out io.Writer, question string) (bool, error) {
	if f, ok := in.(*os.File); ok && !IsTerminal(f) {
		return false, ErrNoTerminal
	}
	fmt.Fprintf(out, "%s [y/N] ", question)
	line, err := bufio.NewReader(io.LimitReader(in, 1<<10)).ReadString('\n')
	if err != nil {
		fmt.Fprintln(out)
		if !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("read the answer: %w", err)
		}
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	return false, nil
}
