package detect

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/policy"
)

// A story is told in steps, each at a time in milliseconds.
type step struct {
	at   int
	what string // up, down: the event socket; due; or a source that tells of a failure
	late int    // how long ago the failure happened, by FreeSWITCH's clock
	user string
}

func TestEachFailureCountsOnceWhoeverTellsOfIt(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps []step
		want  []int // the steps that count; for due, once for each report
	}{
		{"the event speaks, the line comes after it", []step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5010, "cti_log", 10, "a"}}, []int{1}},
		{"the event speaks, the line comes before it", []step{{0, "up", 0, ""}, {5000, "cti_log", 0, "a"}, {5010, "event", 10, "a"}, {29000, "due", 0, ""}}, []int{2}},
		{"four sources tell of it", []step{{0, "up", 0, ""}, {5000, "cti_log", 0, "a"}, {5001, "esl_log", 0, "a"}, {5002, "event", 0, "a"}, {5003, "cti_event", 0, "a"}, {5004, "down", 0, ""}, {5005, "due", 0, ""}}, []int{3}},
		{"what only a line tells of does not count while events speak", []step{{0, "up", 0, ""}, {5000, "cti_log", 0, "a"}, {29000, "due", 0, ""}, {29001, "down", 0, ""}, {29002, "due", 0, ""}}, nil},
		{"the socket is gone: the line counts at once", []step{{0, "up", 0, ""}, {5000, "down", 0, ""}, {5100, "cti_log", 0, "a"}, {5200, "cti_log", 0, "a"}}, []int{2, 3}},
		{"before the socket ever came up", []step{{0, "cti_log", 0, "a"}}, []int{0}},
		{"the socket dies before the event: its line counts",
			[]step{{0, "up", 0, ""}, {5000, "cti_log", 0, "a"}, {5010, "down", 0, ""}, {5011, "due", 0, ""}, {6100, "due", 0, ""}}, []int{3}},
		{"the socket was dead for a while before we knew",
			[]step{{0, "up", 0, ""}, {5000, "cti_log", 0, "a"}, {9000, "due", 0, ""}, {14000, "down", 0, ""}, {14001, "due", 0, ""}}, []int{4}},
		{"the socket dies after the event, before the line", []step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5010, "down", 0, ""}, {5020, "cti_log", 20, "a"}, {7000, "due", 0, ""}}, []int{1}},
		{"the event was still in the queue when the socket died", []step{{0, "up", 0, ""}, {5000, "down", 0, ""}, {5001, "cti_log", 5, "a"}, {5002, "event", 6, "a"}}, []int{2}},
		{"an event from the queue, of which no line tells", []step{{0, "up", 0, ""}, {5000, "down", 0, ""}, {5002, "event", 6, "a"}}, []int{2}},
		{"the socket comes back: a late line of a time without it counts", []step{{0, "up", 0, ""}, {5000, "down", 0, ""}, {9000, "up", 0, ""}, {9100, "cti_log", 600, "a"}}, []int{3}},
		{"the socket comes back: line and event of one failure", []step{{0, "down", 0, ""}, {9000, "up", 0, ""}, {9100, "cti_log", 0, "a"}, {9150, "event", 50, "a"}, {12000, "due", 0, ""}}, []int{2}},
		{"one to one: two failures in a second, each told twice",
			[]step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5200, "event", 0, "a"}, {5300, "down", 0, ""}, {5310, "cti_log", 310, "a"}, {5320, "cti_log", 120, "a"}, {5330, "cti_log", 0, "a"}}, []int{1, 2, 6}},
		{"two lines in waiting, each counts", []step{{0, "up", 0, ""}, {5000, "cti_log", 0, "a"}, {5001, "cti_log", 0, "a"}, {5010, "down", 0, ""}, {7000, "due", 0, ""}}, []int{4, 4}},
		{"another user is another failure", []step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5010, "down", 0, ""}, {5020, "cti_log", 20, "b"}}, []int{1, 3}},
		{"an event without the user is the line's failure", []step{{0, "up", 0, ""}, {5000, "event", 0, ""}, {5010, "down", 0, ""}, {5020, "cti_log", 20, "b"}, {5021, "cti_log", 20, "c"}}, []int{1, 4}},
		{"two seconds apart are two failures", []step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5010, "down", 0, ""}, {7000, "cti_log", 0, "a"}}, []int{1, 3}},
		{"violations: the log speaks until the stream has told of one",
			[]step{{0, "up", 0, ""}, {5000, "cti_log violation", 0, "a"}, {5001, "esl_log violation", 1, "a"}, {9000, "cti_log violation", 0, "a"}, {9001, "esl_log violation", 1, "a"}}, []int{1, 4}},
		{"violations: mod_cti's event speaks once it was heard",
			[]step{{0, "up", 0, ""}, {5000, "cti_event violation", 0, "a"}, {9000, "cti_log violation", 0, "a"}, {9100, "cti_event violation", 100, "a"}, {9200, "down", 0, ""}, {9300, "due", 0, ""}, {9400, "cti_log violation", 0, "b"}}, []int{1, 3, 6}},
		{"a violation and a failed login are two things", []step{{0, "up", 0, ""}, {5000, "event", 0, "a"}, {5010, "cti_log violation", 0, "a"}}, []int{1, 2}},
		{"what one source alone can tell of", []step{{0, "esl_log acl_reject", 0, ""}, {1, "esl_log acl_reject", 0, ""}, {2, "event call_reject", 0, ""}}, []int{0, 1, 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			arbiter := NewArbiter(policy.Event, policy.CTIEvent, policy.ESLLog, policy.CTILog)
			arbiter.Alive(policy.CTILog, true, now)
			var got []int
			for i, s := range tc.steps {
				at := now.Add(time.Duration(s.at) * time.Millisecond)
				switch s.what {
				case "up", "down":
					socket(arbiter, s.what == "up", at)
				case "due":
					for range arbiter.Due(at) {
						got = append(got, i)
					}
				default:
					if arbiter.Counts(told(t, s.what, s.user, at.Add(-time.Duration(s.late)*time.Millisecond)), at) {
						got = append(got, i)
					}
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("counted at steps %v, want %v", got, tc.want)
			}
		})
	}
}

