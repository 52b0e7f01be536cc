package esl

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"fsban/internal/captures"
)

func TestAnEventInJSON(t *testing.T) {
	for _, test := range []struct{ json, name, other, body string }{
		{`{"name":"x","other":"y"}`, "x", "y", ""},
		{` { "other" : "y" , "more" : "z" } ` + "\n", "<nil>", "y", ""},
		{`{}`, "<nil>", "<nil>", ""},
		{`{"name":"one","name":"two"}`, "one", "<nil>", ""},
		{`{"name":"","name":"two"}`, "<nil>", "<nil>", ""},
		{`{"name":"a%0Ab","other":"_undef_"}`, "a%0Ab", "_undef_", ""}, // sent by a peer
		{`{"name":"\"\\\/\b\f\n\r\t","other":"\u0000\u00e9\u20AC\ud83d\ude00"}`, "\"\\/\b\f\n\r\t", "\x00é€😀", ""},
		{`{"name":"\ud83d","other":"\ud83d\u0041\ude00"}`, "\ufffd", "\ufffdA\ufffd", ""},
		{"{\"name\":\"\xff\xc3\"}", "\xff\xc3", "<nil>", ""}, // unchanged
		{`{"name":["one","two"],"other":[]}`, "one", "<nil>", ""},
		{`{"name":[1,"two"],"other":[["x"]]}`, "<nil>", "<nil>", ""},
		{`{"name":1,"name":"late","other":{"other":"inner"}}`, "late", "<nil>", ""},
		{`{"name":null,"other":true}`, "<nil>", "<nil>", ""},
		{`{"name":"x","_body":"UP 0 years\n"}`, "x", "<nil>", "UP 0 years\n"},
	} {
		e := NewEvent(NewFields("name", "other"))
		if err := e.ParseJSON([]byte(test.json)); err != nil {
			t.Errorf("%s: %v", test.json, err)
		}
		get := func(i int) string {
			if v := e.Get(i); v != nil {
				return string(v)
			}
			return "<nil>"
		}
		if get(0) != test.name || get(1) != test.other || string(e.Body()) != test.body {
			t.Errorf("%s: got %q, %q, body %q", test.json, get(0), get(1), e.Body())
		}
	}
}

func TestJSONThatIsNoEventIsAnError(t *testing.T) {
	e := NewEvent(NewFields("name"))
	for text, want := range map[string]string{
		"":                            "unexpected EOF",
		"[]":                          "JSON that is no object",
		`"name"`:                      "JSON that is no object",
		"null":                        "JSON that is no object",
		`{"name":"x"`:                 "unexpected EOF",
		`{"name":"x`:                  "unexpected EOF",
		`{"name"`:                     "unexpected EOF",
		`{"name":"x",}`:               "invalid character '}'",
		`{"name":"x"]`:                "invalid character ']'",
		`{"name" "x"}`:                "expected colon after object key",
		`{name:"x"}`:                  "invalid character 'n'",
		`{1:"x"}`:                     "invalid character '1'",
		`{"name":"x"}{}`:              "more than one JSON object",
		`{"name":"x"} x`:              "more than one JSON object",
		"{\"name\":\"x\ny\"}":         `invalid character '\n' in string literal`,
		`{"name":"\x"}`:               `invalid character 'x' in string escape code`,
		`{"name":"x","other":"\u12"}`: `invalid character '"' in \u hexadecimal character escape`,
		`{"a":` + deep:                "exceeded max depth",
		`{"a":"` + long + `"}`:        "JSON of 16777224 bytes, more than 16777216",
		"Event-Name: HEARTBEAT\n\n":   "invalid character 'E' looking for beginning of value",
	} {
		err := e.ParseJSON([]byte(text))
		if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
		if e.Get(0) != nil || len(headersOf(e)) > 0 {
			t.Errorf("%.40q: keeps %q", text, headersOf(e))
		}
	}
}

var (
	deep = strings.Repeat("[", 1_000_000)
	long = strings.Repeat("x", MaxBody)
)

func TestAnEventCanBeReadInOneFormAfterTheOther(t *testing.T) {
	e := parsed(t, "name: %41\nother: b\n\n")
	if err := e.ParseJSON([]byte(`{"other":"%41","x":["y","z"],"_body":"b"}`)); err != nil {
		t.Fatal(err)
	}
	if e.Get(0) != nil || string(e.Get(1)) != "%41" || !slices.Equal(headersOf(e), []string{"other=%41", "x=y"}) {
		t.Errorf("got %q, %q, %q", e.Get(0), e.Get(1), headersOf(e))
	}
	for range e.Headers() {
		break // may be
	}
	if err := e.Parse([]byte("name: %41\n\n")); err != nil {
		t.Fatal(err)
	}
	if string(e.Get(0)) != "A" || e.Get(1) != nil || len(e.Body()) > 0 || !slices.Equal(headersOf(e), []string{"name=A"}) {
		t.Errorf("got %q, %q, %q, %q", e.Get(0), e.Get(1), e.Body(), headersOf(e))
	}
}

// TestBothFormsOfARecordingAreOneEvent: two clients were connected when the recordings were made. Only values with a peer's own
// escapes differ: decoded in plain format, not decoded in JSON.
func TestBothFormsOfARecordingAreOneEvent(t *testing.T) {
	compared, escaped := 0, 0
	for _, name := range captures.Names(t, "*.json.esl") {
		plain := recordedEvents(t, strings.TrimSuffix(name, ".json.esl")+".plain.esl", EventPlain, (*Event).Parse)
		inJSON := recordedEvents(t, name, EventJSON, (*Event).ParseJSON)
		if len(plain) != len(inJSON) {
			t.Errorf("%s: %d events in plain format, %d in JSON", name, len(plain), len(inJSON))
			continue
		}
		for i, want := range plain {
			got := inJSON[i]
			if len(want) != len(got) {
				t.Errorf("%s: event %d has %d headers in plain format, %d in JSON", name, i, len(want), len(got))
				continue
			}
			compared++
			for j, h := range want {
				if h.name == got[j].name && bytes.Equal(h.value, got[j].value) {
					continue
				}
				if escaped++; h.name != got[j].name || !bytes.Equal(h.value, appendUnescaped(nil, got[j].value)) {
					t.Errorf("%s: event %d has %s=%q in plain format, %s=%q in JSON", name, i, h.name, h.value, got[j].name, got[j].value)
				}
			}
		}
	}
	if compared < 100 || escaped == 0 {
		t.Errorf("%d events, %d values with escapes", compared, escaped)
	}
}

// recordedEvents returns the headers of each event of a recording.
func recordedEvents(t *testing.T, name string, form FrameType, parse func(*Event, []byte) error) (events [][]header) {
	t.Helper()
	r, e := NewReader(bytes.NewReader(captures.Read(t, name))), NewEvent(NewFields("Event-Name"))
	for f, err := r.Next(); err == nil; f, err = r.Next() {
		if f.Type != form {
			continue
		}
		if err := parse(e, f.Body); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if string(e.Get(0)) != "CUSTOM" {
			continue
		}
		var all []header
		for name, value := range e.Headers() {
			all = append(all, header{string(name), bytes.Clone(value)})
		}
		events = append(events, all)
	}
	return events
}
