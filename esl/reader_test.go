package esl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// readAll returns the frames of src, a line for each, and the final error.
func readAll(src io.Reader) (frames []string, err error) {
	r := NewReader(src)
	for {
		f, err := r.Next()
		if err != nil {
			return frames, err
		}
		frames = append(frames, fmt.Sprintf("%d %q %q", f.Type, f.Header, f.Body))
	}
}

func TestAReaderCutsFrames(t *testing.T) {
	for _, test := range []struct {
		name, stream string
		want         []string
		err          error
	}{
		{"nothing", "", nil, io.EOF},
		{"no body", "Content-Type: auth/request\n\n", []string{`1 "Content-Type: auth/request\n" ""`}, io.EOF},
		{"a body",
			"Content-Type: api/response\nContent-Length: 3\n\nabcContent-Type: auth/request\n\n",
			[]string{`3 "Content-Type: api/response\nContent-Length: 3\n" "abc"`, `1 "Content-Type: auth/request\n" ""`}, io.EOF},
		{"length before type",
			"Content-Length: 2\nContent-Type: text/event-plain\n\nab",
			[]string{`4 "Content-Length: 2\nContent-Type: text/event-plain\n" "ab"`}, io.EOF},
		{"a body with blank lines in it",
			"Content-Length: 4\nContent-Type: text/event-plain\n\na\n\nbContent-Type: auth/request\n\n",
			[]string{`4 "Content-Length: 4\nContent-Type: text/event-plain\n" "a\n\nb"`, `1 "Content-Type: auth/request\n" ""`}, io.EOF},
		{"an empty body", "Content-Type: api/response\nContent-Length: 0\n\n", []string{`3 "Content-Type: api/response\nContent-Length: 0\n" ""`}, io.EOF},
		{"carriage returns",
			"Content-Type: log/data\r\nContent-Length: 1\r\n\r\nx\r\n\r\nContent-Type: auth/request\r\n\r\n",
			[]string{`5 "Content-Type: log/data\r\nContent-Length: 1\r\n" "x"`, `1 "Content-Type: auth/request\r\n" ""`}, io.EOF},
		{"blank lines between frames", "\n\n\r\nContent-Type: auth/request\n\n\n\n\n", []string{`1 "Content-Type: auth/request\n" ""`}, io.EOF},
		{"header names in any case", "content-type: log/data\nCONTENT-LENGTH: 1\n\nx", []string{`5 "content-type: log/data\nCONTENT-LENGTH: 1\n" "x"`}, io.EOF},
		{"no space after the colon", "Content-Type:log/data\nContent-Length:1\n\nx", []string{`5 "Content-Type:log/data\nContent-Length:1\n" "x"`}, io.EOF},
		{"an unknown type, with its body",
			"Content-Type: text/new\nContent-Length: 1\n\nxContent-Type: auth/request\n\n",
			[]string{`0 "Content-Type: text/new\nContent-Length: 1\n" "x"`, `1 "Content-Type: auth/request\n" ""`}, io.EOF},
		{"no type at all", "Reply-Text: +OK\n\n", []string{`0 "Reply-Text: +OK\n" ""`}, io.EOF},
		{"a header without name or value", ":\nContent-Length: 1\n\nx", []string{`0 ":\nContent-Length: 1\n" "x"`}, io.EOF},
		{"the end in a header", "Content-Type: auth/request\n", nil, io.ErrUnexpectedEOF},
		{"the end in a body", "Content-Length: 2\n\nx", nil, io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := readAll(strings.NewReader(test.stream))
			if fmt.Sprint(got) != fmt.Sprint(test.want) || !errors.Is(err, test.err) {
				t.Errorf("got %v, %v\nwant %v, %v", got, err, test.want, test.err)
			}
		})
	}
}

