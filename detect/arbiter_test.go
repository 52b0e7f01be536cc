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

// A step is one event of a scenario, at a time in milliseconds.
type step struct {
	at   int
	what string // up, down: the event socket; due; or a source that reports a failure
	late int    // how long ago the failure happened, by FreeSWITCH's clock
	user string
}

func TestEachFailureCountsOnceForAllSources(t *testing.T) {
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
			arbiter.SetAlive(policy.CTILog, true, now)
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

// socket marks all sources of the event socket as alive or failed.
func socket(r *Arbiter, up bool, at time.Time) {
	for _, s := range []policy.Source{policy.Event, policy.CTIEvent, policy.ESLLog} {
		r.SetAlive(s, up, at)
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

func TestActiveSourceAndReason(t *testing.T) {
	r := NewArbiter(policy.Event, policy.ESLLog, policy.CTILog)
	want := func(k policy.Kind, want string) {
		t.Helper()
		s, why, ok := r.ActiveSource(k)
		if got := fmt.Sprintf("%v, %s, %v", s, why, ok); got != want {
			t.Errorf("%v: %s\nwant %s", k, got, want)
		}
	}
	want(policy.AuthFailure, "event, event is down, false")
	r.SetAlive(policy.CTILog, true, now)
	want(policy.AuthFailure, "cti_log, event is down, true")
	want(policy.CallReject, "event, event is down, false")
	socket(r, true, now)
	want(policy.AuthFailure, "event, , true")
	want(policy.ACLReject, "esl_log, , true")
	want(policy.Violation, "cti_log, esl_log has not reported anything yet, true")
	r.Counts(told(t, "esl_log acl_reject", "", now), now)
	want(policy.Violation, "cti_log, esl_log has not reported anything yet, true")
	r.Counts(told(t, "esl_log violation", "", now), now)
	want(policy.Violation, "esl_log, , true")
	socket(r, false, now)
	want(policy.Violation, "cti_log, esl_log is down, true")
}

func TestAFailureCountsOnceOverARestart(t *testing.T) {
	at := now.Add(10 * time.Second)
	first := NewArbiter(policy.Event, policy.CTILog)
	first.SetAlive(policy.CTILog, true, now)
	first.SetAlive(policy.Event, true, now)
	if !first.Counts(told(t, "event", "told by the event", at), at) || first.Counts(told(t, "cti_log", "told by the line", at), at) {
		t.Fatal("the event does not speak")
	}

	second := NewArbiter(policy.Event, policy.CTILog)
	handOver(first, second, at.Add(time.Second))
	later := at.Add(time.Second)
	second.SetAlive(policy.CTILog, true, later)
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
	if n := memos(first, at.Add(time.Minute)); n != 0 {
		t.Errorf("%d memos of a minute ago", n)
	}
}

// handOver restores the memory of from in to, as a restart does.
func handOver(from, to *Arbiter, now time.Time) {
	for m := range from.Memos(now) {
		to.RestoreMemo(&m)
	}
}

// memos returns the number of Memos.
func memos(r *Arbiter, now time.Time) (n int) {
	for range r.Memos(now) {
		n++
	}
	return n
}

// With FreeSWITCH's clock an hour off, an event just before a restart and its log line, read later, have the same time by that
// clock.
func TestAClockThatIsOffDoesNotCountTwice(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			event, line := told(t, "event", "1000", now.Add(off)), told(t, "cti_log", "1000", now.Add(off+3*time.Millisecond))
			event.CorrectTime(now)
			first := NewArbiter(policy.Event, policy.CTILog)
			first.SetAlive(policy.Event, true, now)
			if !first.Counts(event, now) {
				t.Fatal("the event does not count")
			}
			second := NewArbiter(policy.Event, policy.CTILog)
			handOver(first, second, now)
			later := now.Add(5 * time.Second)
			line.CorrectTime(later)
			second.SetAlive(policy.CTILog, true, later)
			if second.Counts(line, later) {
				t.Error("the line counts again")
			}
		})
	}
}

