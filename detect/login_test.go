package detect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/policy"
)

var (
	loginAddr = netip.MustParseAddr("203.0.113.66")
	joinNow   = time.Unix(1796060023, 0)
)

// A joiner runs a Join by script, a millisecond a step, and keeps the failed logins that it gives back.
type joiner struct {
	*Join
	now   time.Time
	lines []string
}

func (j *joiner) done(list []Joined) {
	for i := range list {
		j.line(&list[i].Attempt, j.now.Sub(list[i].Read))
	}
}

func (j *joiner) line(a *policy.Attempt, waited time.Duration) {
	j.lines = append(j.lines, strings.TrimSpace(fmt.Sprint(a.User, " ", a.Transport, " ", a.Proof, " after ", waited)))
}

func (j *joiner) fail(user string, port uint16, call string) {
	a := policy.Attempt{Addr: loginAddr, User: user, Kind: policy.AuthFailure}
	if j.Attempt(&a, LoginID{Addr: loginAddr, Port: port, Call: callOf([]byte(call))}, j.now) {
		j.line(&a, 0)
	}
	j.pass(time.Millisecond)
}

func (j *joiner) saw(port uint16, call string, over policy.Transport, proof policy.Proof) {
	j.done(j.Saw(&Login{LoginID{Addr: loginAddr, Port: port, Call: callOnWire([]byte(call))}, over, proof}, j.now))
	j.pass(time.Millisecond)
}

func (j *joiner) pass(d time.Duration) {
	for end := j.now.Add(d); ; {
		due, ok := j.Next()
		if !ok || due.After(end) {
			j.now = end
			return
		}
		j.now = due
		j.done(j.Due(due))
	}
}

var joinScripts = map[string]struct {
	script func(*joiner)
	want   []string
}{
	"the request came first": {func(j *joiner) {
		j.saw(5060, "c", policy.UDP, policy.NonceProof)
		j.fail("a", 5060, "c")
	}, []string{"a UDP nonce after 0s"}},
	"the event came first": {func(j *joiner) {
		j.fail("a", 5060, "c")
		j.saw(5060, "c", policy.UDP, policy.NonceProof)
	}, []string{"a UDP nonce after 1ms"}},
	"two events of one request, and its copy": {func(j *joiner) {
		j.fail("a", 5060, "c")
		j.fail("b", 5060, "c")
		j.saw(5060, "c", policy.UDP, policy.NonceProof)
		j.saw(5060, "c", policy.UDP, policy.NonceProof)
		j.fail("c", 5060, "c")
	}, []string{"a UDP nonce after 2ms", "b UDP nonce after 1ms", "c UDP nonce after 0s"}},
	"the answer proves a connection": {func(j *joiner) {
		j.saw(5060, "c", policy.TCP, policy.NoProof)
		j.fail("a", 5060, "c")
		j.saw(5060, "c", policy.TCP, policy.TCPProof)
	}, []string{"a TCP tcp after 1ms"}},
	"no request": {func(j *joiner) { j.fail("a", 5060, "c") }, []string{"a   after 50ms"}},
	"a forged request": {func(j *joiner) {
		j.saw(5060, "c", policy.UDP, policy.NoProof)
		j.fail("a", 5060, "c")
	}, []string{"a UDP none after 50ms"}},
	"a forged request whose Call-ID the event has in another form": {func(j *joiner) {
		j.saw(5060, "c", policy.UDP, policy.NoProof)
		j.fail("a", 5060, "other")
	}, []string{"a UDP none after 50ms"}},
	"a proven request of the same address and port lends no proof": {func(j *joiner) {
		j.saw(5060, "honest", policy.UDP, policy.NonceProof)
		j.saw(5060, "forged", policy.UDP, policy.NoProof)
		j.fail("a", 5060, "forged")
	}, []string{"a UDP none after 50ms"}},
	"nor does one of another port": {func(j *joiner) {
		j.saw(5060, "c", policy.UDP, policy.NonceProof)
		j.fail("a", 5061, "c")
	}, []string{"a   after 50ms"}},
	"a forged copy hides no guess": {func(j *joiner) {
		j.saw(5060, "c", policy.UDP, policy.NoProof)
		j.saw(5060, "c", policy.UDP, policy.NonceProof)
		j.saw(5060, "c", policy.UDP, policy.NoProof)
		j.fail("a", 5060, "c")
	}, []string{"a UDP nonce after 0s"}},
	"a request of long ago": {func(j *joiner) {
		j.saw(5060, "c", policy.UDP, policy.NonceProof)
		j.pass(loginTime)
		j.fail("a", 5060, "c")
	}, []string{"a   after 50ms"}},
	"the one behind it does not wait longer": {func(j *joiner) {
		j.fail("a", 5060, "c")
		j.fail("b", 5061, "d")
		j.saw(5061, "d", policy.UDP, policy.NonceProof)
	}, []string{"b UDP nonce after 1ms", "a   after 50ms"}},
	"a Call-ID with an escape": {func(j *joiner) {
		j.saw(5060, "c%4A%4a%%", policy.UDP, policy.NonceProof) // the event's value is decoded
		j.fail("a", 5060, "cJ%4a%%")
	}, []string{"a UDP nonce after 0s"}},
}

