package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"
)

var (
	start   = time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC)
	guesser = netip.MustParseAddr("192.0.2.7")
)

// jail is the reference deployment's one rule.
func jail() []Rule {
	return []Rule{{Name: "auth", Kinds: []Kind{AuthFailure}, FindTime: 300 * time.Second, MaxRetry: 5, BanTime: 24 * time.Hour}}
}

func failure(addr netip.Addr, at time.Duration) Attempt {
	return Attempt{Addr: addr, At: start.Add(at), Kind: AuthFailure, User: "1000"}
}

// never is a list of prefixes of one origin.
func never(origin string, prefixes ...string) NeverBan {
	list := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		list[i] = netip.MustParsePrefix(p)
	}
	return NewNeverBan(NeverEntries(origin, list...))
}

// bansAt feeds one failure at each time and returns the numbers of those that banned.
func bansAt(e *Engine, addr netip.Addr, times ...time.Duration) (banned []int) {
	for i, at := range times {
		if e.Observe(failure(addr, at)).Verdict == BanNow {
			banned = append(banned, i+1)
		}
	}
	return banned
}

func seconds(n ...int) []time.Duration {
	d := make([]time.Duration, len(n))
	for i, s := range n {
		d[i] = time.Duration(s) * time.Second
	}
	return d
}

func TestTheBanFallsOnAttemptNumberMaxRetry(t *testing.T) {
	for _, tc := range []struct {
		name  string
		times []time.Duration
		want  []int
	}{
		{"four are none", seconds(0, 1, 2, 3), nil},
		{"the fifth bans", seconds(0, 1, 2, 3, 4), []int{5}},
		{"all at the same moment", seconds(0, 0, 0, 0, 0), []int{5}},
		{"just inside the window", seconds(0, 1, 2, 3, 299), []int{5}},
		{"the first is exactly findtime old: outside", seconds(0, 1, 2, 3, 300), nil},
		{"the window slides", seconds(0, 100, 200, 301, 302, 303), []int{6}},
		{"one each five minutes, for ever", seconds(0, 300, 600, 900, 1200, 1500, 1800), nil},
		{"the count starts again with the ban", seconds(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), []int{5, 10}},
		{"out of order", seconds(10, 8, 9, 7, 11), []int{5}},
		{"a late report of something old does not count", seconds(400, 50, 401, 402, 403, 404), []int{6}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := bansAt(NewEngine(jail(), NeverBan{}, Options{}), guesser, tc.times...); !slices.Equal(got, tc.want) {
				t.Errorf("banned on attempts %v, want %v", got, tc.want)
			}
		})
	}
}

func TestABanSaysPrefixTimesRuleAndEvidence(t *testing.T) {
	e := NewEngine(jail(), NeverBan{}, Options{})
	other := netip.MustParseAddr("192.0.2.8")
	for i := range 4 {
		e.Observe(failure(guesser, time.Duration(i)*time.Second))
		e.Observe(failure(other, time.Duration(i)*time.Second))
	}
	d := e.Observe(failure(guesser, 4*time.Second))
	want := Decision{Verdict: BanNow, Prefix: netip.MustParsePrefix("192.0.2.7/32"), Count: 5, Since: start.Add(4 * time.Second), Until: start.Add(4*time.Second + 24*time.Hour), Offence: 1, Journal: true}
	for i := range 5 {
		want.Evidence = append(want.Evidence, failure(guesser, time.Duration(i)*time.Second))
	}
	if d.Rule == nil || d.Rule.Name != "auth" {
		t.Fatalf("rule %v", d.Rule)
	}
	d.Rule = nil
	if !reflect.DeepEqual(d, want) {
		t.Errorf("got  %+v\nwant %+v", d, want)
	}
}

func TestABanForeverHasNoEnd(t *testing.T) {
	rules := jail()
	rules[0].MaxRetry, rules[0].BanTime = 1, Forever
	if d := NewEngine(rules, NeverBan{}, Options{}).Observe(failure(guesser, 0)); d.Verdict != BanNow || !d.Until.IsZero() {
		t.Errorf("got %+v", d)
	}
}

func TestOnlyTheRulesKindsCount(t *testing.T) {
	e := NewEngine(jail(), NeverBan{}, Options{})
	for _, k := range []Kind{Challenge, AuthSuccess} {
		for range 100 {
			if d := e.Observe(Attempt{Addr: guesser, At: start, Kind: k}); d.Verdict != Pass {
				t.Fatalf("%v: %+v", k, d)
			}
		}
	}
	if s := e.Stats(); s.Tracked != 0 {
		t.Errorf("%d addresses tracked for attempts that do not count", s.Tracked)
	}
}