// Nights of failures, nearly one a second of each address and user, each reported by up to three sources in random order, with
// a socket that fails and returns: each counts exactly once.
func TestRandomNightsCountExactly(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := NewArbiter(policy.Event, policy.ESLLog, policy.CTILog)
		r.SetAlive(policy.CTILog, true, now)
		type report struct {
			at time.Time
			a  *policy.Attempt
			// state of the event socket from that time on, if a is nil
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
				// A report of the socket is lost if the socket is down at any time until it is read.
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
	r.SetAlive(policy.CTILog, true, now)
	r.SetAlive(policy.Event, true, now)
	const flood = 50_000
	at := now.Add(time.Minute)
	for i := range flood {
		a := told(t, "cti_log", fmt.Sprint(i), at)
		if r.Counts(a, at) {
			t.Fatal("a line counts while the event socket speaks")
		}
	}
	if n := memos(r, at); len(r.held) > maxHeld || n > numReports {
		t.Errorf("%d held, %d memos", len(r.held), n)
	}
	r.Due(at.Add(time.Minute))
	if got := r.Unconfirmed(policy.CTILog); got < flood-numReports || got > flood {
		t.Errorf("%d unconfirmed of %d", got, flood)
	}
}

func TestALineOnItsWayCountsOnceWhenItsSourceIsRemoved(t *testing.T) {
	for name, up := range map[string]bool{"events are alive": true, "the log alone is": false} {
		r := NewArbiter(policy.Event, policy.CTILog)
		r.SetAlive(policy.CTILog, true, now)
		r.SetAlive(policy.Event, up, now)
		at := now.Add(time.Minute)
		if up && !r.Counts(told(t, "event", "a", at), at) {
			t.Fatal("the event does not count")
		}
		r.SetSources(at, policy.Event)
		if got := r.Counts(told(t, "cti_log", "a", at), at); got == up {
			t.Errorf("%s: the line counts: %v", name, got)
		}
	}
}

// FreeSWITCH's clock is ahead of ours. A line from just before the event socket came back has a later time than that.
func TestAFailureOfAnOutageCountsThoughTheClockIsAhead(t *testing.T) {
	for _, ahead := range []time.Duration{0, 3 * time.Second, 59 * time.Second} {
		r := NewArbiter(policy.Event, policy.CTILog)
		r.SetAlive(policy.CTILog, true, now)
		r.SetAlive(policy.Event, true, now.Add(time.Minute))
		read := now.Add(time.Minute + 100*time.Millisecond)
		if !r.Counts(told(t, "cti_log", "a", now.Add(time.Minute-100*time.Millisecond+ahead)), read) {
			t.Errorf("%v ahead: the line does not count", ahead)
		}
		later := now.Add(2 * time.Minute)
		if r.Counts(told(t, "cti_log", "b", later.Add(ahead)), later) {
			t.Errorf("%v ahead: a line counts while events speak", ahead)
		}
	}
}

func TestSourcesComeAndGo(t *testing.T) {
	arbiter := NewArbiter(policy.Event)
	arbiter.SetAlive(policy.Event, true, now)
	at := func(seconds int, s policy.Source) bool {
		when := now.Add(time.Duration(seconds) * time.Second)
		return arbiter.Counts(told(t, s.String(), "a", when), when)
	}
	if !at(10, policy.Event) {
		t.Error("the only source does not count")
	}
	arbiter.SetSources(now.Add(20*time.Second), policy.Event, policy.CTILog)
	arbiter.SetAlive(policy.CTILog, true, now.Add(20*time.Second))
	if !at(30, policy.Event) || at(30, policy.CTILog) {
		t.Error("a new source of the same failure counts it again")
	}
	arbiter.SetAlive(policy.Event, false, now.Add(40*time.Second))
	if !at(50, policy.CTILog) {
		t.Error("the new source does not take over")
	}
	arbiter.SetSources(now.Add(60*time.Second), policy.Event)
	if s, why, ok := arbiter.ActiveSource(policy.AuthFailure); ok || why != "event is down" {
		t.Errorf("%v speaks, %q", s, why)
	}
}

// Sources name the same failure by the digest user, the user of To or the dialled number.
func TestAFailureCountsOnceByAnyOfItsNames(t *testing.T) {
	type report struct{ source, user, number string }
	for name, tc := range map[string]struct {
		reports []report
		want    int
	}{
		"digest user, then To":              {[]report{{"event", "alice", "1000"}, {"cti_log", "1000", ""}}, 1},
		"To, then digest user":              {[]report{{"cti_log", "1000", ""}, {"event", "alice", "1000"}}, 1},
		"dialled number after the event":    {[]report{{"event", "1000", "0044123"}, {"cti_log", "0044123", ""}}, 1},
		"dialled number before the event":   {[]report{{"cti_log", "0044123", ""}, {"event", "1000", "0044123"}}, 1},
		"number of a user unknown":          {[]report{{"event", "", "0044123"}, {"cti_log", "1000", ""}}, 1},
		"three sources":                     {[]report{{"cti_log", "1000", ""}, {"event", "alice", "1000"}, {"esl_log", "alice", ""}}, 1},
		"three sources, the event last":     {[]report{{"cti_log", "1000", ""}, {"esl_log", "1000", ""}, {"event", "alice", "1000"}}, 1},
		"the event without names between":   {[]report{{"cti_log", "1000", ""}, {"event", "", "0044"}, {"esl_log", "1000", ""}}, 1},
		"neither name":                      {[]report{{"event", "alice", "1000"}, {"cti_log", "bob", ""}}, 2},
		"neither name, the event last":      {[]report{{"cti_log", "bob", ""}, {"event", "alice", "1000"}}, 2},
		"no name equals no number":          {[]report{{"event", "alice", ""}, {"cti_log", "bob", ""}}, 2},
		"the same user before another name": {[]report{{"event", "1000", ""}, {"event", "alice", "1000"}, {"cti_log", "1000", ""}, {"cti_log", "alice", ""}}, 2},
		"two of one To":                     {[]report{{"event", "alice", "1000"}, {"event", "bob", "1000"}, {"cti_log", "1000", ""}, {"cti_log", "1000", ""}}, 2},
	} {
		for _, restarted := range []bool{false, true} {
			// No source is alive: each report that is not matched counts.
			r := NewArbiter(policy.Event, policy.ESLLog, policy.CTILog)
			counted := 0
			for i, p := range tc.reports {
				at := now.Add(time.Duration(i) * 10 * time.Millisecond)
				a := told(t, p.source, p.user, at)
				a.Number = p.number
				if r.Counts(a, at) {
					counted++
				}
				if restarted {
					next := NewArbiter(policy.Event, policy.ESLLog, policy.CTILog)
					handOver(r, next, at)
					r = next
				}
			}
			if counted != tc.want {
				t.Errorf("%s, restarted %v: %d counted, want %d", name, restarted, counted, tc.want)
			}
		}
	}
}
