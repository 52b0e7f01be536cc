package neverban

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

const (
	apiTimeout = 5 * time.Second
	maxReply   = 8 << 20 // bytes
	maxDepth   = 32      // nested elements
)

// ask runs an api command of FreeSWITCH that answers in XML.
func (w *Watcher) ask(ctx context.Context, name, arguments string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	data, err := w.opts.API(ctx, name, arguments)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("FreeSWITCH does not answer to %s %s", name, arguments)
	case err != nil:
		return nil, err
	case len(data) > maxReply:
		return nil, fmt.Errorf("FreeSWITCH answers %s %s with %d bytes, more than %d", name, arguments, len(data), maxReply)
	}
	if data = bytes.TrimSpace(data); !bytes.HasPrefix(data, []byte("<")) {
		return nil, fmt.Errorf("FreeSWITCH answers %s %s with %q", name, arguments, data[:min(len(data), 80)])
	}
	return data, nil
}

// walk calls start for the elements of data and text for their content; path is the names of the enclosing elements and of the
// element itself. FreeSWITCH does not escape all of its output: an ampersand stands for itself.
func walk(data []byte, start func(path []string, attrs map[string]string), text func(path []string, value string)) error {
	d := xml.NewDecoder(bytes.NewReader(bytes.Map(legible, data)))
	d.Strict = false
	d.CharsetReader = func(_ string, input io.Reader) (io.Reader, error) { return input, nil }
	var path []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if path = append(path, t.Name.Local); len(path) > maxDepth {
				return fmt.Errorf("more than %d elements within each other", maxDepth)
			}
			attrs := make(map[string]string, len(t.Attr))
			for _, a := range t.Attr {
				attrs[a.Name.Local] = a.Value
			}
			start(path, attrs)
		case xml.EndElement:
			path = path[:len(path)-1]
		case xml.CharData:
			if len(path) > 0 {
				text(path, string(t))
			}
		}
	}
}

// legible replaces characters that are invalid in XML. FreeSWITCH declares its answers as ISO-8859-1, but copies the bytes of
// its configuration in any encoding; names of hosts are ASCII.
func legible(r rune) rune {
	if r == unicode.ReplacementChar || r == 0xFFFE || r == 0xFFFF || unicode.IsControl(r) && !strings.ContainsRune("\t\n\r", r) {
		return '?'
	}
	return r
}

// printable returns a user-defined name without characters unfit for display.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), 80)], "?"))
	if s == "" {
		return `""`
	}
	return s
}
