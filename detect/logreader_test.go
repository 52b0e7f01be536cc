package detect

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"fsban/policy"
)

const findtime = 12 * time.Hour

// recordOf returns mod_cti's record of a failure of 203.0.113.7 at a time, in a zone with an unusual offset.
func recordOf(at time.Time) []byte {
	return fmt.Appendf(nil, "ip[203.0.113.7] user[1000] at[%s+051800] Registration failed", at.In(time.FixedZone("", 5*3600+1800)).Format("2006-01-02T15:04:05.000000"))
}

// A logStory is a LogReader with a clock.
type logStory struct {
	t   *testing.T
	r   *LogReader
	now time.Time
}

func newLogStory(t *testing.T) *logStory { return &logStory{t, NewLogReader(), now} }

// reads reads a line whose stamp has the given age, and compares the outcome.
func (s *logStory) reads(reading uint64, since, age time.Duration, want Outcome, wantAge time.Duration) {
	s.t.Helper()
	l := LogLine{Text: recordOf(s.now.Add(-age)), Reading: reading}
	if since != 0 {
		l.Since = s.now.Add(-since)
	}
	a, got := s.r.Line(l, s.now, findtime, 0)
	if got != want || (got == Attempt || got == ClockAdrift) && s.now.Sub(a.At) != wantAge {
		s.t.Errorf("a line of %v ago in reading %d, seen being written %v ago: %s of %v ago, want %s of %v ago", age, reading, since, got, s.now.Sub(a.At), want, wantAge)
	}
}

// old reads a line that the content had when the reading began, live one that was seen being written.
func (s *logStory) old(reading uint64, age time.Duration, want Outcome) {
	s.t.Helper()
	s.reads(reading, 0, age, want, age)
}

func (s *logStory) live(reading uint64, age time.Duration, want Outcome, wantAge time.Duration) {
	s.t.Helper()
	s.reads(reading, time.Second, age, want, wantAge)
}

func TestALineKeepsItsOwnTime(t *testing.T) {
	s := newLogStory(t)
	s.old(1, findtime+time.Second, Outdated)
	s.old(1, findtime, Attempt)
	s.old(1, 3*time.Hour, Attempt)
	s.old(1, time.Second, Attempt)
	s.old(1, -MaxSkew, Attempt)
	s.old(1, -MaxSkew-time.Microsecond, Outdated)
	s.live(1, 0, Attempt, 0)
	// Old lines are written to the log, at once or in pieces: none counts as now.
	for range 5 {
		s.live(1, 2*time.Hour, Attempt, 2*time.Hour)
		s.now = s.now.Add(2 * time.Second)
		s.live(1, time.Hour, Attempt, time.Hour)
		s.live(1, findtime+time.Hour, Outdated, 0)
	}
	// A process that was stopped, alone or with its host, reads lines late.
	s.reads(1, time.Hour, 30*time.Minute, Attempt, 30*time.Minute)
	s.live(1, 0, Attempt, 0)
}

func TestALineCountsOnceInAllReadings(t *testing.T) {
	s := newLogStory(t)
	s.old(1, time.Hour, Attempt)
	s.live(1, 0, Attempt, 0)
	s.live(1, 0, Attempt, 0) // two with the same time
	s.old(2, time.Hour, Repeated)
	s.old(2, 0, Repeated)
	s.live(2, 0, Repeated, 0) // a copy that is written piece by piece
	s.live(2, 0, Attempt, 0)  // a third
	for reading := range uint64(3) {
		for range 3 {
			s.old(3+reading, 0, Repeated)
		}
	}
	s.old(5, 0, Attempt) // a fourth, in a file that has all four
	s.old(5, time.Hour, Repeated)
	s.live(5, 0, Attempt, 0)
	s.live(5, time.Hour, Repeated, 0) // behind newer ones
	s.old(5, time.Minute, Attempt)
}

