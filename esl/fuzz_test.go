package esl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"fsban/internal/captures"
)

// pieces reads as many bytes of data at a time as cuts says, repeatedly.
type pieces struct {
	data, cuts []byte
	next       int
}

func (p *pieces) Read(b []byte) (int, error) {
	n := 1
	if len(p.cuts) > 0 {
		n += int(p.cuts[p.next%len(p.cuts)])
		p.next++
	}
	src := bytes.NewReader(p.data[:min(n, len(p.data))])
	n, err := src.Read(b)
	p.data = p.data[n:]
	return n, err
}

// FuzzReader: however a stream is split, the frames and the error are the same, and memory stays within the bounds.
func FuzzReader(f *testing.F) {
	for _, name := range captures.Names(f, "*.esl") {
		f.Add(captures.Read(f, name), []byte{3, 100, 0, 255})
	}
	f.Add([]byte("Content-Length: 16777216\n\nx"), []byte{})
	f.Add([]byte("\r\n\nContent-Length: -1\n\n"), []byte{1})
	f.Add([]byte(strings.Repeat("X: y\n", MaxHeader/4)), []byte{255})
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		whole, wholeErr := readAll(bytes.NewReader(data))
		cut, cutErr := readAll(&pieces{data: data, cuts: cuts})
		if fmt.Sprint(whole) != fmt.Sprint(cut) || wholeErr.Error() != cutErr.Error() {
			t.Errorf("at once: %v, %v\nin pieces: %v, %v", whole, wholeErr, cut, cutErr)
		}
		r := NewReader(bytes.NewReader(data))
		for {
			f, err := r.Next()
			if len(r.buf) > MaxHeader+MaxBody || len(r.buf) > firstBuffer+2*len(data) {
				t.Fatalf("holds %d bytes for %d", len(r.buf), len(data))
			}
			if err != nil {
				return
			}
			if len(f.Header) > MaxHeader || len(f.Body) > MaxBody {
				t.Fatalf("a frame of %d and %d bytes", len(f.Header), len(f.Body))
			}
		}
	})
}

// FuzzEvent: Parse and Get agree with a simple parser.
func FuzzEvent(f *testing.F) {
	for _, name := range captures.Names(f, "*.plain*.esl") {
		r := NewReader(bytes.NewReader(captures.Read(f, name)))
		for frame, err := r.Next(); err == nil; frame, err = r.Next() {
			f.Add(bytes.Clone(frame.Body))
		}
	}
	f.Add([]byte("to-user: _undef_\nto-user: x\nto-host: %zz%4\n\n"))
	f.Add([]byte("to-user: a\r\nContent-Length: 3\r\n\r\nabcd"))
	names := []string{"Event-Name", "Event-Subclass", "to-user", "to-host", "user-agent", "Content-Type"}
	e := NewEvent(NewFields(names...))
	f.Fuzz(func(t *testing.T, data []byte) {
		want, wantErr := readEvent(string(data))
		err := e.Parse(data)
		if (err != nil) != wantErr {
			t.Fatalf("error %v, want one: %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if string(e.Body()) != want.body {
			t.Errorf("body %q, want %q", e.Body(), want.body)
		}
		for i, name := range names {
			raw, ok := want.headers[name]
			got := e.Get(i)
			if (got != nil) != (ok && raw != "_undef_") {
				t.Errorf("%s: %#v of %q", name, got, raw)
			}
			if got != nil && string(got) != unescape(raw) {
				t.Errorf("%s: %q of %q, want %q", name, got, raw, unescape(raw))
			}
			if len(got) > len(raw) {
				t.Errorf("%s: %d bytes of %d", name, len(got), len(raw))
			}
		}
		headersAgree(t, e, names)
	})
}

// headersAgree checks that Get returns the first header of each name.
func headersAgree(t *testing.T, e *Event, names []string) {
	first := make(map[string][]byte)
	for name, value := range e.Headers() {
		if _, again := first[string(name)]; !again {
			first[string(name)] = value
		}
	}
	for i, name := range names {
		if got, want := first[name], e.Get(i); !bytes.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("%s: %#v among all headers, %#v alone", name, got, want)
		}
	}
}

// FuzzJSON: ParseJSON accepts only JSON objects, and agrees with package json except for bytes that are not UTF-8.
func FuzzJSON(f *testing.F) {
	for _, name := range captures.Names(f, "*.json.esl") {
		r := NewReader(bytes.NewReader(captures.Read(f, name)))
		for frame, err := r.Next(); err == nil; frame, err = r.Next() {
			if frame.Type == EventJSON {
				f.Add(bytes.Clone(frame.Body))
			}
		}
	}
	f.Add([]byte(`{"to-user":["\ud83d\ude00\ud83d",1],"to-user":"x","to-host":{"a":[]},"_body":"\\\""}`))
	f.Add([]byte(`{"to-user" "x"}`))
	names := []string{"Event-Name", "to-user", "to-host", "user-agent"}
	e := NewEvent(NewFields(names...))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := e.ParseJSON(data)
		if object := json.Valid(data) && bytes.TrimLeft(data, " \t\r\n")[0] == '{'; object != (err == nil) {
			t.Fatalf("error %v of %q", err, data)
		}
		if err != nil {
			return
		}
		headersAgree(t, e, names)
		var want map[string]any // the last of each name
		if json.Unmarshal(data, &want) != nil || !utf8.Valid(data) {
			return
		}
		seen := make(map[string]int)
		for name := range e.Headers() {
			seen[string(name)]++
		}
		for i, name := range names {
			if text, ok := want[name].(string); ok && seen[name] == 1 && text != string(e.Get(i)) {
				t.Errorf("%s: %q, want %q", name, e.Get(i), text)
			}
		}
	})
}

// A model is the result of readEvent.
type model struct {
	headers map[string]string // first of each name, as sent
	body    string
}

// readEvent is a simple parser of events.
func readEvent(text string) (m model, failed bool) {
	m.headers = make(map[string]string)
	length := 0
	for text != "" {
		line, rest, _ := strings.Cut(text, "\n")
		text = rest
		line = strings.TrimSuffix(line, "\r")
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		value = strings.TrimPrefix(value, " ")
		if _, again := m.headers[name]; !again {
			m.headers[name] = value
		}
		if name == "Content-Length" {
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil || n > MaxBody {
				return m, true
			}
			length = int(n)
		}
	}
	if length > len(text) {
		return m, true
	}
	m.body = text[:length]
	return m, false
}

var escape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

func unescape(s string) string {
	return escape.ReplaceAllStringFunc(s, func(e string) string {
		n, _ := strconv.ParseUint(e[1:], 16, 8)
		return string([]byte{byte(n)})
	})
}
