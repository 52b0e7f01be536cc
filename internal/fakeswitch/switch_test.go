package fakeswitch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fsban/detect"
	"fsban/esl"
	"fsban/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnUnchangedSituationEqualsTheRecording(t *testing.T) {
	for s, r := range recordings {
		name, start := ".plain.esl", "enabled plain\n\n"
		if len(r.logs) > 0 {
			name, start = ".log.esl", "log level 7 [7]\n\n"
		}
		if s == AnsweredCall || s == CTILine { // were not recorded
			continue
		}
		want := mustRead(string(s) + name)
		_, want, _ = bytes.Cut(want, []byte(start))
		got := Frames(s, Caller{}, time.Time{})
		for i, line := range bytes.Split(want, []byte("\n")) {
			if lines := bytes.Split(got, []byte("\n")); i >= len(lines) || !bytes.Equal(lines[i], line) {
				t.Fatalf("%s: line %d of\n%s\nwas recorded as %q", s, i+1, got, line)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d bytes, recorded %d", s, len(got), len(want))
		}
	}
}

func TestASituationIsDetectedAsTheCallersOwn(t *testing.T) {
	at := time.UnixMicro(1795363922458042)
	v4 := Caller{Addr: netip.MustParseAddr("192.0.2.7"), Port: 5062, User: "2000", UserAgent: "probe 1+1 100%", Profile: "office"}
	v6 := Caller{Addr: netip.MustParseAddr("2001:db8::7"), Port: 5062, User: "émile\n", UserAgent: "x\r\ny", Profile: "office"}
	for _, test := range []struct {
		situation Situation
		want      []policy.Kind
	}{
		{WrongPassword, []policy.Kind{policy.Challenge, policy.AuthFailure}},
		{UnknownUser, []policy.Kind{policy.Challenge, policy.AuthFailure}},
		{InviteWrongPassword, []policy.Kind{policy.Challenge, policy.AuthFailure}},
		{OnePacket, []policy.Kind{policy.AuthFailure}},
		{Success, []policy.Kind{policy.Challenge, policy.AuthSuccess}},
		{Refresh, []policy.Kind{policy.AuthSuccess}},
		{NoAuth, []policy.Kind{policy.Challenge}},
		{StaleNonce, []policy.Kind{policy.Challenge}},
		{Heartbeat, nil},
	} {
		for _, c := range []Caller{v4, v6} {
			var kinds []policy.Kind
			for _, a := range attempts(t, Frames(test.situation, c, at), at) {
				kinds = append(kinds, a.Kind)
				if a.Addr != c.Addr || !a.At.Equal(at) || a.User != c.User || a.UserAgent != c.UserAgent || a.Profile != c.Profile {
					t.Errorf("%s by %+v gives %+v", test.situation, c, a)
				}
			}
			if !slices.Equal(kinds, test.want) {
				t.Errorf("%s by %v gives %v, want %v", test.situation, c.Addr, kinds, test.want)
			}
		}
	}
}

func attempts(t *testing.T, stream []byte, now time.Time) []policy.Attempt {
	t.Helper()
	var all []policy.Attempt
	d := detect.New(detect.Options{})
	r, ev := esl.NewReader(bytes.NewReader(stream)), esl.NewEvent(d.Fields())
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := ev.Parse(f.Body); err != nil {
			t.Fatal(err)
		}
		if a, outcome := d.Event(ev, now); outcome == detect.Attempt {
			all = append(all, a)
		}
	}
}

func TestValuesAreEncodedAsFreeSWITCHDoes(t *testing.T) {
	for value, want := range map[string]string{
		"fd77::2":             "fd77%3A%3A2",
		"sofia::register":     "sofia%3A%3Aregister",
		"it's (a) test, ~/$!": "it's%20(a)%20test,%20~/$!",
		"100%":                "100%25",
		"x%0Ay":               "x%0Ay",   // an escape of the peer's own passes
		"x%0ay":               "x%250ay", // unless in lower case
		"grüß\x00":            "gr%C3%BC%C3%9F%00",
	} {
		if got := encode(value); got != want {
			t.Errorf("encode(%q) = %q, want %q", value, got, want)
		}
	}
}

// start serves a Switch for as long as the test lasts.
func start(t *testing.T, o Options) *Switch {
	t.Helper()
	s := New(o)
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return s
}

// A user is one connection to a Switch under test.
type user struct {
	*testing.T
	net.Conn
	frames *esl.Reader
}

func dial(t *testing.T, s *Switch) *user {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &user{t, conn, esl.NewReader(conn)}
}

