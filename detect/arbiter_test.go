package detect

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"fsban/policy"
)

// A story is told in steps, each at a time in milliseconds.
type step struct {
	at   int
	what string // up, down, event, line, due
	late int    // how long ago the failure happened, by FreeSWITCH's clock
	user string
}

func TestEachFailureCountsOnceWhoeverTellsOfIt(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps []step
		want  []int // the steps that count; for due, once for each line
	}{
		{"the event speaks, the line comes after it", []step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5010, "line", 10, "a"}}, []int{1}},
		{"the event speaks, the line comes before it", []step{{0, "up", 0, ""}, {5000, "line", 0, "a"}, {5010, "event", 10, "a"}, {9000, "due", 0, ""}}, []int{2}},
		{"what only a line tells of does not count while events speak", []step{{0, "up", 0, ""}, {5000, "line", 0, "a"}, {9000, "due", 0, ""}}, nil},
		{"the socket is gone: the line counts at once", []step{{0, "up", 0, ""}, {5000, "down", 0, ""}, {5100, "line", 0, "a"}, {5200, "line", 0, "a"}}, []int{2, 3}},
		{"before the socket ever came up", []step{{0, "line", 0, "a"}}, []int{0}},
		{"the socket dies before the event: its line counts after a moment",
			[]step{{0, "up", 0, ""}, {5000, "line", 0, "a"}, {5010, "down", 0, ""}, {5500, "due", 0, ""}, {6100, "due", 0, ""}, {7200, "due", 0, ""}}, []int{4}},
		{"the socket dies after the event, before the line", []step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5010, "down", 0, ""}, {5020, "line", 20, "a"}, {7000, "due", 0, ""}}, []int{1}},
		{"the event was still in the queue when the socket died", []step{{0, "up", 0, ""}, {5000, "down", 0, ""}, {5001, "line", 5, "a"}, {5002, "event", 6, "a"}}, []int{2}},
		{"the socket comes back: a late line of a time without it counts after a moment",
			[]step{{0, "up", 0, ""}, {5000, "down", 0, ""}, {9000, "up", 0, ""}, {9100, "line", 600, "a"}, {9500, "due", 0, ""}, {10200, "due", 0, ""}}, []int{5}},
		{"the socket comes back: line and event of one failure", []step{{0, "down", 0, ""}, {9000, "up", 0, ""}, {9100, "line", 0, "a"}, {9150, "event", 50, "a"}, {12000, "due", 0, ""}}, []int{3}},
		{"one to one: two failures in a second, each told twice",
			[]step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5200, "event", 0, "a"}, {5300, "down", 0, ""}, {5310, "line", 310, "a"}, {5320, "line", 120, "a"}, {5330, "line", 0, "a"}}, []int{1, 2, 6}},
		{"two lines in waiting, each counts", []step{{0, "up", 0, ""}, {5000, "line", 0, "a"}, {5001, "line", 0, "a"}, {5010, "down", 0, ""}, {7000, "due", 0, ""}}, []int{4, 4}},
		{"another user is another failure", []step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5010, "down", 0, ""}, {5020, "line", 20, "b"}}, []int{1, 3}},
		{"two seconds apart are two failures", []step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5010, "down", 0, ""}, {7000, "line", 0, "a"}}, []int{1, 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			arbiter := NewArbiter()
			var got []int
			for i, s := range tc.steps {
				at := now.Add(time.Duration(s.at) * time.Millisecond)
				a := policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), User: s.user, At: at.Add(-time.Duration(s.late) * time.Millisecond), Kind: policy.AuthFailure}
				switch s.what {
				case "up", "down":
					arbiter.EventsUp(s.what == "up", at)
				case "due":
					for range arbiter.Due(at) {
						got = append(got, i)
					}
				case "line":
					a.Source = policy.CTILog
					fallthrough
				case "event":
					if arbiter.Counts(&a, at) {
						got = append(got, i)
					}
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("counted in steps %v, want %v", got, tc.want)
			}
		})
	}
}

func TestWhatOneSourceAloneTellsOfAlwaysCounts(t *testing.T) {
	arbiter := NewArbiter()
	arbiter.EventsUp(true, now)
	for _, a := range []policy.Attempt{{Kind: policy.Challenge}, {Kind: policy.AuthSuccess}, {Kind: policy.Violation, Source: policy.CTILog}} {
		a.Addr, a.At = netip.MustParseAddr("192.0.2.7"), now
		for range 3 {
			if !arbiter.Counts(&a, now) {
				t.Errorf("%v of %v does not count", a.Kind, a.Source)
			}
		}
	}
}

func TestLinesInWaitingAreBounded(t *testing.T) {
	arbiter := NewArbiter()
	arbiter.EventsUp(true, now)
	a := policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: now.Add(time.Hour), Kind: policy.AuthFailure, Source: policy.CTILog}
	for range 2 * maxHeld {
		arbiter.Counts(&a, now.Add(time.Hour))
	}
	if n := len(arbiter.held); n != maxHeld {
		t.Errorf("%d held", n)
	}
	if arbiter.Due(now.Add(2 * time.Hour)); len(arbiter.held) != 0 {
		t.Errorf("%d held for ever", len(arbiter.held))
	}
}
