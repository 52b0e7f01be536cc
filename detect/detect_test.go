package detect

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"fsban/esl"
	"fsban/internal/captures"
	"fsban/policy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// replay gives every event of a recording to a Detector, at the event's own time.
func replay(t testing.TB, d *Detector, data []byte, take func(policy.Attempt, Outcome)) {
	t.Helper()
	r := esl.NewReader(bytes.NewReader(data))
	ev := esl.NewEvent(Fields)
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if f.Type != esl.EventPlain {
			continue
		}
		if err := ev.Parse(f.Body); err != nil {
			t.Fatal(err)
		}
		us, err := strconv.ParseInt(string(ev.Get(eventTime)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		take(d.Event(ev, time.UnixMicro(us)))
	}
}

func TestWhatEachRecordingSays(t *testing.T) {
	var got strings.Builder
	for _, name := range captures.Names(t, "*.plain*.esl") {
		fmt.Fprintf(&got, "%s\n", name)
		replay(t, New(), captures.Read(t, name), func(a policy.Attempt, o Outcome) {
			switch o {
			case Attempt:
				fmt.Fprintf(&got, "\t%s %s %s user %q at %q, profile %q, agent %q\n", a.Kind, a.Method, a.Addr, a.User, a.Domain, a.Profile, a.UserAgent)
			case NoAttempt, NotForUs:
			default:
				fmt.Fprintf(&got, "\t%s\n", o)
			}
		})
	}
	const golden = "testdata/attempts.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("attempts differ from %s (-update writes it anew):\n%s", golden, got.String())
	}
}

// failures counts the failures of a recording.
func failures(t *testing.T, name string) (n int) {
	replay(t, New(), captures.Read(t, name), func(a policy.Attempt, o Outcome) {
		if o == Attempt && a.Kind == policy.AuthFailure {
			n++
		}
	})
	return n
}

func TestOneWrongPasswordCountsOnce(t *testing.T) {
	for name, want := range map[string]int{
		"register-wrong-password":                     1,
		"register-unknown-user":                       1,
		"register-authuser-mismatch":                  1,
		"register-wrong-password-x5-fresh-nonces":     5,
		"register-wrong-password-x5-one-nonce":        5,
		"register-wrong-password-x3-one-nonce-no-qop": 3,
		"invite-wrong-password":                       1,
		"invite-unknown-user":                         1,
		"ipv6-register-wrong-password":                1,
	} {
		if got := failures(t, name+".plain.esl"); got != want {
			t.Errorf("%s: %d failures, want %d", name, got, want)
		}
	}
}

func TestWhatEveryPhoneDoesIsNoFailure(t *testing.T) {
	for _, pattern := range []string{"register-refresh-*", "register-invented-nonce*", "register-no-auth*", "register-success*", "register-answer-expired-challenge*", "register-unregister.*", "invite-no-auth*"} {
		for _, name := range captures.Names(t, pattern+"plain.esl") {
			if got := failures(t, name); got != 0 {
				t.Errorf("%s: %d failures", name, got)
			}
		}
	}
}

func TestOneSuccessCountsOnce(t *testing.T) {
	for name, want := range map[string]int{
		"register-success": 1, "register-refresh-same-nonce": 1, "register-refresh-new-challenge": 1, "acl-register-allowed-blind": 0,
	} {
		got := 0
		replay(t, New(), captures.Read(t, name+".plain.esl"), func(a policy.Attempt, o Outcome) {
			if o == Attempt && a.Kind == policy.AuthSuccess {
				got++
			}
		})
		if got != want {
			t.Errorf("%s: %d successes, want %d", name, got, want)
		}
	}
}

func TestForAnInviteTheUserIsNotTheDialledNumber(t *testing.T) {
	var users []string
	replay(t, New(), captures.Read(t, "invite-wrong-password.plain.esl"), func(a policy.Attempt, o Outcome) {
		if o == Attempt && a.Kind == policy.AuthFailure {
			users = append(users, a.Method.String()+" "+a.User)
		}
	})
	if len(users) != 1 || users[0] != "INVITE 1000" {
		t.Errorf("got %q", users)
	}
	// Without the register_attempt nobody knows the user, and the number is still not one.
	d := New()
	a, o := d.Event(event(t, "CUSTOM", "sofia::register_failure", "network-ip: 192.0.2.7", "to-user: 00441234567890", "registration-type: INVITE"), now)
	if o != Attempt || a.User != "" || a.Kind != policy.AuthFailure {
		t.Errorf("got %+v, %s", a, o)
	}
}

var now = time.UnixMicro(1795363923618017)

// event makes an event at now from raw header lines.
func event(t testing.TB, name, subclass string, lines ...string) *esl.Event {
	t.Helper()
	head := []string{"Event-Name: " + name, "Event-Subclass: " + subclass, fmt.Sprintf("Event-Date-Timestamp: %d", now.UnixMicro())}
	ev := esl.NewEvent(Fields)
	if err := ev.Parse([]byte(strings.Join(append(head, lines...), "\n") + "\n\n")); err != nil {
		t.Fatal(err)
	}
	return ev
}

