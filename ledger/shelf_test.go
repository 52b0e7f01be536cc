package ledger

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"syscall"
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
	path := statePath(t)
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
	l := open(t, statePath(t), start)
	spoil(l, fault{write: syscall.EIO})
	one := netip.MustParsePrefix("192.0.2.1/32")
	if err := errors.Join(l.Keep(Known, one, "old"), l.Keep(Offences, one, 1)); err != nil {
		t.Fatal(err)
	}
	if l.Flush() == nil {
		t.Fatal("a broken disk was written to")
	}
	if err := l.Keep(Known, one, "new"); err != nil {
		t.Fatal(err)
	}
	if l.Flush() == nil || string(l.records[slot{Known, one}]) != `"new"` || string(l.records[slot{Offences, one}]) != "1" {
		t.Errorf("%v", l.records)
	}
}

// Sweep deletes the records that the owner of a shelf has forgotten, at any time after the start.
func TestSweepRemovesForgottenRecords(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	prefix := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
	}
	for i := range 1000 {
		if err := errors.Join(l.Keep(Known, prefix(i), i), l.Keep(Offences, prefix(i), i)); err != nil {
			t.Fatal(err)
		}
	}
	flush(t, l)
	l = open(t, path, start)
	if err := l.Keep(Known, prefix(999), "newer than what is on disk"); err != nil {
		t.Fatal(err)
	}
	keep := func(p netip.Prefix) bool { return p.Addr().As4()[3] < 100 && p.Addr().As4()[2] == 0 }
	if n := l.Sweep(Known, keep); n != 899 {
		t.Errorf("%d removed", n)
	}
	if n := l.Sweep(Known, keep); n != 0 {
		t.Errorf("%d removed again", n)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if l.Shelved(Known) != 101 || l.Shelved(Offences) != 1000 || l.Shelved(Allowed) != 0 {
		t.Errorf("%d, %d and %d on the shelves", l.Shelved(Known), l.Shelved(Offences), l.Shelved(Allowed))
	}
	flush(t, l)
	l = open(t, path, start)
	if l.Shelved(Known) != 101 || l.Shelved(Offences) != 1000 {
		t.Errorf("%d and %d on the shelves after a restart", l.Shelved(Known), l.Shelved(Offences))
	}
}

func TestARecordThatIsTooLongIsRefused(t *testing.T) {
	l := open(t, statePath(t), start)
	p := netip.MustParsePrefix("192.0.2.1/32")
	if err := l.Keep(Known, p, strings.Repeat("x", maxRecord)); err == nil {
		t.Error("it was taken")
	}
	l.Note(attempt("1000", start), start)
	l.Seal(make([]byte, maxRecord), start)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := journalOf(t, l); got != "1000 | " {
		t.Errorf("%s", got)
	}
}
