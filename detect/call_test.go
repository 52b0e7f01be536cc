package detect

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"fsban/esl"
	"fsban/policy"
)

// recordedCalls lists the calls of testdata/calls.esl in order: the dialled number, the action of the public context, and
// whether that is a refusal. See testdata/README.md.
var recordedCalls = []struct {
	number, what string
	counts       bool
}{
	{"4711", "no extension matches", true},
	{"7001", "respond 403", true},
	{"7002", "respond 404", true},
	{"7003", "hangup CALL_REJECTED", true},
	{"7004", "respond 407: a password is asked for", false},
	{"7006", "respond 484: more digits are asked for", false},
	{"7007", "hangup without a cause", false},
	{"7010", "respond 480", false},
	{"7014", "log, and nothing else", true},
	{"7015", "hangup OUTGOING_CALL_BARRED", true},
	{"7016", "hangup USER_BUSY", false},
	{"7017", "check_acl refuses the address", true},
	{"7101", "bridge to a user who is not registered", false},
	{"7102", "the same, and then respond 404", false},
	{"busy", "the other leg of the next call", false},
	{"7104", "bridge to a user who is busy, and then hangup CALL_REJECTED", false},
	{"7105", "bridge to a phone that rings until time is up", false},
	{"7106", "bridge to a host that does not answer, and then hangup NO_ROUTE_DESTINATION", false},
	{"7108", "bridge to a number that does not exist there, and then set", false},
	{"7109", "bridge to a gateway that does not exist, and then set", false},
	{"7110", "bridge to two at once, of whom none takes it, and then set", false},
	{"7117", "bridge to one after the other, of whom none takes it, and then respond 404", false},
	{"7116", "bridge, answered", false},
	{"7105", "bridge to a phone that rings until the caller gives up", false},
	{"7201", "early media, and then the end", false},
	{"7202", "ringing, and then hangup CALL_REJECTED", false},
	{"7203", "an application whose module is not loaded", false},
	{"7204", "playback of a file that does not exist", false},
	{"7305", "the same, with the log of applications disabled", false},
	{"4711", "transfer inside public, where no extension matches", false},
	{"4711", "transfer to a context that does not exist", false},
	{"7307", "respond 404, after the dialplan has set another address", false},
	{"4711", "the second leg of a loopback", false},
	{"7115", "bridge to that loopback", false},
	{"4713", "no extension matches, caller with a P-Asserted-Identity", true},
	{"7401", "respond 404 in the default context, with the right password", false},
	{"", "a wrong password", false},
	{"0049123", "no extension matches, over IPv6", true},
	{"4712", "no extension matches, with the name of a gateway", false},
}

// calls returns the recorded calls.
func calls(t testing.TB) [][]byte {
	t.Helper()
	data, err := os.ReadFile("testdata/calls.esl")
	if err != nil {
		t.Fatal(err)
	}
	return bodies(t, data)
}

// ended returns the result of a CallEvent, received at its own time, for a Detector with these Calls.
func ended(t testing.TB, c Calls, body []byte) (policy.Attempt, Outcome) {
	t.Helper()
	d := New(Options{Calls: c})
	ev := esl.NewEvent(d.Fields())
	if err := ev.Parse(body); err != nil {
		t.Fatal(err)
	}
	return d.Event(ev, timeOf(t, ev))
}

func TestACallCountsWhenTheDialplanDoesNotTakeIt(t *testing.T) {
	bodies := calls(t)
	if len(bodies) != len(recordedCalls) {
		t.Fatalf("%d calls recorded, %d described", len(bodies), len(recordedCalls))
	}
	for i, tc := range recordedCalls {
		t.Run(fmt.Sprintf("%s %s", tc.number, tc.what), func(t *testing.T) {
			if !bytes.Contains(bodies[i], []byte("Caller-Destination-Number: "+tc.number+"\n")) && tc.number != "" {
				t.Fatalf("another call: %s", bodies[i])
			}
			a, o := ended(t, Calls{Contexts: []string{"default", "public"}}, bodies[i])
			if !tc.counts {
				if a != (policy.Attempt{}) || o != NoAttempt && (o != NoAddress || tc.number != "7307") {
					t.Errorf("%s, %+v", o, a)
				}
				return
			}
			if o != Attempt || a.Kind != policy.CallReject || a.Source != policy.Event || a.Method != policy.Invite || a.Number != tc.number {
				t.Errorf("%s, %+v", o, a)
			}
		})
	}
}

func TestOutcomeOfEachCall(t *testing.T) {
	body := calls(t)[34]
	a, o := ended(t, Calls{Contexts: []string{"public"}}, body)
	want := policy.Attempt{
		Addr: netip.MustParseAddr("10.77.0.9"), At: a.At, Kind: policy.CallReject, Method: policy.Invite, User: "100", Number: "4713",
		Domain: "10.77.0.1", Profile: "external", UserAgent: "friendly-scanner",
	}
	if o != Attempt || a != want {
		t.Errorf("%s, %+v\nwant %+v", o, a, want)
	}
	d := New(Options{Calls: Calls{Contexts: []string{"public"}}})
	ev := esl.NewEvent(d.Fields())
	if err := ev.Parse(body); err != nil {
		t.Fatal(err)
	}
	if a, o := d.Event(ev, now); o != ClockAdrift || !a.At.Equal(now) {
		t.Errorf("heard hours later: %s at %v", o, a.At)
	}
}