func TestErrorsNameTheExceededBound(t *testing.T) {
	line := "X: " + strings.Repeat("x", MaxLine-4) + "\n" // the longest permitted
	for _, test := range []struct {
		name, stream, want string
	}{
		{"the longest line", line + "\n", "EOF"},
		{"a line too long", "Y" + line + "\n", "event socket protocol error: header line of more than 16384 bytes"},
		{"a line without an end", strings.Repeat("x", MaxHeader), "event socket protocol error: header line of more than 16384 bytes"},
		{"the longest block", line + line + line + line[1:] + "\n", "EOF"},
		{"a block too long", line + line + line + line + "\n", "event socket protocol error: header block of more than 65536 bytes"},
		{"a block without an end", strings.Repeat("X: y\n", MaxHeader), "event socket protocol error: header block of more than 65536 bytes"},
		{"blank lines only", strings.Repeat("\n", MaxHeader+1), "event socket protocol error: 65536 blank lines and no frame"},
		{"blank lines and the rest of a block", strings.Repeat("\n", MaxHeader-6) + "X: yy\n\n", "event socket protocol error: header block of more than 65536 bytes"},
		{"no colon", "HTTP/1.1 400 Bad Request\r\n\r\n", `event socket protocol error: "HTTP/1.1 400 Bad Request" is not a header line`},
		{"a length too large", "Content-Length: 16777217\n\n", `event socket protocol error: Content-Length "16777217" is not a number from 0 to 16777216`},
		{"a length beyond 64 bits", "Content-Length: 99999999999999999999\n\n", `event socket protocol error: Content-Length "99999999999999999999" is not a number from 0 to 16777216`},
		{"a negative length", "Content-Length: -1\n\n", `event socket protocol error: Content-Length "-1" is not a number from 0 to 16777216`},
		{"no number", "Content-Length: 0x10\n\n", `event socket protocol error: Content-Length "0x10" is not a number from 0 to 16777216`},
		{"an empty length", "Content-Length: \n\n", `event socket protocol error: Content-Length "" is not a number from 0 to 16777216`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := readAll(strings.NewReader(test.stream))
			if err.Error() != test.want || !errors.Is(err, ErrProtocol) && !errors.Is(err, io.EOF) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if _, slow := readAll(iotest.OneByteReader(strings.NewReader(test.stream))); slow.Error() != err.Error() {
				t.Errorf("byte by byte: %v", slow)
			}
		})
	}
}

func TestALieInContentLengthCostsNothing(t *testing.T) {
	r := NewReader(strings.NewReader("Content-Length: 16777216\n\nnot that much"))
	if _, err := r.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("got %v", err)
	}
	if len(r.buf) > firstBuffer {
		t.Errorf("the Reader holds %d bytes", len(r.buf))
	}
}

func TestTheLargestBodyIsReadWithinBoundsAndGivenBack(t *testing.T) {
	body := strings.Repeat("x", MaxBody)
	r := NewReader(strings.NewReader(fmt.Sprintf("Content-Length: %d\n\n%sContent-Type: auth/request\n\n", MaxBody, body)))
	f, err := r.Next()
	if err != nil || string(f.Body) != body {
		t.Fatalf("got %v", err)
	}
	if len(r.buf) > MaxHeader+MaxBody {
		t.Errorf("the Reader holds %d bytes", len(r.buf))
	}
	if f, err = r.Next(); err != nil || f.Type != AuthRequest {
		t.Fatalf("got %+v, %v", f, err)
	}
	if len(r.buf) != firstBuffer {
		t.Errorf("after the frame the Reader holds %d bytes", len(r.buf))
	}
}

func TestTheReadersErrorIsReturned(t *testing.T) {
	broken := errors.New("broken")
	for name, src := range map[string]io.Reader{
		"between frames": iotest.ErrReader(broken),
		"in a header":    io.MultiReader(strings.NewReader("Content-"), iotest.ErrReader(broken)),
		"with the data":  iotest.DataErrReader(io.MultiReader(strings.NewReader("Content-Type: x\n\n"), iotest.ErrReader(broken))),
	} {
		if _, err := readAll(src); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFrameGivesItsFirstHeaderOfAName(t *testing.T) {
	f, err := NewReader(strings.NewReader("Reply-Text: one\nreply-text: two\nEmpty:\n\n")).Next()
	if err != nil || f.Get("Reply-Text") != "one" || f.Get("Empty") != "" || f.Get("Missing") != "" {
		t.Errorf("got %q, %v", f.Header, err)
	}
}

func TestReadingAllocatesNothing(t *testing.T) {
	frame := []byte("Content-Length: 20\nContent-Type: text/event-plain\n\nEvent-Name: CUSTOM\n\n")
	r := NewReader(bytes.NewReader(bytes.Repeat(frame, 5000)))
	if n := testing.AllocsPerRun(1000, func() { _, _ = r.Next() }); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}
