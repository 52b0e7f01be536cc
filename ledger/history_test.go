package ledger

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fsban/policy"
)

// ending is an end some time after start.
func ending(after time.Duration, cause string) Ending {
	return Ending{At: start.Add(after), Cause: cause, By: "anna", Reason: "a customer", Node: "b-1"}
}

// historyOf returns the history that q selects, as "prefix cause" each.
func historyOf(t testing.TB, l *Ledger, q Query) string {
	t.Helper()
	list, unreadable, err := l.History(q)
	if err != nil || unreadable > 0 {
		t.Fatalf("%d unreadable: %v", unreadable, err)
	}
	var texts []string
	for i := range list {
		texts = append(texts, list[i].Prefix.String()+" "+list[i].Ending.Cause)
	}
	return strings.Join(texts, ", ")
}

func TestEndedBansAreKeptOverARestart(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	for i, cause := range []string{"unbanned", "allowed", "evicted"} { // the last one was never written as a ban
		p := fmt.Sprintf("192.0.2.%d/32", i)
		l.Add(ban(p, time.Hour))
		if i < 2 {
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok := l.End(netip.MustParsePrefix(p), ending(time.Duration(i)*time.Minute, cause)); !ok {
			t.Fatal("there was no ban")
		}
	}
	l.Add(ban("192.0.2.3/32", 10*time.Minute))
	if over := l.Expire(start.Add(time.Hour)); len(over) != 1 {
		t.Fatal(over)
	}
	const want = "192.0.2.3/32 expired, 192.0.2.2/32 evicted, 192.0.2.1/32 allowed, 192.0.2.0/32 unbanned"
	check := func(when string) {
		t.Helper()
		if got := historyOf(t, l, Query{}); got != want {
			t.Errorf("%s: %s", when, got)
		}
		list, _, _ := l.History(Query{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Evidence: true})
		if len(list) != 1 {
			t.Fatalf("%s: %d bans of 192.0.2.1", when, len(list))
		}
		if b := ban("192.0.2.1/32", time.Hour); !reflect.DeepEqual(list[0].Ban, b) {
			t.Errorf("%s: %+v, want %+v", when, list[0].Ban, b)
		}
		if list[0].Ending != ending(time.Minute, "allowed") {
			t.Errorf("%s: %+v", when, list[0].Ending)
		}
	}
	check("before it is written")
	flush(t, l)
	l = open(t, path, start.Add(time.Hour))
	check("after a restart")
	if err := l.replaceFile(); err != nil {
		t.Fatal(err)
	}
	check("after a compaction")
	flush(t, l)
	l = open(t, path, start.Add(time.Hour))
	check("after a compaction and a restart")
}

func TestABanThatEndedWhileStoppedIsInTheHistory(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	l.Add(ban("192.0.2.1/32", time.Hour))
	flush(t, l)
	l = open(t, path, start.Add(2*time.Hour))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	list, _, err := l.History(Query{Evidence: true})
	if err != nil || len(list) != 1 || list[0].Ending != (Ending{At: start.Add(time.Hour), Cause: "expired"}) || len(list[0].Evidence) != 2 {
		t.Errorf("%+v %v", list, err)
	}
}

func TestABanThatIsReplacedIsInTheHistory(t *testing.T) {
	l := open(t, statePath(t), start)
	l.Replace(ban("192.0.2.1/32", time.Hour), ending(0, "replaced"))
	if got := historyOf(t, l, Query{}); got != "" {
		t.Errorf("there was nothing to replace: %s", got)
	}
	l.Replace(ban("192.0.2.1/32", 2*time.Hour), ending(0, "replaced"))
	if got := historyOf(t, l, Query{}); got != "192.0.2.1/32 replaced" {
		t.Error(got)
	}
	if got := prefixes(l); got != "192.0.2.1/32" {
		t.Error(got)
	}
}

func TestQueriesOfTheHistory(t *testing.T) {
	l := open(t, statePath(t), start)
	for i := range 6 {
		p := fmt.Sprintf("192.0.%d.1/32", i)
		l.Add(ban(p, time.Hour))
		l.End(netip.MustParsePrefix(p), ending(time.Duration(i)*time.Minute, []string{"unbanned", "allowed"}[i%2]))
		if i == 3 {
			if err := l.Flush(); err != nil { // two are pending below
				t.Fatal(err)
			}
		}
	}
	for want, q := range map[string]Query{
		"192.0.5.1/32 allowed, 192.0.4.1/32 unbanned, 192.0.3.1/32 allowed": {Limit: 3},
		"192.0.5.1/32 allowed":                         {Limit: 1},
		"192.0.5.1/32 allowed, 192.0.4.1/32 unbanned":  {Since: start.Add(4 * time.Minute)},
		"192.0.1.1/32 allowed, 192.0.0.1/32 unbanned":  {Until: start.Add(2 * time.Minute)},
		"192.0.4.1/32 unbanned":                        {Since: start.Add(4 * time.Minute), Until: start.Add(5 * time.Minute)},
		"192.0.2.1/32 unbanned":                        {Prefix: netip.MustParsePrefix("192.0.2.0/24")},
		"192.0.4.1/32 unbanned, 192.0.2.1/32 unbanned": {Match: func(e *EndedBan) bool { return e.Ending.Cause == "unbanned" }, Limit: 2},
		"": {Prefix: netip.MustParsePrefix("203.0.113.0/24")},
	} {
		if got := historyOf(t, l, q); got != want {
			t.Errorf("%+v: %s, want %s", q, got, want)
		}
	}
	if list, _, _ := l.History(Query{}); len(list) != 6 || list[0].Evidence != nil || list[5].Evidence != nil {
		t.Errorf("%+v", list)
	}
}

// An attack of 100,000 addresses ends: memory, disk and the time of the owner stay bounded, and the newest are kept.
func TestTheHistoryIsBounded(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	const n, limit = 100_000, 500
	l.SetHistory(start.Add(-time.Hour), limit)
	for i := range n {
		b := Ban{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), Since: start, Rule: "auth"}
		b.Until = start.Add(time.Hour + time.Duration(i)*time.Microsecond)
		l.Add(b)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := len(l.Expire(start.Add(2 * time.Hour))); got != n {
		t.Fatalf("%d ended", got)
	}
	if got := len(l.history.ended); got > 2*limit {
		t.Errorf("%d wait to be written", got)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		list, _, err := l.History(Query{})
		if err != nil || len(list) != limit || !list[0].Until.After(list[limit-1].Until) {
			t.Errorf("%d bans: %v", len(list), err)
		}
		if got := len(l.stored.history); got != limit {
			t.Errorf("%d bans in the index", got)
		}
	}
	check()
	flush(t, l)
	l = open(t, path, start.Add(2*time.Hour))
	l.SetHistory(start.Add(-time.Hour), limit)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	check()
	l.SetHistory(start.Add(-time.Hour), 0)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	l.Add(ban("192.0.2.1/32", time.Hour))
	l.End(netip.MustParsePrefix("192.0.2.1/32"), ending(0, "unbanned"))
	if got := historyOf(t, l, Query{}); got != "" {
		t.Errorf("without a history: %s", got)
	}
}

// A ban ends while the host loses power, or fsban is killed: the ban is over and in the history, or it is neither.
func TestAnEndThatIsCutOffIsRecordedOrUndone(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	for i := range 3 {
		l.Add(ban(fmt.Sprintf("192.0.2.%d/32", i), time.Hour))
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	before := l.store.end
	l.End(netip.MustParsePrefix("192.0.2.0/32"), ending(time.Minute, "unbanned"))
	l.End(netip.MustParsePrefix("192.0.2.1/32"), ending(time.Minute, "unbanned"))
	again := ban("192.0.2.2/32", 2*time.Hour)
	again.Rule, again.Since = "operator", start.Add(time.Minute)
	l.Replace(again, ending(time.Minute, "replaced"))
	flush(t, l)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lost int
	for n := before; n <= int64(len(data)); n++ {
		l, _ := openBytes(t, data[:n])
		list, _, err := l.History(Query{})
		if err != nil {
			t.Fatal(err)
		}
		recorded := make(map[netip.Prefix]bool)
		for i := range list {
			recorded[list[i].Prefix] = true
		}
		for i := range 3 {
			p := netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i))
			if b, banned := l.Get(p); (banned && b.Rule != "operator") == recorded[p] {
				t.Fatalf("%d of %d bytes: %v is banned: %t, in the history: %t", n, len(data), p, banned, recorded[p])
			}
		}
		lost += 3 - len(list)
		_ = l.Close()
	}
	if lost == 0 {
		t.Error("no write was cut off")
	}
}