// with returns body with other values for some headers; "-" removes the header.
func with(t testing.TB, body []byte, headers ...string) []byte {
	t.Helper()
	lines := strings.Split(strings.TrimRight(string(body), "\n"), "\n")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+": ") })
		if value != "-" {
			lines = append(lines, h)
		}
	}
	return []byte(strings.Join(lines, "\n") + "\n\n")
}

func TestEachSignOfATakenCallIsEnough(t *testing.T) {
	refused := calls(t)[2] // respond 404
	for _, header := range []string{
		"Call-Direction: outbound", "Call-Direction: -",
		"Channel-HIT-Dialplan: false", "Channel-HIT-Dialplan: -",
		"Caller-Context: default", "Caller-Context: Public", "Caller-Context: -",
		"Caller-Profile-Index: 2",
		"variable_sip_authorized: true", "variable_sip_authorized: yes",
		"variable_sip_gateway: carrier",
		"variable_sip_received_ip: -",
		"variable_sip_hangup_disposition: recv_cancel", "variable_sip_hangup_disposition: send_bye", "variable_sip_hangup_disposition: -",
		"Caller-Channel-Answered-Time: 1795379326522696", "Caller-Channel-Progress-Time: 1795379326522696",
		"Caller-Channel-Progress-Media-Time: 1795379326522696", "Caller-Channel-Bridged-Time: 1795379326522696",
		"variable_originate_disposition: SUCCESS", "variable_originate_failed_cause: USER_BUSY",
		"variable_last_bridge_to: 95d395a4-00b1-4310-acab-267c7c55c406",
		"variable_last_app: lua", "variable_current_application: lua", "variable_last_app: callcenter", "variable_last_app: Set",
		"variable_current_application_data: 401", "variable_current_application_data: 484 Address Incomplete",
		"variable_current_application_data: 4040", "variable_current_application_data: -",
		"Hangup-Cause: NORMAL_CLEARING", "Hangup-Cause: NO_USER_RESPONSE", "Hangup-Cause: USER_BUSY", "Hangup-Cause: NORMAL_TEMPORARY_FAILURE",
		"Hangup-Cause: ORIGINATOR_CANCEL", "Hangup-Cause: RECOVERY_ON_TIMER_EXPIRE", "Hangup-Cause: NORMAL_CIRCUIT_CONGESTION",
		"Hangup-Cause: INCOMPATIBLE_DESTINATION", "Hangup-Cause: DESTINATION_OUT_OF_ORDER", "Hangup-Cause: MANAGER_REQUEST", "Hangup-Cause: -",
	} {
		if a, o := ended(t, Calls{Contexts: []string{"public"}}, with(t, refused, header)); o != NoAttempt || a.Addr.IsValid() {
			t.Errorf("%s: %s, %+v", header, o, a)
		}
	}
	for _, header := range []string{
		"Caller-Channel-Answered-Time: -", "Caller-Channel-Bridged-Time: -", "Caller-Profile-Index: -", "variable_last_app: -",
		"variable_sip_authorized: false", "variable_current_application_data: 403 Forbidden", "variable_current_application_data: 404 nobody here",
	} {
		if _, o := ended(t, Calls{Contexts: []string{"public"}}, with(t, refused, header)); o != Attempt {
			t.Errorf("%s: %s", header, o)
		}
	}
	// Without a matching extension there is no application.
	none := with(t, refused, "variable_last_app: -", "variable_current_application: -", "variable_current_application_data: -", "Hangup-Cause: NO_ROUTE_DESTINATION")
	if _, o := ended(t, Calls{Contexts: []string{"public"}}, none); o != Attempt {
		t.Errorf("no extension: %s", o)
	}
}

func TestTheAddressOfACallIsCertainOrNone(t *testing.T) {
	refused := calls(t)[2]
	for _, tc := range []struct{ addr, received, want string }{
		{"10.77.0.9", "10.77.0.9", "10.77.0.9"},
		{"fd77%3A%3A2", "fd77%3A%3A2", "fd77::2"},
		{"%3A%3Affff%3A10.77.0.9", "%3A%3Affff%3A10.77.0.9", "10.77.0.9"},
		{"10.77.0.9", "10.77.0.8", ""},
		{"9.9.9.9", "10.77.0.9", ""},
		{"10.77.0.9%3A5060", "10.77.0.9%3A5060", ""},
		{"0.0.0.0", "0.0.0.0", ""},
		{"-", "10.77.0.9", ""},
	} {
		a, o := ended(t, Calls{Contexts: []string{"public"}}, with(t, refused, "Caller-Network-Addr: "+tc.addr, "variable_sip_received_ip: "+tc.received))
		switch {
		case tc.want == "" && (o != NoAddress || a.Addr.IsValid()):
			t.Errorf("%+v: %s, %v", tc, o, a.Addr)
		case tc.want != "" && (o != Attempt || a.Addr != netip.MustParseAddr(tc.want)):
			t.Errorf("%+v: %s, %v", tc, o, a.Addr)
		}
	}
}

