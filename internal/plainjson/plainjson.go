// Package plainjson escapes the characters that encoding/json leaves as they are and that a terminal would act upon.
package plainjson

import (
	"bytes"
	"io"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Escape returns a JSON text with every character escaped that does not print: DEL, the control characters of C1, and marks that
// change the direction of text or have no width. A JSON text has them in strings only, so its meaning is the same. It returns
// text itself if there are none.
func Escape(text []byte) []byte {
	i := bytes.IndexFunc(text, hidden)
	if i < 0 {
		return text
	}
	escaped := append(make([]byte, 0, len(text)+64), text[:i]...)
	for len(text) > i {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case !hidden(r):
			escaped = append(escaped, text[i:i+size]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escaped = unit(unit(escaped, high), low)
		default:
			escaped = unit(escaped, r)
		}
		i += size
	}
	return escaped
}

// unit appends a code unit of UTF-16 as JSON writes it.
func unit(text []byte, r rune) []byte {
	return append(append(text, `\u`...), strconv.FormatInt(int64(r)|0x10000, 16)[1:]...)
}

// hidden reports whether r must be escaped. Control characters of ASCII are the encoder's, or white space between values.
func hidden(r rune) bool { return r >= 0x7f && !unicode.IsPrint(r) }

// A Writer escapes the JSON text that is written to it. Each Write must consist of whole characters, as those of json.Encoder and
// slog.JSONHandler do.
type Writer struct{ Out io.Writer }

func (w Writer) Write(text []byte) (int, error) {
	if _, err := w.Out.Write(Escape(text)); err != nil {
		return 0, err
	}
	return len(text), nil
}
