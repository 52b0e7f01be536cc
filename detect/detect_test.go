package detect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/esl"
	"fsban/internal/captures"
	"fsban/policy"
)

// bodies returns the plain events of a recording.
func bodies(t testing.TB, data []byte) (all [][]byte) {
	t.Helper()
	frames(t, data, func(f *esl.Frame) {
		if f.Type == esl.EventPlain {
			all = append(all, bytes.Clone(f.Body))
		}
	})
	return all
}

// frames calls take for every frame of a recording.
func frames(t testing.TB, data []byte, take func(*esl.Frame)) {
	t.Helper()
	r := esl.NewReader(bytes.NewReader(data))
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		take(f)
	}
}

// replay passes every event of a recording to a Detector, at the event's own time.
func replay(t testing.TB, d *Detector, data []byte, take func(policy.Attempt, Outcome)) {
	t.Helper()
	ev := esl.NewEvent(d.Fields())
	for _, body := range bodies(t, data) {
		if err := ev.Parse(body); err != nil {
			t.Fatal(err)
		}
		take(d.Event(ev, timeOf(t, ev)))
	}
}

func timeOf(t testing.TB, ev *esl.Event) time.Time {
	t.Helper()
	at, ok := EventTime(ev)
	if !ok {
		t.Fatal("an event without a time")
	}
	return at
}

