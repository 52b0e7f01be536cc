package ledger

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	path := filepath.Join(t.TempDir(), "fsban.db")
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
	path := filepath.Join(t.TempDir(), "fsban.db")
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
	l := open(t, filepath.Join(t.TempDir(), "fsban.db"), start)
	if err := l.db.Close(); err != nil { // every write fails from now on
		t.Fatal(err)
	}
	for i := range MaxJournal + 10 {
		l.Note(attempt(fmt.Sprint(i), start), start)
		if i%(MaxJournal/4) == 0 {
			l.Seal([]byte("state"), start)
			if l.Flush() == nil {
				t.Fatal("a closed file was written to")
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
	path := filepath.Join(t.TempDir(), "fsban.db")
	l := open(t, path, start)
	for _, user := range []string{"before", "broken", "after"} { // each in a chunk of its own
		l.Note(attempt(user, start), start)
		l.Seal([]byte("state"), start)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, l)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Each copy of it: an older page may hold one still.
	broken := strings.ReplaceAll(string(data), "broken", "brokeX")
	if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, start)
	var users []string
	state, unreadable, err := l.Journal(func(e Entry) { users = append(users, e.Attempt.User) })
	if err != nil || unreadable != 1 || string(state) != "state" || !slices.Equal(users, []string{"before", "after"}) {
		t.Errorf("%v, %d unreadable, state %q, error %v", users, unreadable, state, err)
	}
}
