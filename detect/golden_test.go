package detect

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"fsban/esl"
	"fsban/internal/captures"
	"fsban/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestAttemptsOfEachRecording runs every recorded byte through its parser, and text without frames through the parsers of
// mod_cti's lines. The golden file lists the attempts and counts all other outcomes.
func TestAttemptsOfEachRecording(t *testing.T) {
	var got strings.Builder
	for _, name := range captures.Names(t, "*") {
		said := rows(t, name, captures.Read(t, name))
		if base, ok := strings.CutSuffix(name, ".json.esl"); ok {
			plain := base + ".plain.esl"
			other := rows(t, plain, captures.Read(t, plain))
			if !slices.EqualFunc(said, other, sameButForEscapes) {
				t.Errorf("%s says %q, %s %q", name, said, plain, other)
			}
			if slices.Equal(said, other) {
				said = []string{"as in plain"}
			}
		}
		fmt.Fprintf(&got, "%s\n", name)
		for _, row := range said {
			fmt.Fprintf(&got, "\t%s\n", row)
		}
	}
	const golden = "testdata/attempts.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("attempts differ from %s (-update writes it anew):\n%s", golden, got.String())
	}
}

// sameButForEscapes reports whether two rows differ only in escapes that a peer sent: plain format resolves them.
func sameButForEscapes(json, plain string) bool {
	until := func(row string) string { before, _, _ := strings.Cut(row, " user="); return before }
	return json == plain || until(json) == until(plain) && strings.Contains(json, "%")
}

// rows returns the attempts of a recording in order, followed by the counts of all other outcomes.
func rows(t *testing.T, name string, data []byte) []string {
	t.Helper()
	d := New(Options{Calls: Calls{Contexts: []string{"public"}}})
	var said []string
	silent := make(map[Outcome]int)
	take := func(a policy.Attempt, o Outcome) {
		if o != Attempt {
			silent[o]++
			return
		}
		row := fmt.Sprint(a.Source, " ", a.Kind, " ", a.Addr)
		for _, v := range [][2]string{
			{"method", a.Method.String()}, {"user", a.User}, {"number", a.Number}, {"domain", a.Domain}, {"profile", a.Profile}, {"agent", a.UserAgent},
		} {
			if v[1] != "" {
				row += fmt.Sprintf(" %s=%q", v[0], v[1])
			}
		}
		said = append(said, row)
	}
	if strings.HasSuffix(name, ".esl") {
		ev := esl.NewEvent(d.Fields())
		frames(t, data, func(f *esl.Frame) { parse(t, d, ev, f, take) })
	} else {
		for line := range bytes.Lines(data) {
			take(d.CTILine(line, now))
			take(consoleLine(d, line, now))
		}
	}
	for _, o := range slices.Sorted(maps.Keys(silent)) {
		said = append(said, fmt.Sprintf("%d %s", silent[o], o))
	}
	return said
}

func parse(t *testing.T, d *Detector, ev *esl.Event, f *esl.Frame, take func(policy.Attempt, Outcome)) {
	t.Helper()
	var err error
	switch f.Type {
	case esl.EventPlain:
		err = ev.Parse(f.Body)
	case esl.EventJSON:
		err = ev.ParseJSON(f.Body)
	case esl.LogData:
		l := esl.ParseLog(f)
		take(d.Log(&l, now))
		return
	default:
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	take(d.Event(ev, timeOf(t, ev)))
}
