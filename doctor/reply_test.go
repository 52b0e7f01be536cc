package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Each reply is cut short at some places: the part before the cut is examined, and the cut is reported.
func TestRepliesThatAreCutShort(t *testing.T) {
	whole := recorded(t, "vanilla")
	for command, text := range whole {
		if !strings.HasPrefix(text, "<") {
			continue
		}
		for cut := 1; cut < len(text)-20; cut += 1 + len(text)/13 {
			r := recorded(t, "vanilla")
			r[command] = text[:cut]
			reported := false
			for _, f := range examine(r, Options{}) {
				isWhole(t, &f)
				reported = reported || f.Check == "unseen"
			}
			if !reported {
				t.Errorf("%s cut at %d of %d is not reported", command, cut, len(text))
			}
		}
	}
}

// isWhole fails a test for a finding without observation, consequence or remedy.
func isWhole(t *testing.T, f *Finding) {
	t.Helper()
	if f.Check == "" || f.Title == "" || f.Seen == "" || f.Why == "" || f.Change == "" {
		t.Errorf("half a finding: %+v", f)
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

// The examination ends for every answer of FreeSWITCH, and each finding is printable.
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
			isWhole(t, &finding)
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

// bridge is an extension that bridges when the number matches.
func bridge(expression, to string) string {
	return fmt.Sprintf(`<extension name="out"><condition field="destination_number" expression=%q><action application="bridge" data=%q></action></condition></extension>`,
		strings.ReplaceAll(expression, `\`, `&#92;`), to)
}
