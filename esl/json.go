package esl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// ParseJSON reads the body of a text/event-json frame, as recordings contain them. The event equals the one that Parse reads in
// plain format, except for values in which a peer sent escapes of its own: plain format has them decoded, JSON unchanged.
//
// Of duplicate names the first is kept, and of an array, which plain format has in one piece, the first element. Values other
// than text are dropped. Bytes that are not UTF-8 are kept. The event keeps nothing of body.
func (e *Event) ParseJSON(body []byte) error {
	_ = e.Parse(nil)
	e.decoded = true
	if err := e.parseJSON(body); err != nil {
		_ = e.Parse(nil)
		return fmt.Errorf("event: %w: %w", ErrProtocol, err)
	}
	return nil
}

func (e *Event) parseJSON(body []byte) error {
	if len(body) > MaxBody {
		return fmt.Errorf("JSON of %d bytes, more than %d", len(body), MaxBody)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if start, err := d.Token(); err != nil {
		return inside(err)
	} else if start != json.Delim('{') {
		return errors.New("JSON that is no object")
	}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return inside(err)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return inside(err)
		}
		name, _ := token.(string) // the Decoder accepts nothing else here
		if value, ok := text(raw); ok {
			e.keep(name, value)
		}
	}
	if _, err := d.Token(); err != nil { // the end of the object
		return inside(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON object")
	}
	return nil
}

func (e *Event) keep(name string, value []byte) {
	if name == "_body" {
		e.body = value
		return
	}
	e.headers = append(e.headers, header{name, value})
	if i := e.fields.Index(name); i >= 0 && e.values[i] == nil {
		e.values[i] = value
	}
}

// text returns the text that the JSON value raw is or starts with.
func text(raw json.RawMessage) (value []byte, ok bool) {
	if raw[0] == '[' {
		var elements []json.RawMessage
		if json.Unmarshal(raw, &elements) != nil || len(elements) == 0 {
			return nil, false
		}
		raw = elements[0]
	}
	if raw[0] != '"' {
		return nil, false
	}
	return unquote(raw[1 : len(raw)-1]), true
}

// unquote resolves the escapes of a JSON string. Unlike package json it keeps bytes that are not UTF-8.
func unquote(s []byte) []byte {
	value := make([]byte, 0, len(s))
	for len(s) > 0 {
		if s[0] != '\\' {
			value, s = append(value, s[0]), s[1:]
			continue
		}
		if s[1] != 'u' {
			value, s = append(value, shortEscape(s[1])), s[2:]
			continue
		}
		r := codeUnit(s)
		s = s[6:]
		if utf16.IsSurrogate(r) {
			pair := utf8.RuneError
			if len(s) >= 6 && s[0] == '\\' && s[1] == 'u' {
				pair = utf16.DecodeRune(r, codeUnit(s))
			}
			if pair != utf8.RuneError {
				s = s[6:]
			}
			r = pair
		}
		value = utf8.AppendRune(value, r)
	}
	return value
}

func shortEscape(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c // itself: quote, backslash, slash
}

// codeUnit returns the code unit of the \uXXXX at the start of s.
func codeUnit(s []byte) rune {
	r := rune(0)
	for _, c := range s[2:6] {
		r = r<<4 | rune(unhex(c))
	}
	return r
}
