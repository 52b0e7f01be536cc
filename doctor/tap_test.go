package doctor

import "testing"

func TestATapIsRecommended(t *testing.T) {
	for off, want := range map[bool]int{true: 1, false: 0} {
		o := Options{NoTap: off}
		if got := o.tapFindings(); len(got) != want || want > 0 && got[0].Check != "no-tap" {
			t.Errorf("off %v: %+v", off, got)
		}
	}
}
