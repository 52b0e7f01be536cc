package term

import (
	"strings"
	"testing"
)

// A log that is written while it is played has more in it than it had when it was opened.
func TestProgressEndsAtTheEnd(t *testing.T) {
	var out strings.Builder
	tell := progressBar(&out)
	for done := int64(0); done <= 30; done += 5 {
		tell(done, 10)
	}
	want := "\r[                                        ]   0%" + "\r[####################                    ]  50%" + "\r[########################################] 100%\r\033[K"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
