package fleet

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"fsban/fleet/merge"
	"fsban/policy"
)

func failure(addr string) merge.Statement {
	a := policy.Attempt{Addr: netip.MustParseAddr(addr), User: "1000", At: noon}
	return merge.Statement{Kind: merge.Attempt, Prefix: netip.PrefixFrom(a.Addr, a.Addr.BitLen()), Attempt: a}
}

func TestOnlyTheNewestStatementOfAPrefixIsAnnounced(t *testing.T) {
	q := newQueue()
	ban, unban := said(merge.Ban, "203.0.113.1/32"), said(merge.Unban, "203.0.113.1/32")
	unban.Stamp++
	allow := said(merge.Allow, "203.0.113.1/32")
	for _, s := range []merge.Statement{ban, allow, unban, ban} {
		q.add(s)
	}
	got := q.take(noon)
	if len(got) != 2 || got[0].Kind != merge.Unban || got[1].Kind != merge.Allow || len(q.take(noon)) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAnExpiredBanIsNotAnnounced(t *testing.T) {
	q := newQueue()
	q.add(said(merge.Ban, "203.0.113.1/32"))
	q.add(said(merge.Unban, "203.0.113.2/32"))
	if got := q.take(noon.Add(2 * time.Hour)); len(got) != 1 || got[0].Kind != merge.Unban {
		t.Errorf("%+v", got)
	}
}

func TestTheQueueIsBoundedAndCountsDrops(t *testing.T) {
	q := newQueue()
	q.limit = 2
	for _, p := range []string{"203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32", "203.0.113.2/32"} {
		q.add(said(merge.Ban, p))
	}
	if n, dropped := q.size(); n != 2 || dropped != 1 {
		t.Errorf("%d wait, %d dropped", n, dropped)
	}
	if q.overflowed() {
		t.Error("it asks for all to be read while there is something to say")
	}
	q.take(noon)
	if !q.overflowed() || q.overflowed() {
		t.Error("what was lost is to be made up for once")
	}
}

func TestEqualAttemptsBecomeOneStatementWithTheirTimes(t *testing.T) {
	q := newQueue()
	at := func(s merge.Statement, minutes int) merge.Statement {
		s.Attempt.At = noon.Add(time.Duration(minutes) * time.Minute)
		return s
	}
	for _, minutes := range []int{2, 0, 4} { // in any order
		q.add(at(failure("203.0.113.1"), minutes))
	}
	got := q.take(noon)
	if want := []time.Time{noon, noon.Add(2 * time.Minute)}; len(got) != 1 || !slices.Equal(got[0].Earlier, want) || !got[0].Attempt.At.Equal(noon.Add(4*time.Minute)) {
		t.Errorf("%+v", got)
	}
	for i := range maxTimes + 5 {
		q.add(at(failure("203.0.113.1"), i))
	}
	got = q.take(noon)
	if len(got) != 1 || 1+len(got[0].Earlier) != maxTimes || !got[0].Earlier[0].Equal(noon.Add(5*time.Minute)) {
		t.Errorf("not the newest %d: %+v", maxTimes, got)
	}
	if _, dropped := q.size(); dropped != 5 {
		t.Errorf("%d dropped", dropped)
	}
}

// A rule may count attempts by each of these.
func TestDifferentAttemptsStayApart(t *testing.T) {
	q := newQueue()
	for _, change := range []func(*policy.Attempt){
		func(*policy.Attempt) {}, func(a *policy.Attempt) { a.Profile = "external" }, func(a *policy.Attempt) { a.UserAgent = "sipvicious" },
		func(a *policy.Attempt) { a.Domain = "example.org" }, func(a *policy.Attempt) { a.Method = policy.Invite }, func(a *policy.Attempt) { a.User = "1001" },
		func(a *policy.Attempt) { a.Kind = policy.Violation }, func(a *policy.Attempt) { a.Addr = a.Addr.Next() },
	} {
		s := failure("203.0.113.1")
		change(&s.Attempt)
		q.add(s)
	}
	if got := q.take(noon); len(got) != 8 {
		t.Errorf("%d statements of 8 different attempts", len(got))
	}
}

func TestStampsIncreaseDespiteClockSteps(t *testing.T) {
	var c clock
	first := c.stamp(noon)
	if c.stamp(noon) <= first || c.stamp(noon.Add(-time.Hour)) <= first {
		t.Error("a later stamp is not later")
	}
	c.saw(first + 1_000_000)
	if c.stamp(noon) <= first+1_000_000 {
		t.Error("what was seen is not older")
	}
	if err := c.heard(noon.Add(time.Hour), noon, noon.Add(2*time.Second)); err != nil {
		t.Error(err)
	}
	if c.ahead() != time.Hour-time.Second {
		t.Errorf("ahead by %v", c.ahead())
	}
	if err := c.heard(noon.Add(time.Hour), noon.Add(3*time.Second), noon.Add(8*time.Second)); err != nil { // a longer round trip is less exact
		t.Error(err)
	}
	if c.ahead() != time.Hour-time.Second {
		t.Errorf("ahead by %v", c.ahead())
	}
	if err := c.heard(noon.Add(2*time.Minute), noon.Add(2*time.Minute), noon.Add(2*time.Minute)); err != nil {
		t.Error(err)
	}
	if c.ahead() != 0 {
		t.Errorf("ahead by %v", c.ahead())
	}
}
