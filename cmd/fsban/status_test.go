package main

import (
	"testing"
	"time"

	"fsban/control"
)

func TestSourceLineNamesTheReasonOnce(t *testing.T) {
	log := control.Source{Name: "cti_log", Address: "/log", Error: "follow /log: no such file or directory: mod_cti makes it"}
	const reason = ", no such file or directory: mod_cti makes it"
	for name, tc := range map[string]struct {
		problems []string
		up       bool
		want     string
	}{
		"not among the problems": {nil, false, "cti_log /log: down" + reason},
		"among others":           {[]string{"gateways: not connected"}, false, "cti_log /log: down" + reason},
		"a problem already":      {[]string{"mod_cti's log: " + log.Error}, false, "cti_log /log: down"},
		"up":                     {nil, true, "cti_log /log: up, in reserve"},
	} {
		t.Run(name, func(t *testing.T) {
			src := log
			src.Up = tc.up
			if got := sourceLine(&src, tc.problems, time.Now()); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}
