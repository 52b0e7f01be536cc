package term

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestConfirmTakesOnlyYesForYes(t *testing.T) {
	for answer, want := range map[string]bool{
		"y\n": true, "Y\n": true, "yes\r\n": true, "  YES  ": true,
		"": false, "\n": false, "n\n": false, "no\n": false, "yesterday\n": false, "q\ny\n": false, strings.Repeat(" ", 1<<12) + "y\n": false,
	} {
		var out strings.Builder
		got, err := Confirm(strings.NewReader(answer), &out, "End 4 bans?")
		if got != want || err != nil || !strings.HasPrefix(out.String(), "End 4 bans? [y/N] ") {
			t.Errorf("%.20q: %v, %v, asked %q", answer, got, err, out.String())
		}
	}
}

func TestConfirmNeedsATerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	var out strings.Builder
	if ok, err := Confirm(null, &out, "End 4 bans?"); ok || !errors.Is(err, ErrNoTerminal) || out.Len() > 0 {
		t.Errorf("%v, %v, asked %q", ok, err, out.String())
	}
}
