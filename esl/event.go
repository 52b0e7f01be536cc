package esl

import (
	"bytes"
	"fmt"
	"iter"
)

// Fields is a fixed list of event headers: those that an Event keeps. Other headers cost neither memory nor decoding. A Fields
// is read-only after NewFields and may be shared.
type Fields struct {
	names   []string
	initial [256][]field // by the first letter of the name: rules out most lines of an event
}

type field struct {
	name  string
	index int
}

// NewFields returns the list of names; a name's place in it is its index for Event.Get. Names are spelled as in FreeSWITCH.
func NewFields(names ...string) *Fields {
	f := &Fields{names: names}
	for i, n := range names {
		f.initial[n[0]] = append(f.initial[n[0]], field{n, i})
	}
	return f
}

// Index returns the place of name in the list, or -1.
func (f *Fields) Index(name string) int {
	for i, n := range f.names {
		if n == name {
			return i
		}
	}
	return -1
}

// An Event is one event, reduced to the headers of a Fields. It is valid until the next one is parsed.
type Event struct {
	fields *Fields
	values [][]byte // as sent; nil if the event has no such header
	body   []byte
	text   []byte // decoded values

	plain   []byte   // the parsed bytes
	decoded bool     // parsed from JSON: values are already decoded
	headers []header // all headers of an event parsed from JSON
}

type header struct {
	name  string
	value []byte
}

// NewEvent returns an empty Event for f, to be filled by Parse again and again.
func NewEvent(f *Fields) *Event {
	return &Event{fields: f, values: make([][]byte, len(f.names))}
}

// Parse reads the body of a text/event-plain frame. It keeps slices of body, and the first of headers that come twice
// (register_failure has two profile-name). It allocates nothing.
func (e *Event) Parse(body []byte) error {
	fields, values := e.fields, e.values
	clear(values)
	e.body, e.text = nil, e.text[:0]
	e.plain, e.decoded, e.headers = body, false, nil
	inner := 0
	for len(body) > 0 {
		line := body
		if i := bytes.IndexByte(body, '\n'); i >= 0 {
			line, body = body[:i], body[i+1:]
		} else {
			body = nil
		}
		if isBlank(line) {
			break
		}
		if line[0] == 'C' {
			if value, ok := valueOf(line, "Content-Length"); ok {
				n, err := parseLength(value, MaxBody)
				if err != nil {
					return fmt.Errorf("event: %w", err)
				}
				inner = n
			}
		}
		for _, f := range fields.initial[line[0]] {
			value, ok := valueOf(line, f.name)
			if !ok {
				continue
			}
			if values[f.index] == nil {
				values[f.index] = value
			}
			break
		}
	}
	if inner > len(body) {
		return fmt.Errorf("%w: event body of %d bytes in the %d that are left of the frame", ErrProtocol, inner, len(body))
	}
	e.body = body[:inner]
	return nil
}

// isBlank reports whether line, without its line feed, is empty.
func isBlank(line []byte) bool {
	return len(line) == 0 || len(line) == 1 && line[0] == '\r'
}

// valueOf returns the value of the header name in line; ok is false for other headers.
func valueOf(line []byte, name string) (value []byte, ok bool) {
	n := len(name)
	if len(line) <= n || line[n] != ':' || string(line[:n]) != name {
		return nil, false
	}
	value = line[n+1:]
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	if n := len(value); n > 0 && value[n-1] == '\r' {
		value = value[:n-1]
	}
	return value, true
}

// Get returns the decoded value of header i of the Fields: nil if the event has no such header, or one without a value
// ("_undef_" in plain format, "" in JSON). The bytes are chosen by a peer, and valid until the next Parse.
func (e *Event) Get(i int) []byte {
	v := e.values[i]
	if e.decoded {
		return orNil(v)
	}
	if bytes.IndexByte(v, '%') < 0 {
		if string(v) == "_undef_" {
			return nil
		}
		return v
	}
	from := len(e.text)
	e.text = appendUnescaped(e.text, v)
	return e.text[from:len(e.text):len(e.text)]
}

// Headers yields the name and the value, as Get returns it, of all headers of the event in order, including duplicates and
// those not in the Fields. It is meant for inspection; Get costs less.
func (e *Event) Headers() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for _, h := range e.headers {
			if !yield([]byte(h.name), orNil(h.value)) {
				return
			}
		}
		for line := range bytes.Lines(e.plain) {
			name, value, ok := cutHeader(line)
			switch {
			case !ok && len(name) == 0:
				return
			case !ok:
				continue // as Parse does
			case string(value) == "_undef_":
				value = nil
			case bytes.IndexByte(value, '%') >= 0:
				value = appendUnescaped(nil, value)
			}
			if !yield(name, value) {
				return
			}
		}
	}
}

// orNil returns v, or nil for a value of JSON that is empty, as in plain format.
func orNil(v []byte) []byte {
	if len(v) == 0 {
		return nil
	}
	return v
}

// Body returns the event's own body, empty for most.
func (e *Event) Body() []byte { return e.body }

// appendUnescaped appends v with its %XX escapes resolved. Other sequences stay unchanged: FreeSWITCH leaves such sequences of
// a peer unencoded, so they are text.
func appendUnescaped(dst, v []byte) []byte {
	for {
		i := bytes.IndexByte(v, '%')
		if i < 0 || i+2 >= len(v) {
			return append(dst, v...)
		}
		dst = append(dst, v[:i]...)
		if hi, lo := unhex(v[i+1]), unhex(v[i+2]); hi >= 0 && lo >= 0 {
			dst, v = append(dst, byte(hi<<4|lo)), v[i+3:]
		} else {
			dst, v = append(dst, '%'), v[i+1:]
		}
	}
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// A Log is one line of FreeSWITCH's log, from a log/data frame. Its slices are valid until the next frame.
type Log struct {
	Level int    // 0 (console) to 7 (debug), 4 is warning
	File  []byte // the source file that printed it: set by FreeSWITCH, not by the sender
	Func  []byte
	Text  []byte // may contain any text of a peer, whole forged lines included
}

// ParseLog reads a log/data frame.
func ParseLog(f *Frame) Log {
	l := Log{Level: -1, Text: f.Body}
	if v, ok := lookup(f.Header, "Log-Level"); ok && len(v) == 1 && v[0] >= '0' && v[0] <= '9' {
		l.Level = int(v[0] - '0')
	}
	l.File, _ = lookup(f.Header, "Log-File")
	l.Func, _ = lookup(f.Header, "Log-Func")
	return l
}