// socket has the event socket, with all that comes through it, go up or down.
func socket(r *Arbiter, up bool, at time.Time) {
	for _, s := range []policy.Source{policy.Event, policy.CTIEvent, policy.ESLLog} {
		r.Alive(s, up, at)
	}
}

// told returns an attempt from "SOURCE" or "SOURCE KIND".
func told(t *testing.T, what, user string, at time.Time) *policy.Attempt {
	t.Helper()
	source, kind, ok := strings.Cut(what, " ")
	if !ok {
		kind = "auth_failure"
	}
	a := &policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), User: user, At: at}
	if err := a.Source.UnmarshalText([]byte(source)); err != nil {
		t.Fatal(err)
	}
	if err := a.Kind.UnmarshalText([]byte(kind)); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestWhoSpeaksAndWhy(t *testing.T) {
	r := NewArbiter(policy.Event, policy.ESLLog, policy.CTILog)
	want := func(k policy.Kind, want string) {
		t.Helper()
		s, why, ok := r.Speaker(k)
		if got := fmt.Sprintf("%v, %s, %v", s, why, ok); got != want {
			t.Errorf("%v: %s\nwant %s", k, got, want)
		}
	}
	want(policy.AuthFailure, "event, event is down, false")
	r.Alive(policy.CTILog, true, now)
	want(policy.AuthFailure, "cti_log, event is down, true")
	want(policy.CallReject, "event, event is down, false")
	socket(r, true, now)
	want(policy.AuthFailure, "event, , true")
	want(policy.ACLReject, "esl_log, , true")
	want(policy.Violation, "cti_log, esl_log has not told of anything yet, true")
	r.Counts(told(t, "esl_log acl_reject", "", now), now)
	want(policy.Violation, "cti_log, esl_log has not told of anything yet, true")
	r.Counts(told(t, "esl_log violation", "", now), now)
	want(policy.Violation, "esl_log, , true")
	socket(r, false, now)
	want(policy.Violation, "cti_log, esl_log is down, true")
}

