package fsxml

import (
	"strings"
	"testing"
)

func TestDocuments(t *testing.T) {
	for _, test := range []struct {
		name, data string
		root       string // "" for none
		err        string // a part of it
	}{
		{"whole", "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>\n<a><b c=\"d\"></b></a>\n\n", "a", ""},
		{"another encoding", `<?xml version="1.0" encoding="EBCDIC"?><a></a>`, "a", ""},
		{"bytes that are not UTF-8", "<a b=\"caf\xe9\">\xff</a>", "a", ""},
		{"control characters", "<a b=\"x\x01\x00y\"></a>", "a", ""},
		{"something after it", "<a></a>trailing <", "a", ""},
		{"two of them", "<a></a><b></b>", "a", ""},
		{"the same attribute twice", `<a b="1" b="2"></a>`, "a", ""},
		{"nothing", "", "", "not XML"},
		{"no XML", "-ERR no such command", "", "not XML"},
		{"cut in an element", "<a><b><c d=\"e", "a", "cut short or damaged"},
		{"cut between elements", "<a><b></b>", "a", "cut short or damaged"},
		{"crossed", "<a><b></a></b>", "a", "cut short or damaged"},
		{"an entity of its own", `<!DOCTYPE a [<!ENTITY x "yyyyyyyyyy">]><a>&x;</a>`, "a", "cut short or damaged"},
		{"an attribute without quotes", `<a b=c></a>`, "", "not XML"},
		{"deep", strings.Repeat("<a>", 10_000), "a", "levels"},
		{"wide", "<a>" + strings.Repeat("<b/>", maxElements) + "</a>", "a", "elements"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root, err := Parse([]byte(test.data))
			if (root == nil) != (test.root == "") || root != nil && root.Name != test.root {
				t.Errorf("root %+v", root)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestNoElementHasNothing(t *testing.T) {
	var e *Element
	if e.Child("a").Child("b") != nil || e.Children("a") != nil || e.Attribute("a") != "" || e.ChildText("a") != "" {
		t.Error("something")
	}
	e.All(func(*Element) { t.Error("something") })
}

func TestTextIsBounded(t *testing.T) {
	root, err := Parse([]byte("<a>" + strings.Repeat("x", 10*maxText) + "</a>"))
	if err != nil || len(root.Text) != maxText {
		t.Errorf("%d bytes, %v", len(root.Text), err)
	}
}