func TestACallToAForbiddenNumberAlwaysCounts(t *testing.T) {
	bodies := calls(t)
	answered, loopback, withPassword, transferred := bodies[22], bodies[32], bodies[35], bodies[29]
	dial := func(body []byte, number string) []byte {
		return with(t, body, "Caller-Destination-Number: "+number, "variable_sip_req_user: "+number)
	}
	for _, tc := range []struct {
		name   string
		body   []byte
		calls  Calls
		counts bool
	}{
		{"answered", dial(answered, "00441234"), Calls{DenyPrefix: []string{"+", "00"}}, true},
		{"with a plus", dial(answered, "%2B441234"), Calls{DenyPrefix: []string{"00", "+"}}, true},
		{"another number", dial(answered, "0441234"), Calls{DenyPrefix: []string{"00", "+"}}, false},
		{"shorter than the prefix", dial(answered, "0"), Calls{DenyPrefix: []string{"00"}}, false},
		{"none of them", dial(answered, "00441234"), Calls{}, false},
		{"an empty prefix is none", dial(answered, "00441234"), Calls{DenyPrefix: []string{""}}, false},
		{"allowed", dial(answered, "0041234"), Calls{DenyPrefix: []string{"00"}, AllowPrefix: []string{"0041"}}, false},
		{"too long", dial(answered, "1234567890123"), Calls{MaxLength: 12}, true},
		{"just not", dial(answered, "123456789012"), Calls{MaxLength: 12}, false},
		{"not in characters", dial(answered, strings.Repeat("%C3%A4", 12)), Calls{MaxLength: 12}, false},
		{"too long, and allowed", dial(answered, "1234567890123"), Calls{MaxLength: 12, AllowPrefix: []string{"12"}}, false},
		{"no number", dial(answered, "-"), Calls{MaxLength: 12, DenyPrefix: []string{"0"}}, false},
		{"the caller gave up", dial(bodies[23], "00441234"), Calls{DenyPrefix: []string{"00"}}, true},
		{"refused, and allowed", bodies[0], Calls{DenyPrefix: []string{"4"}, AllowPrefix: []string{"47"}}, true},
		{"with a password", dial(withPassword, "00441234"), Calls{DenyPrefix: []string{"00"}}, false},
		{"transferred", dial(transferred, "00441234"), Calls{DenyPrefix: []string{"00"}}, false},
		{"a loopback's leg", dial(loopback, "00441234"), Calls{DenyPrefix: []string{"00"}}, false},
		{"a gateway's", dial(bodies[38], "00441234"), Calls{DenyPrefix: []string{"00"}}, false},
		{"another context", dial(with(t, answered, "Caller-Context: other"), "00441234"), Calls{DenyPrefix: []string{"00"}}, false},
	} {
		tc.calls.Contexts = []string{"default", "public"}
		if a, o := ended(t, tc.calls, tc.body); (o == Attempt) != tc.counts || a.Addr.IsValid() != tc.counts {
			t.Errorf("%s: %s, %+v", tc.name, o, a)
		}
	}
}

func TestCallsAreLookedAtOnlyWhereThatIsAskedFor(t *testing.T) {
	for _, body := range calls(t) {
		if _, o := ended(t, Calls{DenyPrefix: []string{"4"}, MaxLength: 1}, body); o != NotForUs {
			t.Errorf("%s", o)
		}
	}
	refuse := [2]string{"variable_sip_hangup_disposition", "send_refuse"}
	for _, tc := range []struct {
		calls Calls
		want  [][2]string
	}{
		{Calls{}, nil},
		{Calls{DenyPrefix: []string{"00"}, MaxLength: 12}, nil},
		{Calls{Contexts: []string{"public"}}, [][2]string{refuse}},
		{Calls{Contexts: []string{"public"}, AllowPrefix: []string{"1"}}, [][2]string{refuse}},
		{Calls{Contexts: []string{"public", "b"}, MaxLength: 12}, [][2]string{refuse, {"Caller-Context", "public"}, {"Caller-Context", "b"}}},
		{Calls{Contexts: []string{"public"}, DenyPrefix: []string{"00"}}, [][2]string{refuse, {"Caller-Context", "public"}}},
	} {
		if got := New(Options{Calls: tc.calls}).CallFilters(); !slices.Equal(got, tc.want) {
			t.Errorf("%+v: %q", tc.calls, got)
		}
	}
}
