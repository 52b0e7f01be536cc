package esl

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// parsed is the event in body, with the headers name and other.
func parsed(t *testing.T, body string) *Event {
	t.Helper()
	e := NewEvent(NewFields("name", "other"))
	if err := e.Parse([]byte(body)); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestValuesAreDecoded(t *testing.T) {
	for _, test := range []struct{ sent, want string }{
		{"plain", "plain"},
		{"sofia%3A%3Aregister", "sofia::register"},
		{"fd77%3A%3A2", "fd77::2"},
		{"a+b", "a+b"},
		{"100%25", "100%"},
		{"a%2541", "a%41"},                       // decoded once
		{"a%0Ab%0D", "a\nb\r"},                   // a line break of the peer's is data
		{"gr%C3%BC%c3%9f", "grüß"},               // either case
		{"%FF%00", "\xff\x00"},                   // arbitrary bytes of a peer
		{"50% off %zz %4 %", "50% off %zz %4 %"}, // not an escape: text
		{"%%41%", "%A%"},
		{"_undef_x", "_undef_x"},
		{"_undef%5F", "_undef_"}, // text of a peer, not the mark of FreeSWITCH
		{" two spaces", " two spaces"},
		{"trailing ", "trailing "},
		{"a: b", "a: b"},
	} {
		if got := parsed(t, "name: "+test.sent+"\n\n").Get(0); string(got) != test.want {
			t.Errorf("%q: got %q, want %q", test.sent, got, test.want)
		}
	}
}

func TestMissingEmptyAndUndefinedValues(t *testing.T) {
	for body, isNil := range map[string]bool{
		"":                   true,
		"\n":                 true,
		"other: x\n\n":       true,
		"names: x\n\n":       true,
		"Name: x\n\n":        true, // FreeSWITCH's own spelling, and no other
		"name\n\n":           true,
		"name: _undef_\n\n":  true,
		"\nname: too late\n": true,
		"name:\n\n":          false,
		"name: \n\n":         false,
		"name: \r\n\r\n":     false,
	} {
		if v := parsed(t, body).Get(0); (v == nil) != isNil || len(v) > 0 {
			t.Errorf("%q: %#v", body, v)
		}
	}
}

func TestTheFirstOfTwoHeadersIsKept(t *testing.T) {
	for body, want := range map[string]string{
		"name: one\nname: two\n\n": "one",
		"name: \nname: two\n\n":    "",
		"name:one\nname: two":      "one",
	} {
		if got := parsed(t, body).Get(0); string(got) != want {
			t.Errorf("%q: got %q, want %q", body, got, want)
		}
	}
}

func TestAnEventMayHaveABodyOfItsOwn(t *testing.T) {
	for _, test := range []struct{ body, want string }{
		{"name: x\n\n", ""},
		{"name: x\nContent-Length: 5\n\na\n\nbc", "a\n\nbc"},
		{"Content-Length: 2\r\nname: x\r\n\r\nab", "ab"},
		{"name: x\nContent-Length: 0\n\nab", ""},
		{"name: x\n\nContent-Length: 2\n\nab", ""},
		{"name: x\nContent-Length: 1\n\nab", "a"},
	} {
		e := parsed(t, test.body)
		if string(e.Body()) != test.want || string(e.Get(0)) != "x" {
			t.Errorf("%q: body %q, name %q", test.body, e.Body(), e.Get(0))
		}
	}
}

// headersOf writes all headers of e.
func headersOf(e *Event) (all []string) {
	for name, value := range e.Headers() {
		if value == nil {
			value = []byte("<nil>")
		}
		all = append(all, string(name)+"="+string(value))
	}
	return all
}

func TestAllHeadersCanBeLookedAt(t *testing.T) {
	for body, want := range map[string][]string{
		"":     nil,
		"\n":   nil,
		"a: b": {"a=b"},
		"b: 1\na: x%3Ay\nb: 2\nnone: _undef_\nempty:\n\nlate: x\n":           {"b=1", "a=x:y", "b=2", "none=<nil>", "empty="},
		"a: 50%\r\nno colon\n: nameless\nc:  d \nContent-Length: 2\r\n\r\nx": {"a=50%", "=nameless", "c= d ", "Content-Length=2"},
		"\xff: \xfe%FF%00%0A": {"\xff=\xfe\xff\x00\n"},
	} {
		e := NewEvent(NewFields("name"))
		_ = e.Parse([]byte(body)) // one of them lies about its body: its headers can be looked at
		if got := headersOf(e); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", body, got, want)
		}
	}
	for range parsed(t, "a: 1\nb: 2\n\n").Headers() {
		break // may be
	}
}

