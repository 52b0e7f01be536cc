package esl_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"fsban/esl"
	"fsban/internal/captures"
)

var update = flag.Bool("update", false, "write testdata/captures.golden anew")

// TestCapturesAreReadToTheEnd reads all recordings of FreeSWITCH and compares the result: frames and replies, events with the
// relevant headers, notices.
func TestCapturesAreReadToTheEnd(t *testing.T) {
	const golden = "testdata/captures.golden"
	var got bytes.Buffer
	for _, name := range slices.Concat(captures.Names(t, "*.plain*.esl"), captures.Names(t, "*.raw")) {
		fmt.Fprintf(&got, "# %s\n", name)
		if err := describe(&got, captures.Read(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("not what %s says; look at what -update changes", golden)
	}
}

// TestFormatsThatAreNotForEventsAreReadToTheEnd: frames that a Client ignores do not end its connection.
func TestFormatsThatAreNotForEventsAreReadToTheEnd(t *testing.T) {
	for _, name := range slices.Concat(captures.Names(t, "*.json.esl"), captures.Names(t, "*.log.esl")) {
		if err := describe(io.Discard, captures.Read(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestALogLineHasTheOriginInItsHeader: a caller's name may contain a whole forged line. The origin of the line is in the
// header, which FreeSWITCH itself writes.
func TestALogLineHasTheOriginInItsHeader(t *testing.T) {
	r := esl.NewReader(bytes.NewReader(captures.Read(t, "inject-invite-fake-logline.log.esl")))
	forged := 0
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if l := esl.ParseLog(f); bytes.Contains(l.Text, []byte("from ip 9.9.9.9")) {
			forged++
			if string(l.Func) == "sofia_reg_handle_register_token" && bytes.HasSuffix(l.Text, []byte("from ip 9.9.9.9")) {
				t.Errorf("FreeSWITCH's own word for %q", l.Text)
			}
		}
	}
	if forged == 0 {
		t.Error("nothing was forged")
	}
}

// describe writes the content of stream.
func describe(w io.Writer, stream []byte) error {
	r, ev := esl.NewReader(bytes.NewReader(stream)), esl.NewEvent(esl.NewFields(wanted...))
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprint(w, f.Get("Content-Type"))
		switch f.Type {
		case esl.CommandReply:
			fmt.Fprintf(w, " %q", f.Get("Reply-Text"))
		case esl.LogData:
			l := esl.ParseLog(f)
			first, _, _ := bytes.Cut(l.Text, []byte("\n"))
			fmt.Fprintf(w, " %d %s %s %q", l.Level, l.File, l.Func, first)
		case esl.DisconnectNotice, esl.RudeRejection:
			fmt.Fprintf(w, " %q", f.Body)
		case esl.EventPlain:
			if err := ev.Parse(f.Body); err != nil {
				return err
			}
			fmt.Fprintf(w, " %s", ev.Get(0))
			for i, name := range wanted[1:] {
				if v := ev.Get(i + 1); v != nil {
					fmt.Fprintf(w, " %s=%q", name, v)
				}
			}
		}
		fmt.Fprintln(w)
	}
}