func TestAFailureCountsOnceOverARestart(t *testing.T) {
	at := now.Add(10 * time.Second)
	first := NewArbiter(policy.Event, policy.CTILog)
	first.Alive(policy.CTILog, true, now)
	first.Alive(policy.Event, true, now)
	if !first.Counts(told(t, "event", "told by the event", at), at) || first.Counts(told(t, "cti_log", "told by the line", at), at) {
		t.Fatal("the event does not speak")
	}

	second := NewArbiter(policy.Event, policy.CTILog)
	handOver(first, second, at.Add(time.Second), time.Time{})
	later := at.Add(time.Second)
	second.Alive(policy.CTILog, true, later)
	if due := second.Due(later); len(due) != 1 || due[0].User != "told by the line" || !due[0].At.Equal(at) {
		t.Errorf("due after the restart: %+v", due)
	}
	if second.Counts(told(t, "cti_log", "told by the event", at), later) {
		t.Error("a line of what the event had told of counts again")
	}
	if second.Counts(told(t, "event", "told by the line", at), later) {
		t.Error("an event of what had counted counts again")
	}
	if !second.Counts(told(t, "cti_log", "new", at), later) {
		t.Error("a new line does not count")
	}
	if got := second.Due(later); got != nil {
		t.Errorf("due again: %v", got)
	}
	if n := memos(first, at.Add(time.Minute), at.Add(time.Minute)); n != 0 {
		t.Errorf("%d memos of a minute ago", n)
	}
}

// handOver has to know what from knows, as over a restart.
func handOver(from, to *Arbiter, now, log time.Time) {
	for m := range from.Recent(now, log) {
		to.Remember(&m)
	}
}

// memos is how many there are to hand over.
func memos(r *Arbiter, now, log time.Time) (n int) {
	for range r.Recent(now, log) {
		n++
	}
	return n
}

// A log that has to be read again from where it stood, long after: what it told of just before does not count again, though
// the event that told of it first says another time.
func TestALineThatIsReadAgainIsKnown(t *testing.T) {
	first := NewArbiter(policy.Event, policy.CTILog)
	first.Alive(policy.CTILog, true, now)
	first.Alive(policy.Event, true, now)
	line := told(t, "cti_log", "1000", now.Add(3*time.Millisecond))
	first.Counts(told(t, "event", "1000", now), now)
	first.Counts(line, now)
	later := now.Add(time.Hour)
	if n := memos(first, later, line.At.Add(2*Slack)); n != 0 {
		t.Errorf("%d memos of what is not read again", n)
	}
	second := NewArbiter(policy.Event, policy.CTILog)
	handOver(first, second, later, line.At.Add(Slack/2))
	if !second.Told(line) {
		t.Error("the line is not known")
	}
	if second.Told(told(t, "cti_log", "1000", now)) {
		t.Error("a line of the event's time is known")
	}
}

// A FreeSWITCH whose clock is an hour off: what the event told of just before a restart, and the line of it, which is read a
// while after, are of the same moment by that clock.
func TestAClockThatIsOffDoesNotCountTwice(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			event, line := told(t, "event", "1000", now.Add(off)), told(t, "cti_log", "1000", now.Add(off+3*time.Millisecond))
			event.Adrift(now)
			first := NewArbiter(policy.Event, policy.CTILog)
			first.Alive(policy.Event, true, now)
			if !first.Counts(event, now) {
				t.Fatal("the event does not count")
			}
			second := NewArbiter(policy.Event, policy.CTILog)
			handOver(first, second, now, time.Time{})
			later := now.Add(5 * time.Second)
			line.Adrift(later)
			second.Alive(policy.CTILog, true, later)
			if second.Counts(line, later) {
				t.Error("the line counts again")
			}
		})
	}
}

