package packaging_test

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Ends of bans need a synchronised clock, so a unit that waits for one starts fsban after it.
func TestTheServiceStartsAfterTimeSync(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("fsban.service")
	if err != nil {
		t.Fatal(err)
	}
	var after []string
	for line := range strings.Lines(string(unit)) {
		if list, found := strings.CutPrefix(line, "After="); found {
			after = append(after, strings.Fields(list)...)
		}
	}
	for _, want := range []string{"time-sync.target", "network-online.target"} {
		if !slices.Contains(after, want) {
			t.Errorf("fsban.service starts after %v, want %s too", after, want)
		}
	}
}
