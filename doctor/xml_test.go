package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
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
			root, err := parse([]byte(test.data))
			if (root == nil) != (test.root == "") || root != nil && root.name != test.root {
				t.Errorf("root %+v", root)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestNoElementHasNothing(t *testing.T) {
	var e *element
	if e.child("a").child("b") != nil || e.children("a") != nil || e.attribute("a") != "" || e.childText("a") != "" || len(params(e)) > 0 {
		t.Error("something")
	}
	e.all(func(*element) { t.Error("something") })
}

func TestTextIsBounded(t *testing.T) {
	root, err := parse([]byte("<a>" + strings.Repeat("x", 10*maxText) + "</a>"))
	if err != nil || len(root.text) != maxText {
		t.Errorf("%d bytes, %v", len(root.text), err)
	}
}

// Each reply is cut short at some places: what stood before the cut is examined, and the cut is told.
func TestRepliesThatAreCutShort(t *testing.T) {
	whole := recorded(t, "vanilla")
	for command, text := range whole {
		if !strings.HasPrefix(text, "<") {
			continue
		}
		for cut := 1; cut < len(text)-20; cut += 1 + len(text)/13 {
			r := recorded(t, "vanilla")
			r[command] = text[:cut]
			told := false
			for _, f := range examine(r, Options{}) {
				told = told || f.Check == "unseen"
			}
			if !told {
				t.Errorf("%s cut at %d of %d: nobody is told", command, cut, len(text))
			}
		}
	}
}

// A fuzzer answers every command with the same bytes.
type fuzzer string

func (f fuzzer) API(_ context.Context, name, _ string) ([]byte, error) {
	if name == "acl" {
		return nil, errors.New("-ERR permission denied")
	}
	return []byte(f), nil
}

// Whatever FreeSWITCH answers, the examination comes to an end, and each finding is fit to print.
func FuzzExamine(f *testing.F) {
	for _, name := range []string{"vanilla", "hardened"} {
		for _, text := range recorded(f, name) {
			f.Add(text)
		}
	}
	f.Add(`<section><domain name="d"><user id="1"><params><param name="password" value="1"/></params></user></domain><context name="public">` + bridge(`^(.*)$`, "sofia/gateway/x/$1") + `</context>
<profiles><profile name="public"><settings><param name="context" value="public"/></settings></profile></profiles></section>`)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 20_000 {
			return
		}
		started := time.Now()
		for _, finding := range Examine(context.Background(), fuzzer(text), &Host{}, Options{}) {
			if finding.Title == "" || finding.Seen == "" || finding.Why == "" {
				t.Errorf("half a finding: %+v", finding)
			}
			for _, r := range finding.Title + finding.Seen + finding.Why + finding.Change {
				if r < ' ' || r == 0x7f {
					t.Fatalf("a control character: %q", finding)
				}
			}
		}
		if d := time.Since(started); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	})
}
