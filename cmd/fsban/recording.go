package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"fsban/detect"
	"fsban/esl"
	"fsban/policy"
)

// An input is one recording.
type input struct {
	name  string
	raw   *counter      // what is read from the disk
	text  *bufio.Reader // unzipped
	file  *os.File      // nil for standard input
	size  int64         // of file
	first time.Time     // of its first record; zero where that is not known
}

// peek is how far into a recording its first time is looked for.
const peek = 256 << 10

func openInput(name string, stdin io.Reader) (in *input, err error) {
	in = &input{name: name, raw: &counter{Reader: stdin}}
	if name != "-" {
		if in.file, err = os.Open(name); err != nil {
			return nil, err
		}
		in.raw.Reader = in.file
		if info, err := in.file.Stat(); err == nil {
			in.size = info.Size()
		}
	}
	in.text = bufio.NewReaderSize(in.raw, peek)
	if magic, _ := in.text.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in.text)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", name, err), in.close())
		}
		in.text = bufio.NewReaderSize(z, peek)
	}
	in.first = in.firstTime()
	return in, nil
}

func (in *input) close() error {
	if in.file == nil {
		return nil
	}
	return in.file.Close()
}

// isFrames tells what an event socket sent from a log.
func (in *input) isFrames() bool {
	head, _ := in.text.Peek(len("Content-"))
	return string(head) == "Content-"
}

// firstTime looks ahead for the first time that the recording tells.
func (in *input) firstTime() time.Time {
	head, _ := in.text.Peek(peek)
	if in.isFrames() {
		ev := esl.NewEvent(detect.New(detect.Options{}).Fields())
		for r := esl.NewReader(bytes.NewReader(head)); ; {
			f, err := r.Next()
			if err != nil {
				return time.Time{}
			}
			if f.Type == esl.EventPlain && ev.Parse(f.Body) == nil || f.Type == esl.EventJSON && ev.ParseJSON(f.Body) == nil {
				if at, ok := detect.EventTime(ev); ok {
					return at
				}
			}
		}
	}
	d := detect.New(detect.Options{})
	for line := range bytes.Lines(head) {
		if a, ok := attemptOf(d, line); ok {
			return a.At
		}
	}
	return time.Time{}
}

// oldestFirst opens recordings in the order of their first times: a shell's * names the newest log first. What it opened
// is returned with an error too.
func oldestFirst(names []string, stdin io.Reader) ([]*input, error) {
	var inputs []*input
	for _, name := range names {
		in, err := openInput(name, stdin)
		if err != nil {
			return inputs, err
		}
		inputs = append(inputs, in)
	}
	slices.SortStableFunc(inputs, func(a, b *input) int { return a.first.Compare(b.first) })
	return inputs, nil
}

// attemptOf reads a line of mod_cti's file, or of a console log. A record without a time has no place in the recording's.
func attemptOf(d *detect.Detector, line []byte) (policy.Attempt, bool) {
	a, outcome := d.CTILine(line, time.Time{})
	if outcome == detect.NotUnderstood {
		a, outcome = d.CTIConsoleLine(line, time.Time{})
	}
	return a, outcome == detect.Attempt
}

// progressOf returns a progress bar on out, or nothing where out is no terminal.
func progressOf(out io.Writer) func(done, total int64) {
	if f, ok := out.(*os.File); !ok || !isTerminal(f) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return progressBar(out)
}

func progressBar(out io.Writer) func(done, total int64) {
	last := int64(-1)
	return func(done, total int64) {
		percent := min(done*100/total, 100) // a log grows while it is read
		if percent == last {
			return
		}
		last = percent
		bar := "########################################"[:percent*40/100]
		fmt.Fprintf(out, "\r[%-40s] %3d%%", bar, percent)
		if percent == 100 {
			fmt.Fprint(out, "\r\033[K")
		}
	}
}

// A counter tells how many bytes were read through it.
type counter struct {
	io.Reader
	done int64
	tell func(done int64) // nil: nobody
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.done += int64(n)
	if c.tell != nil {
		c.tell(c.done)
	}
	return n, err
}