func (u *user) sends(command string) {
	u.Helper()
	if _, err := u.Write([]byte(command + "\n\n")); err != nil {
		u.Fatal(err)
	}
}

// says sends a command and expects a reply.
func (u *user) says(command, want string) {
	u.Helper()
	u.sends(command)
	f := u.next(esl.CommandReply)
	if got := f.Get("Reply-Text"); got != want {
		u.Fatalf("%s: %q, want %q", command, got, want)
	}
}

func (u *user) next(want esl.FrameType) *esl.Frame {
	u.Helper()
	f, err := u.frames.Next()
	if err != nil || f.Type != want {
		u.Fatalf("got %+v, %v, want a frame of type %d", f, err, want)
	}
	return f
}

func (u *user) ends(want error) {
	u.Helper()
	if f, err := u.frames.Next(); !errors.Is(err, want) {
		u.Fatalf("got %+v, %v, want %v", f, err, want)
	}
}

func login(t *testing.T, s *Switch) *user {
	u := dial(t, s)
	u.next(esl.AuthRequest)
	u.says("auth ClueCon", "+OK accepted")
	return u
}

func TestCommandsAreAnsweredInFreeSWITCHsWords(t *testing.T) {
	s := start(t, Options{})
	u := dial(t, s)
	u.next(esl.AuthRequest)
	u.says("event plain ALL", "-ERR command not found")
	u.says("auth ClueCon\r", "+OK accepted")
	u.says("event plain", "-ERR no keywords supplied")
	u.says("event plain NO_SUCH_EVENT", "-ERR no keywords supplied")
	u.says("event plain HEARTBEAT CUSTOM no::such", "+OK event listener enabled plain")
	u.says("noevents", "+OK no longer listening for events")
	u.says("log 4", "+OK log level 4 [4]")
	u.says("nolog", "+OK no longer logging")
	u.says("bogus", "-ERR command not found")
	s.SetReply("sofia status", "none\n")
	for command, want := range map[string]string{
		"api sofia status": "none\n",
		"api no_such":      "-ERR no_such Command not found!\n",
		"api status":       string(mustRead("api-status.txt")),
	} {
		u.sends(command)
		if f := u.next(esl.APIResponse); string(f.Body) != want {
			t.Errorf("%s: %q", command, f.Body)
		}
	}
	u.says("exit", "+OK bye")
	u.next(esl.DisconnectNotice)
	u.ends(io.EOF)
}

func TestALeastPrivilegeLoginReceivesAllowedEventsOnly(t *testing.T) {
	s := start(t, Options{User: "guard@example.org", AllowedEvents: []string{"HEARTBEAT", "a::b"}, AllowedAPI: []string{"status"}})
	u := dial(t, s)
	u.next(esl.AuthRequest)
	u.sends("userauth guard@example.org:ClueCon")
	if got := u.next(esl.CommandReply).Get("Allowed-Events"); got != "HEARTBEAT CUSTOM a::b" {
		t.Errorf("Allowed-Events: %q", got)
	}
	u.says("event plain ALL", "-ERR permission denied")
	u.says("event plain CUSTOM a::c", "-ERR permission denied")
	u.says("event plain CUSTOM a::b", "+OK event listener enabled plain")
	u.says("log 7", "-ERR permission denied")
	u.says("api reloadxml", "-ERR permission denied")
}

func TestAClientGetsTheEventsItAskedFor(t *testing.T) {
	s := start(t, Options{})
	failures, all, none := login(t, s), login(t, s), login(t, s)
	failures.says("event plain CUSTOM sofia::register_failure", "+OK event listener enabled plain")
	all.says("event plain ALL", "+OK event listener enabled plain")
	s.Emit(Heartbeat, Caller{}, time.Time{})
	s.Emit(WrongPassword, Caller{}, time.Time{})
	if f := failures.next(esl.EventPlain); !bytes.Contains(f.Body, []byte("register_failure\n")) {
		t.Errorf("got %s", f.Body)
	}
	for sequence := range 4 {
		want := []byte("\nEvent-Sequence: " + string(rune('1'+sequence)) + "\n")
		if f := all.next(esl.EventPlain); !bytes.Contains(f.Body, want) {
			t.Errorf("event %d: %s", sequence, f.Body)
		}
	}
	none.says("noevents", "-ERR not listening for events")
}

