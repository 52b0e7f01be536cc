package ledger

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fsban/policy"
)

func attempt(user string, at time.Time) Entry {
	return Entry{Attempt: policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: at, Kind: policy.AuthFailure, User: user}}
}

// journalOf lists the users of the journal, and the sealed state.
func journalOf(t testing.TB, l *Ledger) string {
	t.Helper()
	var list []string
	state, unreadable, err := l.Journal(func(e Entry) {
		if e.Forgot.IsValid() {
			list = append(list, "forgot "+e.Forgot.String())
			return
		}
		list = append(list, e.Attempt.User)
	})
	if err != nil || unreadable > 0 {
		t.Fatal(err, unreadable)
	}
	return fmt.Sprintf("%s | %s", strings.Join(list, " "), state)
}

func TestTheJournalIsWrittenUpToTheSealAndNotFurther(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	if got := journalOf(t, l); got != " | " {
		t.Fatal(got)
	}
	l.Note(attempt("a", start), start)
	l.Seal([]byte("after a"), start.Add(-time.Hour))
	l.Note(attempt("b", start.Add(time.Second)), start.Add(time.Second))
	l.Note(Entry{Forgot: netip.MustParsePrefix("192.0.2.7/32")}, start.Add(time.Second))
	l.Seal([]byte("after b"), start.Add(-time.Hour))
	l.Note(attempt("c", start.Add(2*time.Second)), start.Add(2*time.Second))
	l.Add(ban("203.0.113.1/32", time.Hour)) // a ban is written at once, seal or not
	flush(t, l)

	l = open(t, path, start)
	if got := journalOf(t, l); got != "a b forgot 192.0.2.7/32 | after b" || prefixes(l) != "203.0.113.1/32" {
		t.Fatalf("%s; bans %s", got, prefixes(l))
	}
	l.Note(attempt("d", start.Add(3*time.Second)), start.Add(3*time.Second))
	l.Seal([]byte("after d"), start.Add(time.Second)) // a is too old
	flush(t, l)
	if got := journalOf(t, open(t, path, start)); got != "b forgot 192.0.2.7/32 d | after d" {
		t.Fatal(got)
	}
}

func TestTheJournalIsBounded(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	const more = 50
	for i := range MaxJournal + more {
		l.Note(attempt(fmt.Sprint(i), start), start)
		if i == MaxJournal/2 {
			l.Seal([]byte("half"), start)
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.Seal([]byte("all"), start)
	flush(t, l)
	got := strings.Fields(journalOf(t, open(t, path, start)))
	n := len(got) - 2 // without the state
	if n > MaxJournal || n < MaxJournal-chunkSize || got[0] != fmt.Sprint(MaxJournal+more-n) || got[n-1] != fmt.Sprint(MaxJournal+more-1) {
		t.Errorf("%d entries, %v … %v", n, got[:1], got[len(got)-3:])
	}
}

func TestADiskThatTakesNothingCostsAtMostTheOldestEntries(t *testing.T) {
	l := open(t, statePath(t), start)
	spoil(l, fault{write: syscall.EIO})
	for i := range MaxJournal + 10 {
		l.Note(attempt(fmt.Sprint(i), start), start)
		if i%(MaxJournal/4) == 0 {
			l.Seal([]byte("state"), start)
			if l.Flush() == nil {
				t.Fatal("a broken disk was written to")
			}
		}
	}
	j := &l.journal
	kept := 0
	for _, c := range append(j.sealed, j.noted...) {
		kept += entriesIn(c.data)
	}
	if kept != j.kept || kept > MaxJournal || kept < MaxJournal-chunkSize || kept+int(l.Lost()) != MaxJournal+10 || string(j.state) != "state" {
		t.Errorf("%d entries kept, as it knows %d, %d lost, state %q", kept, j.kept, j.lost, j.state)
	}
}

func TestAnEntryThatCannotBeReadIsPassedOver(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	for _, user := range []string{"before", "broken", "after"} { // each in a chunk of its own
		l.Note(attempt(user, start), start)
		l.Seal([]byte("state"), start)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, l)
	change(t, path, "broken", "brokeX")
	l = open(t, path, start)
	var users []string
	state, unreadable, err := l.Journal(func(e Entry) { users = append(users, e.Attempt.User) })
	if err != nil || unreadable != 0 || string(state) != "state" || !slices.Equal(users, []string{"before", "after"}) || l.Skipped() != 1 {
		t.Errorf("%v, %d unreadable, %d skipped, state %q, error %v", users, unreadable, l.Skipped(), state, err)
	}
	change(t, path, "after", "aftex")
	users = nil
	state, unreadable, err = l.Journal(func(e Entry) { users = append(users, e.Attempt.User) })
	if err != nil || unreadable != 1 || string(state) != "state" || !slices.Equal(users, []string{"before"}) {
		t.Errorf("damaged since it was opened: %v, %d unreadable, state %q, error %v", users, unreadable, state, err)
	}
}

// Without its seal the journal counts if there is none at all, and else only as far as the seal before reaches.
func TestADamagedSealLeavesThePreviousOne(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	for _, name := range []string{"a", "b"} {
		l.Note(attempt(name, start), start)
		l.Seal([]byte("state of "+name), start)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, l)
	change(t, path, "state of b", "state of x")
	l = open(t, path, start)
	if got := journalOf(t, l); got != "a | state of a" || l.Skipped() != 1 {
		t.Errorf("%s; %d skipped", got, l.Skipped())
	}
	flush(t, l)
	change(t, path, "state of a", "state of x")
	l = open(t, path, start)
	if got := journalOf(t, l); got != "a | " || l.Skipped() != 1 {
		t.Errorf("%s; %d skipped", got, l.Skipped())
	}
}

// change replaces a text in a file by another one of the same length.
func change(t testing.TB, path, was, is string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), was) {
		t.Fatalf("%q is not in the file", was)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(strings.ReplaceAll(string(data), was, is)), 0)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