// failures counts the failures of a recording.
func failures(t *testing.T, name string) (n int) {
	replay(t, New(Options{}), captures.Read(t, name), func(a policy.Attempt, o Outcome) {
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

func TestOrdinaryPhoneTrafficIsNoFailure(t *testing.T) {
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
		replay(t, New(Options{}), captures.Read(t, name+".plain.esl"), func(a policy.Attempt, o Outcome) {
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
	replay(t, New(Options{}), captures.Read(t, "invite-wrong-password.plain.esl"), func(a policy.Attempt, o Outcome) {
		if o == Attempt && a.Kind == policy.AuthFailure {
			users = append(users, a.Method.String()+" "+a.User+" "+a.Number)
		}
	})
	if len(users) != 1 || users[0] != "INVITE 1000 00441234567890" {
		t.Errorf("got %q", users)
	}
	// Without the register_attempt the user is unknown, and the number is not used as one.
	d := New(Options{})
	a, o := heard(t, d, "CUSTOM", "sofia::register_failure", "network-ip: 192.0.2.7", "to-user: 00441234567890", "registration-type: INVITE")
	if o != Attempt || a.User != "" || a.Number != "00441234567890" || a.Kind != policy.AuthFailure {
		t.Errorf("got %+v, %s", a, o)
	}
}

var now = time.UnixMicro(1795363923618017)

// event makes an event for d, at now, from raw header lines.
func event(t testing.TB, d *Detector, name, subclass string, lines ...string) *esl.Event {
	t.Helper()
	head := []string{"Event-Name: " + name, "Event-Subclass: " + subclass, fmt.Sprintf("Event-Date-Timestamp: %d", now.UnixMicro())}
	ev := esl.NewEvent(d.Fields())
	if err := ev.Parse([]byte(strings.Join(append(head, lines...), "\n") + "\n\n")); err != nil {
		t.Fatal(err)
	}
	return ev
}

// heard returns d's result for an event received at now.
func heard(t testing.TB, d *Detector, name, subclass string, lines ...string) (policy.Attempt, Outcome) {
	t.Helper()
	return d.Event(event(t, d, name, subclass, lines...), now)
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
		a, o := heard(t, New(Options{}), "CUSTOM", "sofia::register_failure", "network-ip: "+tc.sent, "to-user: 1000")
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
		d := New(Options{})
		a, o := d.Event(event(t, d, "CUSTOM", "sofia::register_failure", "network-ip: 192.0.2.7"), ours)
		at := now
		if tc.want == ClockAdrift {
			at = ours
		}
		if o != tc.want || !a.At.Equal(at) {
			t.Errorf("skew %v: %s at %v, want %s at %v", tc.skew, o, a.At, tc.want, at)
		}
	}
}

func TestGatewayChangesAreReportedIfEnabled(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		d := New(Options{Gateways: wanted})
		if got := slices.Contains(d.Subclasses(), "sofia::gateway_add"); got != wanted {
			t.Errorf("asked for: %v, wanted %v", got, wanted)
		}
		want := NotForUs
		if wanted {
			want = GatewayChanged
		}
		for _, s := range []string{"sofia::gateway_add", "sofia::gateway_delete"} {
			ev := esl.NewEvent(d.Fields())
			if err := ev.Parse([]byte("Event-Name: CUSTOM\nEvent-Subclass: " + s + "\n\n")); err != nil {
				t.Fatal(err)
			}
			if _, o := d.Event(ev, now); o != want {
				t.Errorf("%s: %s, want %s", s, o, want)
			}
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
		if _, o := heard(t, New(Options{}), tc.name, tc.subclass, "network-ip: 192.0.2.7"); o != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.name, tc.subclass, o, tc.want)
		}
	}
}

func TestTextsOfPeersAreCut(t *testing.T) {
	a, _ := heard(t, New(Options{}), "CUSTOM", "sofia::register_failure", "network-ip: 192.0.2.7",
		"to-user: "+strings.Repeat("%C3%A4", 100), "user-agent: "+strings.Repeat("x", 5000))
	if len(a.User) > MaxText || len(a.UserAgent) > MaxText || !strings.HasPrefix(a.User, "ää") {
		t.Errorf("user of %d bytes, agent of %d", len(a.User), len(a.UserAgent))
	}
}

// FuzzNoAddressButTheHeaders: the address of an attempt is always the one in its header.
func FuzzNoAddressButTheHeaders(f *testing.F) {
	for _, name := range []string{"register-wrong-password.plain.esl", "invite-wrong-password.plain.esl", "register-success.plain.esl"} {
		for _, body := range bodies(f, captures.Read(f, name)) {
			f.Add(body)
		}
	}
	for _, body := range calls(f) {
		f.Add(body)
	}
	for _, e := range ctiOptions.CTIEvents {
		f.Add([]byte("Event-Name: CUSTOM\nEvent-Subclass: " + e.Subclass + "\nip: 192.0.2.7\nnetwork-ip: 192.0.2.8\nreason: Registration failed\n\n"))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d := New(allOptions)
		ev := esl.NewEvent(d.Fields())
		if ev.Parse(body) != nil {
			return
		}
		get := func(name string) string {
			if i := d.Fields().Index(name); i >= 0 {
				return string(ev.Get(i))
			}
			return ""
		}
		a, o := d.Event(ev, now)
		if o != Attempt && o != ClockAdrift {
			if a != (policy.Attempt{}) {
				t.Fatalf("outcome %s with %+v", o, a)
			}
			return
		}
		place := "network-ip"
		switch {
		case a.Source == policy.CTIEvent:
			i := slices.IndexFunc(ctiOptions.CTIEvents, func(e CTIEvent) bool { return e.Subclass == get("Event-Subclass") })
			place = ctiOptions.CTIEvents[i].Addr
		case a.Kind == policy.CallReject:
			place = "Caller-Network-Addr"
			if get(place) != get("variable_sip_received_ip") || get("Call-Direction") != "inbound" || get("Caller-Context") != "public" || get("variable_sip_authorized") == "true" {
				t.Fatalf("%+v from %q", a, body)
			}
		}
		check(t, a, get(place))
		for _, text := range []string{a.User, a.Number, a.Domain, a.Profile, a.UserAgent} {
			if len(text) > MaxText {
				t.Fatalf("a text of %d bytes", len(text))
			}
		}
	})
}

// Without inbound-reg-force-matching-username one To serves for passwords of many users. With it, To is the user.
func TestARegisterAttacksTheUserOfItsDigest(t *testing.T) {
	d := New(Options{})
	at := fmt.Sprint("Event-Date-Timestamp: ", now.UnixMicro())
	for _, tc := range []struct{ digest, to, failed, want string }{
		{"1001", "1000", "1000", "1001"}, {"1002", "1000", "1000", "1002"}, {"unknown", "1000", "1000", "1000"}, {"1003", "2000", "1000", "1000"},
	} {
		d.Event(event(t, d, "CUSTOM", "sofia::register_attempt", at, "network-ip: 192.0.2.7", "network-port: 5060", "from-user: "+tc.to, "to-user: 9999", "username: "+tc.digest, "auth-result: FORBIDDEN"), now)
		a, _ := d.Event(event(t, d, "CUSTOM", "sofia::register_failure", at, "network-ip: 192.0.2.7", "network-port: 5060", "to-user: "+tc.failed, "registration-type: REGISTER"), now)
		number := tc.failed
		if number == tc.want {
			number = ""
		}
		if a.User != tc.want || a.Number != number || a.Kind != policy.AuthFailure {
			t.Errorf("%+v: %v of user %q to %q", tc, a.Kind, a.User, a.Number)
		}
	}
}
