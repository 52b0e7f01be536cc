package fleet

import (
	"context"
	"fmt"
	"testing"
	"time"

	"fsban/fleet/merge"
)

// failures returns the entry number seq of a log: one failure, announced by a process of b-1.
func failures(t *testing.T, seq int, instance string, counter int) entry {
	t.Helper()
	s := failure("203.0.113.9")
	s.Stamp, s.Node = noon.UnixMicro(), "b-1"
	text, err := encode(&s, 0)
	if err != nil {
		t.Fatal(err)
	}
	return entry{fmt.Sprintf("%d-0", seq), "b-1", instance, fmt.Sprint(counter), fmt.Sprintf("%s %v %s", kindAttempt, s.Prefix, text)}
}

// The log goes back because Redis failed over, and is read again from its begin. A node that wrote to it had restarted; so may
// have the node that reads.
func TestFailuresCountOnceAfterAFailOver(t *testing.T) {
	log := []entry{failures(t, 1, "x", 1), failures(t, 2, "x", 2), failures(t, 3, "y", 1), failures(t, 4, "y", 2)}
	for name, from := range map[string]int{"the reader knows all of the log": 0, "the reader has restarted": 3, "the reader has restarted at the end": 4} {
		t.Run(name, func(t *testing.T) {
			counted := from // by the earlier process
			f := New(Options{Addrs: []string{"127.0.0.1:1"}, Name: "t", Node: "a-1", From: merge.Place{Epoch: "e", Seq: uint64(from)}, Take: func(_ context.Context, b merge.Batch) error {
				for i := range b.Statements {
					if b.Statements[i].Kind == merge.Attempt {
						counted++
					}
				}
				return nil
			}})
			if err := f.entries(t.Context(), log[from:]); err != nil {
				t.Fatal(err)
			}
			f.goBack(&reply{epoch: "e", seq: 3})
			if err := f.entries(t.Context(), log[f.at().Seq:3]); err != nil || counted != 4 {
				t.Errorf("%d failures count, want 4; %v", counted, err)
			}
			if err := f.entries(t.Context(), []entry{failures(t, 4, "y", 3), failures(t, 5, "w", 1)}); err != nil || counted != 6 {
				t.Errorf("%d failures count, want the two new ones, too: 6; %v", counted, err)
			}
		})
	}
}

// Failures of a queue that waited for Redis count at the times at which they were made.
func TestFailuresKeepTheirTimesInTheLog(t *testing.T) {
	q := newQueue()
	for i := range 8 {
		s := failure("203.0.113.9")
		s.Stamp, s.Node, s.Attempt.At = noon.UnixMicro(), "b-1", noon.Add(time.Duration(2*i)*time.Minute)
		q.add(s)
	}
	list := q.take(noon)
	text, err := encode(&list[0], time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(kindAttempt, "203.0.113.9/32", text, time.Hour, noon.Add(time.Hour))
	if err != nil || len(list) != 1 || len(got.Earlier) != 7 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, at := range append(got.Earlier, got.Attempt.At) {
		if want := noon.Add(time.Duration(2*i) * time.Minute); !at.Equal(want) {
			t.Errorf("failure %d at %v, want %v", i, at, want)
		}
	}
}