// Nights of failures, nearly one a second of each address and user, each told by up to three sources in ragged order, with
// a socket that dies and comes back: each counts exactly once.
func TestRandomNightsCountExactly(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := NewArbiter(policy.Event, policy.ESLLog, policy.CTILog)
		r.Alive(policy.CTILog, true, now)
		type report struct {
			at time.Time
			a  *policy.Attempt
			// socket is what becomes of the event socket at that time, where a is nil
			socket bool
		}
		var reports []report
		const failures = 8000
		var edges []time.Time
		for at := now; at.Before(now.Add(200 * time.Second)); {
			at = at.Add(time.Duration(5+rng.IntN(30)) * time.Second)
			edges = append(edges, at)
			reports = append(reports, report{at: at, socket: len(edges)%2 == 1})
		}
		upAt := func(t time.Time) bool { n, _ := slices.BinarySearchFunc(edges, t, time.Time.Compare); return n%2 == 1 }
		for i := range failures {
			at := now.Add(time.Duration(rng.IntN(200_000)) * time.Millisecond)
			user := fmt.Sprint("u", rng.IntN(3))
			for _, s := range []string{"event", "esl_log", "cti_log"} {
				told := told(t, s, user, at)
				told.Addr = netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 16)})
				read := at.Add(time.Duration(rng.IntN(300)) * time.Millisecond)
				// What the socket was to bring is lost when it is down at any time until it is read.
				if s == "cti_log" || upAt(at) && upAt(read) {
					reports = append(reports, report{at: read, a: told})
				}
			}
		}
		slices.SortStableFunc(reports, func(a, b report) int { return a.at.Compare(b.at) })
		counted := 0
		for _, p := range reports {
			if p.a == nil {
				socket(r, p.socket, p.at)
			} else if r.Counts(p.a, p.at) {
				counted++
			}
			counted += len(r.Due(p.at))
		}
		socket(r, false, now.Add(210*time.Second))
		counted += len(r.Due(now.Add(210 * time.Second)))
		if counted != failures {
			t.Fatalf("seed %d: %d counted of %d", seed, counted, failures)
		}
	}
}

func TestAFloodOfUnconfirmedReportsIsBounded(t *testing.T) {
	r := NewArbiter(policy.Event, policy.CTILog)
	r.Alive(policy.CTILog, true, now)
	r.Alive(policy.Event, true, now)
	const flood = 50_000
	at := now.Add(time.Minute)
	for i := range flood {
		a := told(t, "cti_log", fmt.Sprint(i), at)
		if r.Counts(a, at) {
			t.Fatal("a line counts while the event socket speaks")
		}
	}
	if n := memos(r, at, at); len(r.held) > maxHeld || n > numReports {
		t.Errorf("%d held, %d memos", len(r.held), n)
	}
	r.Due(at.Add(time.Minute))
	if got := r.Alone(policy.CTILog); got < flood-numReports || got > flood {
		t.Errorf("%d unconfirmed of %d", got, flood)
	}
}

func TestSourcesComeAndGo(t *testing.T) {
	arbiter := NewArbiter(policy.Event)
	arbiter.Alive(policy.Event, true, now)
	at := func(seconds int, s policy.Source) bool {
		when := now.Add(time.Duration(seconds) * time.Second)
		return arbiter.Counts(told(t, s.String(), "a", when), when)
	}
	if !at(10, policy.Event) {
		t.Error("the only source does not count")
	}
	arbiter.SetSources(now.Add(20*time.Second), policy.Event, policy.CTILog)
	arbiter.Alive(policy.CTILog, true, now.Add(20*time.Second))
	if !at(30, policy.Event) || at(30, policy.CTILog) {
		t.Error("a new source of the same failure counts it again")
	}
	arbiter.Alive(policy.Event, false, now.Add(40*time.Second))
	if !at(50, policy.CTILog) {
		t.Error("the new source does not take over")
	}
	arbiter.SetSources(now.Add(60*time.Second), policy.Event)
	if s, why, ok := arbiter.Speaker(policy.AuthFailure); ok || why != "event is down" {
		t.Errorf("%v speaks, %q", s, why)
	}
}