// A host without a clock of its own starts years behind, or ahead: only the records of that time are of the wrong age, and no record
// keeps others from leaving in time.
func TestStepsOfTheClockHideNoEndedBan(t *testing.T) {
	const day = 24 * time.Hour
	path := statePath(t)
	l := open(t, path, start)
	for i, at := range []time.Duration{0, 1000 * day, -1000 * day, day, 2 * day} { // the second and third with a wrong clock
		p := fmt.Sprintf("192.0.2.%d/32", i)
		l.Add(ban(p, 0))
		l.End(netip.MustParsePrefix(p), ending(at, "unbanned"))
	}
	for _, step := range []struct {
		when string
		now  time.Duration
		want string
	}{
		{"soon", 3 * day, "192.0.2.4/32 unbanned, 192.0.2.3/32 unbanned, 192.0.2.1/32 unbanned, 192.0.2.0/32 unbanned"},
		{"a month later", 31*day + time.Hour, "192.0.2.4/32 unbanned, 192.0.2.1/32 unbanned"},
		{"after years", 2000 * day, ""},
	} {
		l.SetHistory(start.Add(step.now-30*day), 100)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := historyOf(t, l, Query{}); got != step.want {
			t.Errorf("%s: %s, want %s", step.when, got, step.want)
		}
		flush(t, l)
		l = open(t, path, start)
	}
}

