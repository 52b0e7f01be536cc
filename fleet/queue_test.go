package fleet

import (
	"net/netip"
	"testing"
	"time"

	"fsban/policy"
)

func failure(addr, user string) Statement {
	a := policy.Attempt{Addr: netip.MustParseAddr(addr), User: user, At: noon}
	return Statement{What: Attempt, Prefix: netip.PrefixFrom(a.Addr, a.Addr.BitLen()), Attempt: a, Times: 1}
}

func TestOfStatementsAboutOnePrefixTheNewestIsSaid(t *testing.T) {
	q := newQueue()
	ban, unban := said(Ban, "203.0.113.1/32"), said(Unban, "203.0.113.1/32")
	unban.Stamp++
	allow := said(Allow, "203.0.113.1/32")
	for _, s := range []Statement{ban, allow, unban, ban} {
		q.add(s)
	}
	got := q.take(noon)
	if len(got) != 2 || got[0].What != Unban || got[1].What != Allow || len(q.take(noon)) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestABanThatIsOverIsNotSaid(t *testing.T) {
	q := newQueue()
	q.add(said(Ban, "203.0.113.1/32"))
	q.add(said(Unban, "203.0.113.2/32"))
	if got := q.take(noon.Add(2 * time.Hour)); len(got) != 1 || got[0].What != Unban {
		t.Errorf("%+v", got)
	}
}

func TestTheQueueIsBoundedAndSaysWhatItLost(t *testing.T) {
	q := newQueue()
	q.limit = 2
	for _, p := range []string{"203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32", "203.0.113.2/32"} {
		q.add(said(Ban, p))
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

func TestAttemptsThatAreAlikeAreCounted(t *testing.T) {
	q := newQueue()
	for range 3 {
		q.add(failure("203.0.113.1", "1000"))
	}
	q.add(failure("203.0.113.1", "1001"))
	q.add(failure("203.0.113.2", "1000"))
	if got := q.take(noon); len(got) != 3 || got[0].Times != 3 || got[1].Times != 1 {
		t.Errorf("%+v", got)
	}
	for range maxTimes + 5 {
		q.add(failure("203.0.113.1", "1000"))
	}
	if got, want := q.take(noon)[0].Times, maxTimes; got != want {
		t.Errorf("%d at once, want %d", got, want)
	}
	if _, dropped := q.size(); dropped != 5 {
		t.Errorf("%d dropped", dropped)
	}
}

func TestStampsGoOnWhateverTheClockDoes(t *testing.T) {
	var c clock
	first := c.stamp(noon)
	if c.stamp(noon) <= first || c.stamp(noon.Add(-time.Hour)) <= first {
		t.Error("a later stamp is not later")
	}
	c.saw(first + 1_000_000)
	if c.stamp(noon) <= first+1_000_000 {
		t.Error("what was seen is not older")
	}
	c.heard(noon.Add(time.Hour), noon, noon.Add(2*time.Second))
	if c.ahead() != time.Hour-time.Second {
		t.Errorf("ahead by %v", c.ahead())
	}
	c.heard(noon.Add(time.Hour), noon.Add(3*time.Second), noon.Add(8*time.Second)) // it took longer: it says less
	if c.ahead() != time.Hour-time.Second {
		t.Errorf("ahead by %v", c.ahead())
	}
	c.heard(noon.Add(2*time.Minute), noon.Add(2*time.Minute), noon.Add(2*time.Minute))
	if c.ahead() != 0 {
		t.Errorf("ahead by %v", c.ahead())
	}
}