func TestIgnoreIPIsNeverBanned(t *testing.T) {
	list := never("ignoreip", "127.0.0.0/8", "192.0.2.7/32", "2001:db8:1::/48")
	for _, tc := range []struct {
		addr string
		want Verdict
	}{
		{"127.0.0.1", SparedBan}, {"127.255.0.9", SparedBan}, {"192.0.2.7", SparedBan}, {"2001:db8:1:2::3", SparedBan},
		{"192.0.2.8", BanNow}, {"128.0.0.1", BanNow}, {"2001:db8:2::1", BanNow},
	} {
		e := NewEngine(jail(), list, Options{})
		var last Decision
		for i := range 5 {
			last = e.Observe(failure(netip.MustParseAddr(tc.addr), time.Duration(i)*time.Second))
		}
		if last.Verdict != tc.want {
			t.Errorf("%s: verdict %v, want %v", tc.addr, last.Verdict, tc.want)
		}
	}
}

func TestIPv6CountsByNetwork(t *testing.T) {
	e := NewEngine(jail(), NeverBan{}, Options{})
	for i := range 4 {
		e.Observe(failure(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)), 0))
	}
	if d := e.Observe(failure(netip.MustParseAddr("2001:db8:0:1::1"), 0)); d.Verdict != Counted {
		t.Errorf("an address of the next network: %+v", d)
	}
	if d := e.Observe(failure(netip.MustParseAddr("2001:db8::ffff"), 0)); d.Verdict != BanNow || d.Prefix != netip.MustParsePrefix("2001:db8::/64") {
		t.Errorf("the fifth address of one network: %+v", d)
	}
}

func TestANeighbourOfOurOwnAddressIsBannedAlone(t *testing.T) {
	e := NewEngine(jail(), never("own address", "2001:db8::1/128"), Options{})
	own, neighbour := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	for range 4 {
		e.Observe(failure(neighbour, 0))
	}
	if d := e.Observe(failure(own, 0)); d.Verdict != Spared {
		t.Errorf("our own address: %+v", d)
	}
	if d := e.Observe(failure(neighbour, 0)); d.Verdict != BanNow || d.Prefix != netip.MustParsePrefix("2001:db8::2/128") {
		t.Errorf("its neighbour: %+v", d)
	}
}

func TestForgetStartsFromZero(t *testing.T) {
	e := NewEngine(jail(), NeverBan{}, Options{Grace: -1})
	bansAt(e, guesser, seconds(0, 1, 2, 3)...)
	e.Forget(netip.MustParsePrefix("192.0.2.7/32"), start.Add(3*time.Second))
	if got := bansAt(e, guesser, seconds(4, 5, 6, 7)...); got != nil {
		t.Errorf("banned on %v after being forgotten", got)
	}
	e.Forget(netip.MustParsePrefix("192.0.2.0/24"), start.Add(7*time.Second))
	if s := e.Stats(); s.Tracked != 0 {
		t.Errorf("%d tracked after their network was forgotten", s.Tracked)
	}
	if got := bansAt(e, guesser, seconds(8, 9, 10, 11, 12)...); !slices.Equal(got, []int{5}) {
		t.Errorf("banned on %v", got)
	}
}

func TestBeyondMaxTrackedTheLongestUnseenIsForgotten(t *testing.T) {
	e := NewEngine(jail(), NeverBan{}, Options{MaxTracked: 3})
	a, b, c, d := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("192.0.2.4")
	bansAt(e, a, seconds(0, 0, 0, 0)...)
	bansAt(e, b, seconds(1, 1, 1, 1)...)
	bansAt(e, c, seconds(2)...)
	e.Observe(failure(c, 3*time.Second))
	bansAt(e, b, seconds(4)...) // banned, and now the one seen last
	e.Observe(failure(d, 5*time.Second))
	if s := e.Stats(); s.Tracked != 3 || s.Evicted != 1 {
		t.Errorf("stats %+v", s)
	}
	if d := e.Observe(failure(a, 6*time.Second)); d.Count != 1 {
		t.Errorf("the evicted address is remembered: %+v", d)
	}
}

func TestEvidenceIsBoundedOverAllAddresses(t *testing.T) {
	e := NewEngine(jail(), NeverBan{}, Options{KeepEvidence: 4})
	bansAt(e, guesser, seconds(0, 1)...)
	for i := range 3 {
		e.Observe(failure(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 2*time.Second))
	}
	for i := 3; i < 5; i++ {
		e.Observe(failure(guesser, time.Duration(i)*time.Second))
	}
	d := e.Observe(failure(guesser, 5*time.Second))
	if d.Verdict != BanNow || len(d.Evidence) != 3 || !d.Evidence[2].At.Equal(start.Add(5*time.Second)) {
		t.Errorf("%d pieces of evidence, %+v", len(d.Evidence), d)
	}
}