// Ended bans are personal data: after their time they leave the file.
func TestTheHistoryIsForgottenInTime(t *testing.T) {
	for name, restart := range map[string]bool{"running": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			path := statePath(t)
			l := open(t, path, start)
			for i, user := range []string{"Alexandra", "Benjamin"} {
				b := ban(fmt.Sprintf("192.0.2.%d/32", i), time.Hour)
				b.Evidence = []policy.Attempt{{Addr: b.Prefix.Addr(), At: start, User: user}}
				l.Add(b)
				l.End(b.Prefix, ending(time.Duration(i)*time.Hour, "unbanned"))
			}
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if restart {
				flush(t, l)
				l = open(t, path, start)
			}
			l.SetHistory(start.Add(time.Minute), 100)
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if got := historyOf(t, l, Query{}); got != "192.0.2.1/32 unbanned" {
				t.Error(got)
			}
			data, err := os.ReadFile(path)
			if err != nil || bytes.Contains(data, []byte("Alexandra")) || !bytes.Contains(data, []byte("Benjamin")) {
				t.Errorf("the file holds %q: %v", data, err)
			}
		})
	}
}

func TestAFailedWriteLosesNoEndedBan(t *testing.T) {
	l := open(t, statePath(t), start)
	l.Add(ban("192.0.2.1/32", time.Hour))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	disk := spoil(l, fault{write: syscall.ENOSPC, during: func() {
		if got := historyOf(t, l, Query{}); got != "192.0.2.1/32 unbanned" {
			t.Errorf("while it is written: %s", got)
		}
	}})
	l.End(netip.MustParsePrefix("192.0.2.1/32"), ending(0, "unbanned"))
	if l.Flush() == nil {
		t.Fatal("no error")
	}
	disk.mend()
	l.Add(ban("192.0.2.1/32", time.Hour)) // it is banned again meanwhile
	l.End(netip.MustParsePrefix("192.0.2.1/32"), ending(time.Minute, "allowed"))
	for range 2 {
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if got := historyOf(t, l, Query{}); got != "192.0.2.1/32 allowed, 192.0.2.1/32 unbanned" {
			t.Error(got)
		}
	}
	if list, _, _ := l.History(Query{Evidence: true}); len(list) != 2 || len(list[0].Evidence) != 2 || len(list[1].Evidence) != 2 {
		t.Errorf("%+v", list)
	}
}

func TestADamagedEndedBanCostsNoOther(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	for i := range 3 {
		p := fmt.Sprintf("192.0.2.%d/32", i)
		l.Add(ban(p, time.Hour))
		l.End(netip.MustParsePrefix(p), ending(time.Duration(i)*time.Minute, "unbanned"))
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	at := l.stored.history[1].at
	flush(t, l)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at.at()+at.size()/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, start)
	if got := historyOf(t, l, Query{}); got != "192.0.2.2/32 unbanned, 192.0.2.0/32 unbanned" || l.Skipped() != 1 {
		t.Errorf("%s, %d skipped", got, l.Skipped())
	}
}

// Bans end, batches are written, the file is compacted and the history is read at the same time: no evidence is lost or mixed up.
func TestTheHistoryIsReadWhileTheFileChanges(t *testing.T) {
	l := open(t, statePath(t), start)
	l.slack = 1 << 10
	const n = 300
	l.SetHistory(start.Add(-time.Hour), n)
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		defer close(done)
		for i := range 3 * n {
			b := ban(fmt.Sprintf("10.0.%d.%d/32", i>>8, i&255), time.Hour)
			b.Evidence[0].User = b.Prefix.String()
			l.Add(b)
			if i%3 == 0 {
				_ = l.Flush()
			}
			l.End(b.Prefix, ending(time.Duration(i)*time.Second, "unbanned"))
		}
	})
	wait.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := l.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	check := func() int {
		list, unreadable, err := l.History(Query{Evidence: true})
		if err != nil || unreadable > 0 {
			t.Errorf("%d unreadable: %v", unreadable, err)
		}
		for i := range list {
			if e := &list[i]; len(e.Evidence) != 2 || e.Evidence[0].User != e.Prefix.String() {
				t.Errorf("%v: %+v", e.Prefix, e.Evidence)
			}
			if i > 0 && list[i-1].Ending.At.Before(list[i].Ending.At) {
				t.Errorf("%v is before %v", list[i-1].Prefix, list[i].Prefix)
			}
		}
		return len(list)
	}
	for open := true; open; {
		select {
		case <-done:
			open = false
		default:
		}
		check()
	}
	wait.Wait()
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := check(); got != n {
		t.Errorf("%d bans", got)
	}
}

// BenchmarkEnd is the end of 100,000 bans at once, as the decision loop sees it.
func BenchmarkEnd(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		l := open(b, statePath(b), start)
		for i := range many {
			l.Add(ban(fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255), time.Hour))
		}
		if err := l.Flush(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if got := len(l.Expire(start.Add(2 * time.Hour))); got != many {
			b.Fatal(got)
		}
	}
}