func TestASubscriptionCanBeWaitedFor(t *testing.T) {
	s := start(t, Options{})
	waited := make(chan error, 1)
	go func() { waited <- s.WaitSubscribed(t.Context(), "HEARTBEAT", "a::b") }()
	u := login(t, s)
	u.says("event plain HEARTBEAT", "+OK event listener enabled plain")
	u.says("event plain CUSTOM a::b", "+OK event listener enabled plain")
	if err := <-waited; err != nil || s.Clients() != 1 {
		t.Errorf("%d clients, %v", s.Clients(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.WaitSubscribed(ctx, "SHUTDOWN"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestRawBytesReachLoggedInClients(t *testing.T) {
	s := start(t, Options{})
	in, out := login(t, s), dial(t, s)
	out.next(esl.AuthRequest)
	s.EmitRaw([]byte("Content-Type: log/data\nContent-Length: 1\n\nx"))
	in.next(esl.LogData)
	out.says("auth ClueCon", "+OK accepted")
}

func TestHeartbeatsAreSentPeriodically(t *testing.T) {
	s := start(t, Options{Heartbeat: time.Millisecond})
	u := login(t, s)
	u.says("event plain HEARTBEAT", "+OK event listener enabled plain")
	u.next(esl.EventPlain)
	u.next(esl.EventPlain)
}

func TestAClientThatDoesNotReadIsDroppedAndHoldsNobodyUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := start(t, Options{Queue: 1 << 20})
	deaf, good := login(t, s), login(t, s)
	deaf.says("event plain ALL", "+OK event listener enabled plain")
	good.says("event plain HEARTBEAT", "+OK event listener enabled plain")
	for s.Dropped() == 0 && ctx.Err() == nil {
		s.Emit(WrongPassword, Caller{}, time.Time{})
	}
	s.Emit(Heartbeat, Caller{}, time.Time{})
	good.next(esl.EventPlain)
	if err := s.WaitClients(ctx, 1); err != nil || s.Dropped() != 1 {
		t.Errorf("%d clients, %d dropped", s.Clients(), s.Dropped())
	}
}

func TestFaultsOfNewConnections(t *testing.T) {
	for _, test := range []struct {
		fault Fault
		check func(*user)
	}{
		{DenyAddress, func(u *user) {
			u.next(esl.RudeRejection)
			u.next(esl.DisconnectNotice)
			u.ends(io.EOF)
		}},
		{RefusePassword, func(u *user) {
			u.next(esl.AuthRequest)
			u.says("auth ClueCon", "-ERR invalid")
			u.next(esl.DisconnectNotice)
			u.ends(io.EOF)
		}},
		{Garbage, func(u *user) { u.ends(esl.ErrProtocol) }},
		{Slow, func(u *user) { u.next(esl.AuthRequest) }},
		{Silent, func(u *user) {
			u.SetDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := u.Read(make([]byte, 1)); n > 0 || errors.Is(err, io.EOF) {
				u.Errorf("a silent switch said something: %v", err)
			}
		}},
	} {
		t.Run(string(test.fault), func(t *testing.T) {
			s := start(t, Options{})
			s.SetFault(test.fault)
			test.check(dial(t, s))
		})
	}
}

func TestEndings(t *testing.T) {
	notice := func(u *user) {
		f := u.next(esl.DisconnectNotice)
		if string(f.Body) != "The system is being shut down.\n" {
			u.Errorf("said %q", f.Body)
		}
		u.ends(io.EOF)
	}
	for _, test := range []struct {
		how   Ending
		check func(*user)
	}{
		{Shutdown, func(u *user) {
			u.next(esl.EventPlain)
			notice(u)
		}},
		{Reload, notice},
		{Kill, func(u *user) { u.ends(io.EOF) }},
		{HalfFrame, func(u *user) { u.ends(io.ErrUnexpectedEOF) }},
		{Reset, func(u *user) { u.ends(syscall.ECONNRESET) }},
	} {
		t.Run(string(test.how), func(t *testing.T) {
			s := start(t, Options{})
			u := login(t, s)
			u.says("event plain SHUTDOWN", "+OK event listener enabled plain")
			s.End(test.how)
			test.check(u)
			u.Close()
			if err := s.WaitClients(t.Context(), 0); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTheListenerClosesAndOpensAgainOnItsAddress(t *testing.T) {
	s := start(t, Options{})
	u := login(t, s)
	s.CloseListener()
	if _, err := net.Dial("tcp", s.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v", err)
	}
	u.says("event plain HEARTBEAT", "+OK event listener enabled plain")
	if err := s.Listen(s.Addr()); err != nil {
		t.Fatal(err)
	}
	login(t, s)
	if err := s.Listen("127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second listener: %v", err)
	}
}