func TestAnEventThatLiesAboutItsBodyIsAnError(t *testing.T) {
	e := NewEvent(NewFields("name"))
	for body, want := range map[string]string{
		"Content-Length: 3\n\nab":        "event socket protocol error: event body of 3 bytes in the 2 that are left of the frame",
		"Content-Length: -3\n\nab":       `event: event socket protocol error: Content-Length "-3" is not a number from 0 to 16777216`,
		"Content-Length: 16777217\n\nab": `event: event socket protocol error: Content-Length "16777217" is not a number from 0 to 16777216`,
	} {
		if err := e.Parse([]byte(body)); !errors.Is(err, ErrProtocol) || err.Error() != want {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestAnEventKeepsNothingOfTheOneBefore(t *testing.T) {
	e := parsed(t, "name: %41\nother: b\nContent-Length: 1\n\nx")
	e.Get(0)
	if err := e.Parse([]byte("other: %43\n\n")); err != nil {
		t.Fatal(err)
	}
	if e.Get(0) != nil || string(e.Get(1)) != "C" || len(e.Body()) != 0 {
		t.Errorf("got %q, %q, %q", e.Get(0), e.Get(1), e.Body())
	}
}

func TestAValueMayBeAppendedToWithoutHarm(t *testing.T) {
	e := parsed(t, "name: %41\nother: %42\n\n")
	first, second := e.Get(0), e.Get(1)
	_ = append(first, 'x')
	if string(second) != "B" {
		t.Errorf("got %q", second)
	}
}

func TestFieldsKnowTheirPlaces(t *testing.T) {
	f := NewFields("one", "two")
	if f.Index("one") != 0 || f.Index("two") != 1 || f.Index("three") != -1 {
		t.Error("wrong places")
	}
}

func TestParsingAllocatesNothing(t *testing.T) {
	e := NewEvent(NewFields("Event-Subclass", "network-ip"))
	body := []byte("Event-Subclass: sofia%3A%3Aregister_failure\nEvent-Name: CUSTOM\nnetwork-ip: fd77%3A%3A2\n\n")
	n := testing.AllocsPerRun(1000, func() {
		_ = e.Parse(body)
		e.Get(0)
		e.Get(1)
	})
	if n != 0 {
		t.Errorf("%v allocations an event", n)
	}
}

func TestALogLineCarriesFreeSWITCHsWordAboutItsOrigin(t *testing.T) {
	frame := func(header string) Log {
		f, err := NewReader(strings.NewReader(header + "Content-Length: 4\n\ntext")).Next()
		if err != nil {
			t.Fatal(err)
		}
		return ParseLog(f)
	}
	got := frame("Content-Type: log/data\nLog-Level: 4\nText-Channel: 0\nLog-File: sofia_reg.c\nLog-Func: f\nLog-Line: 1842\nUser-Data: \n")
	if got.Level != 4 || string(got.File) != "sofia_reg.c" || string(got.Func) != "f" || string(got.Text) != "text" {
		t.Errorf("got %+v", got)
	}
	for _, level := range []string{"", "Log-Level: x\n", "Log-Level: 10\n", "Log-Level: \n"} {
		if got := frame(level); got.Level != -1 || got.File != nil || got.Func != nil {
			t.Errorf("%q: got %+v", level, got)
		}
	}
}
