// Package fsxml parses the XML that FreeSWITCH shows of its configuration: bounded, and tolerant of the bytes it writes.
package fsxml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The bounds of a document. The largest that FreeSWITCH shows are the directory and the dialplan.
const (
	maxDepth    = 40
	maxElements = 400_000
	maxText     = 4 << 10 // bytes of text kept of one element
)

// An Element is one XML element. A nil Element has no name, attributes or children.
type Element struct {
	Name string
	Attr map[string]string
	Text string // at most maxText bytes
	Kids []*Element
}

// Attribute returns the value of an attribute, or "".
func (e *Element) Attribute(name string) string {
	if e == nil {
		return ""
	}
	return e.Attr[name]
}

// Children returns the children of that name, in order.
func (e *Element) Children(name string) []*Element {
	if e == nil {
		return nil
	}
	var found []*Element
	for _, k := range e.Kids {
		if k.Name == name {
			found = append(found, k)
		}
	}
	return found
}

// Child returns the first child of that name, or nil.
func (e *Element) Child(name string) *Element {
	if e != nil {
		for _, k := range e.Kids {
			if k.Name == name {
				return k
			}
		}
	}
	return nil
}

// ChildText returns the trimmed text of the first child of that name.
func (e *Element) ChildText(name string) string {
	if c := e.Child(name); c != nil {
		return strings.TrimSpace(c.Text)
	}
	return ""
}

// All calls f with e and every element below it.
func (e *Element) All(f func(*Element)) {
	if e == nil {
		return
	}
	f(e)
	for _, k := range e.Kids {
		k.All(f)
	}
}

var (
	errNotXML   = errors.New("it is not XML")
	errTooLarge = fmt.Errorf("it has more than %d elements, or more than %d levels", maxElements, maxDepth)
)

// Parse parses a document. With an error it returns the part before the fault, or nil.
func Parse(data []byte) (*Element, error) {
	d := xml.NewDecoder(bytes.NewReader(clean(data)))
	// FreeSWITCH declares ISO-8859-1 and writes bytes as it received them.
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	var root *Element
	var open []*Element
	count := 0
	for {
		token, err := d.Token()
		if err != nil {
			return ended(root, open, err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			if count++; count > maxElements || len(open) == maxDepth {
				return root, errTooLarge
			}
			e := newElement(&t)
			switch {
			case len(open) > 0:
				parent := open[len(open)-1]
				parent.Kids = append(parent.Kids, e)
			case root != nil:
				return root, nil // one document is enough
			default:
				root = e
			}
			open = append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				e := open[len(open)-1]
				if room := maxText - len(e.Text); room > 0 && len(bytes.TrimSpace(t)) > 0 {
					e.Text += string(t[:min(len(t), room)])
				}
			}
		}
	}
}

func newElement(t *xml.StartElement) *Element {
	e := &Element{Name: t.Name.Local}
	if len(t.Attr) > 0 {
		e.Attr = make(map[string]string, len(t.Attr))
	}
	for _, a := range t.Attr {
		if _, twice := e.Attr[a.Name.Local]; !twice {
			e.Attr[a.Name.Local] = a.Value
		}
	}
	return e
}

// ended returns the document at its end, or the error that the end is.
func ended(root *Element, open []*Element, err error) (*Element, error) {
	switch {
	case root == nil:
		return nil, errNotXML
	case len(open) == 0:
		return root, nil
	}
	if syntax, ok := errors.AsType[*xml.SyntaxError](err); ok {
		err = fmt.Errorf("line %d: %s", syntax.Line, syntax.Msg)
	}
	return root, fmt.Errorf("it is cut short or damaged: %w", err)
}

// clean replaces invalid UTF-8 and control characters, which XML forbids.
func clean(data []byte) []byte {
	data = bytes.ToValidUTF8(data, []byte("?"))
	return bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			return '?'
		}
		return r
	}, data)
}

// IsTrue reads a value as FreeSWITCH's switch_true does.
func IsTrue(value string) bool {
	switch strings.ToLower(value) {
	case "yes", "on", "true", "t", "enabled", "active", "allow":
		return true
	}
	digits := strings.Trim(value, "0123456789") == ""
	return digits && strings.Trim(value, "0") != ""
}
