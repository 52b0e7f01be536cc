package testenv

import (
	"flag"
	"fmt"
	"runtime"
	"testing"
)

// A recorder records how System ends a test.
type recorder struct{ end string }

func (*recorder) Helper()                            {}
func (r *recorder) Skipf(format string, args ...any) { r.end = "skip"; runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) {
	r.end = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestSystem(t *testing.T) {
	const missing = "this test needs the program no-such-program, and fails without it: " +
		`exec: "no-such-program": executable file not found in $PATH`
	for name, test := range map[string]struct {
		short    bool
		programs []string
		want     string
	}{
		"no program":              {false, nil, ""},
		"present":                 {false, []string{"sh"}, ""},
		"missing":                 {false, []string{"sh", "no-such-program"}, missing},
		"short":                   {true, []string{"sh"}, "skip"},
		"short, nothing required": {true, nil, "skip"},
		"short and missing":       {true, []string{"no-such-program"}, "skip"},
	} {
		t.Run(name, func(t *testing.T) {
			was := flag.Lookup("test.short").Value.String()
			defer func() { _ = flag.Set("test.short", was) }()
			if err := flag.Set("test.short", fmt.Sprint(test.short)); err != nil {
				t.Fatal(err)
			}
			var r recorder
			done := make(chan struct{})
			go func() {
				defer close(done)
				System(&r, test.programs...)
			}()
			<-done
			if r.end != test.want {
				t.Errorf("ended with %q, want %q", r.end, test.want)
			}
		})
	}
}