func TestALineIsKnownThoughItsTextHasChanged(t *testing.T) {
	s := newLogStory(t)
	s.old(1, time.Minute, Attempt)
	at := s.now.Add(-time.Minute).UTC().Format("2006-01-02T15:04:05.000000")
	for i, text := range []string{"ip[203.0.113.7] user[] at[%sZ] Registration failed", "ip[203.0.113.7] user[1000] at[%s+0000] irregular\r", "ip[::ffff:203.0.113.7] user[] at[%s+00:00]"} {
		if _, got := s.r.Line(LogLine{Text: fmt.Appendf(nil, text, at), Reading: uint64(2 + i)}, s.now, findtime, 0); got != Repeated {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func TestALineWithoutATimeCountsWhenItIsWritten(t *testing.T) {
	r := NewLogReader()
	line := func(reading uint64, since time.Time) Outcome {
		a, outcome := r.Line(LogLine{Text: []byte("ip[203.0.113.7] user[1000] at[(null)] Registration failed"), Reading: reading, Since: since}, now, findtime, 0)
		if outcome == ClockAdrift && !a.At.Equal(now) {
			t.Errorf("it counts at %v", a.At)
		}
		return outcome
	}
	got := []Outcome{line(1, time.Time{}), line(1, now), line(1, now), line(2, time.Time{}), line(0, time.Time{})}
	if want := []Outcome{Outdated, ClockAdrift, ClockAdrift, Outdated, ClockAdrift}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A peer may choose a user so long that mod_cti's own text is cut off, with a record in it: its time neither hides the failure
// nor moves the clock, and its equality with an earlier one does not hide it.
func TestARecordInALineThatIsCutHidesNothing(t *testing.T) {
	for name, forged := range map[string]time.Duration{"old": -100 * 24 * time.Hour, "new": 0, "of the future": 100 * 24 * time.Hour} {
		r := NewLogReader()
		read := func(text []byte, since time.Time, cut bool, want Outcome) {
			t.Helper()
			a, got := r.Line(LogLine{Text: text, Reading: 1, Since: since, Cut: cut}, now, findtime, 0)
			if got != want || want != Outdated && !a.At.Equal(now) || cut && a.Kind != policy.Violation {
				t.Errorf("%s: %s of %v, %v, want %s", name, got, a.At, a.Kind, want)
			}
		}
		text := append(recordOf(now.Add(forged)), " and so on"...)
		for range 3 {
			read(text, now.Add(-time.Second), true, ClockAdrift)
		}
		read(text, time.Time{}, true, Outdated) // in a copy
		read(recordOf(now), now.Add(-time.Second), false, Attempt)
	}
}

func TestAClockThatIsBehindIsProvedByTwoLines(t *testing.T) {
	s := newLogStory(t)
	const behind = 3 * time.Hour
	s.live(1, 0, Attempt, 0)
	s.now = s.now.Add(time.Second) // FreeSWITCH's clock is set back
	s.live(1, behind, Attempt, behind)
	s.now = s.now.Add(confirmAfter - time.Millisecond)
	s.live(1, behind+time.Second, Attempt, behind+time.Second)
	s.now = s.now.Add(time.Millisecond)
	s.live(1, behind, ClockAdrift, 0)
	s.live(1, behind+10*time.Millisecond, ClockAdrift, 10*time.Millisecond)
	s.old(2, behind, Repeated)
	s.reads(2, 0, behind+time.Minute, ClockAdrift, time.Minute)
	if got, want := s.r.Oldest(s.now, findtime), s.now.Add(-behind-findtime); !got.Equal(want) {
		t.Errorf("lines count from %v on, want %v", got, want)
	}
	s.live(2, 0, Attempt, 0) // the clock is right again
	s.live(2, behind+2*time.Minute, Attempt, behind+2*time.Minute)
}

func TestAClockThatIsAheadIsProvedByOneLine(t *testing.T) {
	s := newLogStory(t)
	const ahead = 2 * time.Hour
	s.old(1, -ahead, Outdated)
	s.live(1, -ahead, ClockAdrift, 0)
	s.now = s.now.Add(time.Minute)
	s.live(1, -ahead+time.Second, ClockAdrift, time.Second)
	s.old(2, -ahead+time.Minute, Repeated)
	s.reads(2, 0, -ahead+30*time.Second, ClockAdrift, 30*time.Second)
	s.now = s.now.Add(time.Minute)
	s.live(2, 0, Attempt, 0)
}

func TestEventsProveAClock(t *testing.T) {
	r := NewLogReader()
	for i, tc := range []struct {
		byEvents time.Duration
		want     Outcome
	}{{0, Attempt}, {-time.Hour, ClockAdrift}, {-time.Hour, ClockAdrift}} {
		at := now.Add(time.Duration(i) * time.Second)
		if a, got := r.Line(LogLine{Text: recordOf(at.Add(-time.Hour)), Reading: 1, Since: at}, at, findtime, tc.byEvents); got != tc.want || got == ClockAdrift && !a.At.Equal(at) {
			t.Errorf("line %d: %s at %v", i, got, a.At)
		}
	}
}

// Lines that the earlier process took are identified by marks, and by its time. In the reading that it began all lines are new.
func TestReadingContinuesOverARestart(t *testing.T) {
	s := newLogStory(t)
	at := func(age time.Duration) time.Time { return s.now.Add(-age) }
	mark := LineMark{netip.MustParseAddr("203.0.113.7"), at(time.Minute)}
	s.r.Restore(LinesTaken{Before: at(time.Minute + Slack), Newest: []LineMark{mark, mark}})
	s.old(0, time.Minute, Attempt) // a third in the same file
	s.old(0, time.Hour, Repeated)  // appended again
	for reading := uint64(1); reading < 3; reading++ {
		s.old(reading, time.Minute+2*Slack, Repeated)
		for range 3 {
			s.old(reading, time.Minute, Repeated)
		}
	}
	s.old(2, 30*time.Second, Attempt)
	s.live(2, 5*time.Minute, Repeated, 0)
	s.live(2, 0, Attempt, 0)
}

// The offset of the clock survives a restart.
func TestAClockIsKnownOverARestart(t *testing.T) {
	s := newLogStory(t)
	s.r.Restore(LinesTaken{Ahead: -time.Hour})
	s.reads(0, 0, time.Hour+time.Minute, ClockAdrift, time.Minute)
	s.reads(1, 0, time.Hour+time.Second, ClockAdrift, time.Second)
}

func TestForgottenLinesCountAsTaken(t *testing.T) {
	s := newLogStory(t)
	const extra = 1000
	age := func(i int) time.Duration { return time.Hour - time.Duration(i)*time.Millisecond }
	for i := range maxLines + extra {
		s.old(1, age(i), Attempt)
	}
	if n, m := len(s.r.memory.counts), len(s.r.memory.ring); n != maxLines || m != maxLines {
		t.Fatalf("%d counts of %d lines", n, m)
	}
	for i := range maxLines + extra {
		s.old(2, age(i), Repeated)
	}
	s.old(2, age(extra)+time.Microsecond, Attempt)
	s.live(2, age(0), Repeated, 0)
	s.live(2, 0, Attempt, 0)
}

// Whichever parts of a growing log are read, each line is taken the maximum number of times that it occurs in one of them.
func TestNoContentCountsTwice(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := NewLogReader()
		var content []time.Duration // ages of its lines
		most := make(map[time.Duration]int)
		taken := make(map[time.Duration]int)
		for reading := uint64(1); reading < 20; reading++ {
			for range rng.IntN(10) {
				content = append(content, time.Duration(rng.IntN(20))*time.Minute)
			}
			slices.Sort(content)
			slices.Reverse(content)
			lo, hi := rng.IntN(len(content)+1), rng.IntN(len(content)+1)
			part := content[min(lo, hi):max(lo, hi)]
			has := make(map[time.Duration]int)
			for _, age := range part {
				has[age]++
				most[age] = max(most[age], has[age])
				l := LogLine{Text: recordOf(now.Add(-age)), Reading: reading}
				if rng.IntN(2) == 0 {
					l.Since = now.Add(-time.Second)
				}
				if _, outcome := r.Line(l, now, findtime, 0); outcome == Attempt {
					taken[age]++
				}
			}
		}
		for age, n := range most {
			if taken[age] != n {
				t.Fatalf("seed %d: line of %v ago was taken %d times of %d", seed, age, taken[age], n)
			}
		}
	}
}