func TestAddressesAreUnmappedAndWhole(t *testing.T) {
	for _, tc := range []struct{ sent, want string }{
		{"192.0.2.7", "192.0.2.7"},
		{"fd77%3A%3A2", "fd77::2"},
		{"%3A%3Affff%3A192.0.2.7", "192.0.2.7"},
		{"fe80%3A%3A1%25eth0", "fe80::1"},
		{"", ""}, {"0.0.0.0", ""}, {"%3A%3A", ""}, {"192.0.2.7:5060", ""}, {"192.0.2", ""}, {"example.com", ""}, {"192.0.2.7%0A", ""},
		{strings.Repeat("1", 100), ""},
	} {
		a, o := New().Event(event(t, "CUSTOM", "sofia::register_failure", "network-ip: "+tc.sent, "to-user: 1000"), now)
		switch {
		case tc.want == "" && o != NoAddress:
			t.Errorf("%q: outcome %s, address %v", tc.sent, o, a.Addr)
		case tc.want != "" && (o != Attempt || a.Addr != netip.MustParseAddr(tc.want)):
			t.Errorf("%q: outcome %s, address %v, want %s", tc.sent, o, a.Addr, tc.want)
		}
	}
}

func TestAClockFarOffCountsAsNow(t *testing.T) {
	for _, tc := range []struct {
		skew time.Duration
		want Outcome
	}{{0, Attempt}, {59 * time.Second, Attempt}, {-59 * time.Second, Attempt}, {61 * time.Second, ClockAdrift}, {-8 * time.Hour, ClockAdrift}} {
		ours := now.Add(tc.skew)
		a, o := New().Event(event(t, "CUSTOM", "sofia::register_failure", "network-ip: 192.0.2.7"), ours)
		at := now
		if tc.want == ClockAdrift {
			at = ours
		}
		if o != tc.want || !a.At.Equal(at) {
			t.Errorf("skew %v: %s at %v, want %s at %v", tc.skew, o, a.At, tc.want, at)
		}
	}
}

func TestEventsThatAreNotForUs(t *testing.T) {
	for _, tc := range []struct {
		name, subclass string
		want           Outcome
	}{
		{"HEARTBEAT", "", NoAttempt}, {"CHANNEL_CREATE", "", NotForUs}, {"CUSTOM", "sofia::gateway_state", NotForUs}, {"", "sofia::register_failure", NotForUs},
	} {
		if _, o := New().Event(event(t, tc.name, tc.subclass, "network-ip: 192.0.2.7"), now); o != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.name, tc.subclass, o, tc.want)
		}
	}
}

func TestWhatAPeerChoseIsCut(t *testing.T) {
	a, _ := New().Event(event(t, "CUSTOM", "sofia::register_failure", "network-ip: 192.0.2.7",
		"to-user: "+strings.Repeat("%C3%A4", 100), "user-agent: "+strings.Repeat("x", 5000)), now)
	if len(a.User) > MaxText || len(a.UserAgent) > MaxText || !strings.HasPrefix(a.User, "ää") {
		t.Errorf("user of %d bytes, agent of %d", len(a.User), len(a.UserAgent))
	}
}

func TestAKnownAddressCostsNoAllocation(t *testing.T) {
	data := captures.Read(t, "register-wrong-password.plain.esl")
	var bodies [][]byte
	r := esl.NewReader(bytes.NewReader(data))
	for {
		f, err := r.Next()
		if err != nil {
			break
		}
		if f.Type == esl.EventPlain {
			bodies = append(bodies, bytes.Clone(f.Body))
		}
	}
	d, ev := New(), esl.NewEvent(Fields)
	if n := testing.AllocsPerRun(1000, func() {
		for _, b := range bodies {
			if err := ev.Parse(b); err != nil {
				t.Fatal(err)
			}
			d.Event(ev, now)
		}
	}); n != 0 || len(bodies) != 3 {
		t.Errorf("%v allocations for %d events", n, len(bodies))
	}
}

// The address of an attempt is the one that FreeSWITCH put into network-ip, whatever else the event holds.
func FuzzNoAddressButNetworkIP(f *testing.F) {
	for _, name := range []string{"register-wrong-password.plain.esl", "invite-wrong-password.plain.esl", "register-success.plain.esl"} {
		data, err := os.ReadFile("../internal/captures/recorded/" + name)
		if err != nil {
			f.Fatal(err)
		}
		r := esl.NewReader(bytes.NewReader(data))
		for {
			frame, err := r.Next()
			if err != nil {
				break
			}
			if frame.Type == esl.EventPlain {
				f.Add(bytes.Clone(frame.Body))
			}
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ev := esl.NewEvent(Fields)
		if ev.Parse(body) != nil {
			return
		}
		a, o := New().Event(ev, now)
		if o != Attempt && o != ClockAdrift {
			if a.Addr.IsValid() {
				t.Fatalf("outcome %s with address %v", o, a.Addr)
			}
			return
		}
		want, err := netip.ParseAddr(string(ev.Get(networkIP)))
		if err != nil || a.Addr != want.WithZone("").Unmap() || a.Addr.Is4In6() || a.Addr.Zone() != "" || a.Addr.IsUnspecified() {
			t.Fatalf("address %v from network-ip %q", a.Addr, ev.Get(networkIP))
		}
		if len(a.User) > MaxText || len(a.UserAgent) > MaxText || len(a.Domain) > MaxText || len(a.Profile) > MaxText {
			t.Fatal("a text longer than MaxText")
		}
		if skew := now.Sub(a.At); skew.Abs() > MaxSkew {
			t.Fatalf("attempt at %v, %v away", a.At, skew)
		}
	})
}