func TestFailedLoginsAreJoinedWithTheirRequests(t *testing.T) {
	for name, test := range joinScripts {
		t.Run(name, func(t *testing.T) {
			j := &joiner{Join: NewJoin(), now: joinNow}
			test.script(j)
			j.pass(JoinTime)
			if !slices.Equal(j.lines, test.want) {
				t.Errorf("%q, want %q", j.lines, test.want)
			}
			if _, waits := j.Next(); waits || len(j.waits) > 0 {
				t.Errorf("something waits: %v", j.waits)
			}
			var joined uint64
			for _, n := range j.Stats().Proofs {
				joined += n
			}
			if joined != uint64(len(test.want)) {
				t.Errorf("counts %d", joined)
			}
		})
	}
}

// A flood of failures whose requests nobody sees neither grows the memory nor waits longer than the time.
func TestTheJoinIsBounded(t *testing.T) {
	j := &joiner{Join: NewJoin(), now: joinNow}
	for i := range 3 * maxWaiting {
		j.lines = j.lines[:0]
		a := policy.Attempt{Addr: loginAddr, Kind: policy.AuthFailure}
		j.Attempt(&a, LoginID{Addr: loginAddr, Port: uint16(i), Call: uint64(i)}, j.now)
	}
	if s := j.Stats(); len(j.waiting) != maxWaiting || s.Crowded != 2*maxWaiting || s.Proofs[policy.UnknownProof] != 2*maxWaiting {
		t.Errorf("%d wait, %+v", len(j.waiting), s)
	}
	j.pass(JoinTime)
	if len(j.waiting) != 0 || len(j.waits) != 0 {
		t.Errorf("%d wait", len(j.waiting))
	}
	for i := range 2 * maxSeen {
		j.saw(uint16(i), fmt.Sprint(i), policy.UDP, policy.NoProof)
		j.now = joinNow
	}
	if j.Stats().Evicted == 0 {
		t.Error("nothing was evicted")
	}
}

func TestAJoinAllocatesNothing(t *testing.T) {
	j := NewJoin()
	l := Login{LoginID{loginAddr, 5060, 7}, policy.UDP, policy.NonceProof}
	a := policy.Attempt{Addr: loginAddr, Kind: policy.AuthFailure}
	if n := testing.AllocsPerRun(1000, func() {
		j.Saw(&l, joinNow)
		if !j.Attempt(&a, l.ID, joinNow) {
			t.Fatal("waits")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkJoin(b *testing.B) {
	j := NewJoin()
	l := Login{LoginID{loginAddr, 5060, 7}, policy.UDP, policy.NonceProof}
	a := policy.Attempt{Addr: loginAddr, Kind: policy.AuthFailure}
	for i := range b.N {
		l.ID.Call = uint64(i)
		j.Saw(&l, joinNow)
		j.Attempt(&a, l.ID, joinNow)
	}
}
