package ledger

import (
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

func recordsOf(t testing.TB, l *Ledger, shelf Shelf) string {
	t.Helper()
	var list []string
	if unreadable, err := l.Records(shelf, func(r []byte) error { list = append(list, string(r)); return nil }); err != nil || unreadable > 0 {
		t.Fatal(err, unreadable)
	}
	return strings.Join(list, " ")
}

func TestRecordsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fsban.db")
	l := open(t, path, start)
	one, two := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	keep := func(shelf Shelf, p netip.Prefix, r any) {
		t.Helper()
		if err := l.Keep(shelf, p, r); err != nil {
			t.Fatal(err)
		}
	}
	keep(Known, two, "two")
	keep(Known, one, "one")
	keep(Offences, one, 3)
	flush(t, l)
	l = open(t, path, start)
	if got := recordsOf(t, l, Known); got != `"one" "two"` {
		t.Error(got)
	}
	keep(Known, one, nil)
	keep(Known, two, "newer")
	flush(t, l)
	l = open(t, path, start)
	if got := recordsOf(t, l, Known) + recordsOf(t, l, Offences) + recordsOf(t, l, Allowed); got != `"newer"3` {
		t.Error(got)
	}
	unreadable, err := l.Records(Known, func(r []byte) error { return json.Unmarshal(r, new(int)) })
	if err != nil || unreadable != 1 {
		t.Error(unreadable, err)
	}
	if err := l.Keep(Known, one, func() {}); err == nil {
		t.Error("a record that cannot be written is taken")
	}
}

func TestRecordsThatCannotBeWrittenStayPending(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "fsban.db"), start)
	if err := l.db.Close(); err != nil {
		t.Fatal(err)
	}
	one := netip.MustParsePrefix("192.0.2.1/32")
	if err := errors.Join(l.Keep(Known, one, "old"), l.Keep(Offences, one, 1)); err != nil {
		t.Fatal(err)
	}
	if l.Flush() == nil {
		t.Fatal("a closed file was written to")
	}
	if err := l.Keep(Known, one, "new"); err != nil {
		t.Fatal(err)
	}
	if l.Flush() == nil || string(l.records[slot{Known, one}]) != `"new"` || string(l.records[slot{Offences, one}]) != "1" {
		t.Errorf("%v", l.records)
	}
}
