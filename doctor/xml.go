package doctor

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

// An element is one XML element. A nil element has no name, attributes or children.
type element struct {
	name string
	attr map[string]string
	text string
	kids []*element
}

// attribute returns the value of an attribute, or "".
func (e *element) attribute(name string) string {
	if e == nil {
		return ""
	}
	return e.attr[name]
}

// children returns the children of that name, in order.
func (e *element) children(name string) []*element {
	if e == nil {
		return nil
	}
	var found []*element
	for _, k := range e.kids {
		if k.name == name {
			found = append(found, k)
		}
	}
	return found
}

// child returns the first child of that name, or nil.
func (e *element) child(name string) *element {
	if e != nil {
		for _, k := range e.kids {
			if k.name == name {
				return k
			}
		}
	}
	return nil
}

// childText returns the trimmed text of the first child of that name.
func (e *element) childText(name string) string {
	if c := e.child(name); c != nil {
		return strings.TrimSpace(c.text)
	}
	return ""
}

// all calls f with e and every element below it.
func (e *element) all(f func(*element)) {
	if e == nil {
		return
	}
	f(e)
	for _, k := range e.kids {
		k.all(f)
	}
}

var (
	errNotXML   = errors.New("it is not XML")
	errTooLarge = fmt.Errorf("it has more than %d elements, or more than %d levels", maxElements, maxDepth)
)

// parse reads a document. With an error it returns what stood before the fault, if anything.
func parse(data []byte) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(clean(data)))
	// FreeSWITCH declares ISO-8859-1 and writes whatever bytes it was given.
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil }
	var root *element
	var open []*element
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
				parent.kids = append(parent.kids, e)
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
				if room := maxText - len(e.text); room > 0 && len(bytes.TrimSpace(t)) > 0 {
					e.text += string(t[:min(len(t), room)])
				}
			}
		}
	}
}

func newElement(t *xml.StartElement) *element {
	e := &element{name: t.Name.Local}
	if len(t.Attr) > 0 {
		e.attr = make(map[string]string, len(t.Attr))
	}
	for _, a := range t.Attr {
		if _, twice := e.attr[a.Name.Local]; !twice {
			e.attr[a.Name.Local] = a.Value
		}
	}
	return e
}

// ended says what the end of a document means.
func ended(root *element, open []*element, err error) (*element, error) {
	switch {
	case root == nil:
		return nil, errNotXML
	case len(open) == 0:
		return root, nil
	}
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		err = fmt.Errorf("line %d: %s", syntax.Line, syntax.Msg)
	}
	return root, fmt.Errorf("it is cut short or damaged: %w", err)
}

// clean replaces what no XML may hold: bytes that are not UTF-8, and control characters.
func clean(data []byte) []byte {
	data = bytes.ToValidUTF8(data, []byte("?"))
	return bytes.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
			return '?'
		}
		return r
	}, data)
}
