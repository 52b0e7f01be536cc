package fakeswitch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/esl"
)

// The replies are those of FreeSWITCH 1.11, word for word.
func TestRepliesAreThoseOfFreeSWITCH(t *testing.T) {
	u := login(t, start(t, Options{}))
	for _, exchange := range [][2]string{
		{"filter", "-ERR command not found"},
		{"filter ", "-ERR invalid syntax"},
		{"filter X", "-ERR invalid syntax"},
		{"filter X ", "+OK filter added. [X]=[]"},
		{"FILTER  x y z", "+OK filter added. [x]=[y z]"},
		{"filter add a b", "+OK filter added. [a]=[b]"},
		{"filter delete a b", "+OK filter deleted. [a][b]"},
		{"filter DELETE all", "+OK filter deleted. [all][]"},
		{"filter delete x", "+OK filter deleted. [x][]"},
		{"filter delete", "-ERR invalid syntax"},
		{"nixevent", "-ERR no keywords supplied"},
		{"nixevent plain", "-ERR no keywords supplied"},
		{"nixevent plain CHANNEL_HANGUP_COMPLETE", "+OK events nixed"},
		{"noevents", "+OK no longer listening for events"},
		{"noevents", "-ERR not listening for events"},
		{"event plain heartbeat", "+OK event listener enabled plain"},
		{"nixevent ALL", "+OK events nixed"},
		{"log 4", "+OK log level 4 [4]"},
		{"log", "+OK log level  [7]"},
		{"log warning", "+OK log level warning [4]"},
		{"log bogus", "-ERR invalid log level"},
		{"log 9", "+OK log level 9 [9]"},
		{"log -1", "+OK log level -1 [0]"},
		{"log 5 x", "+OK log level 5 [5]"},
		{"nolog", "+OK no longer logging"},
		{"nolog", "-ERR not loging"},
	} {
		u.says(exchange[0], exchange[1])
	}
}

// hears returns the names of the events and the levels of the log lines that a client receives after sending commands.
func hears(t *testing.T, o Options, emit func(*Switch), commands ...string) []string {
	t.Helper()
	s := start(t, o)
	u := login(t, s)
	for _, c := range commands {
		u.sends(c)
		u.next(esl.CommandReply)
	}
	emit(s)
	s.End(Reload)
	var heard []string
	ev := esl.NewEvent(esl.NewFields("Event-Name", "Event-Subclass"))
	for {
		f, err := u.frames.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch f.Type {
		case esl.DisconnectNotice:
			return heard
		case esl.LogData:
			heard = append(heard, fmt.Sprint("log ", esl.ParseLog(f).Level))
		case esl.EventPlain:
			if err := ev.Parse(f.Body); err != nil {
				t.Fatal(err)
			}
			heard = append(heard, strings.TrimPrefix(string(ev.Get(0))+" "+string(ev.Get(1)), "CUSTOM "))
		}
	}
}

func TestFiltersPassTheSameEventsAsFreeSWITCH(t *testing.T) {
	emit := func(s *Switch) {
		s.Emit(Heartbeat, Caller{}, time.Time{})
		s.EmitCustom("a::b", time.Time{}, [2]string{"who", "Some One"}, [2]string{"what", "+49"})
		s.EmitCustom("c::d", time.Time{}, [2]string{"who", "nobody"})
	}
	const beat, ab, cd = "HEARTBEAT ", "a::b", "c::d"
	for _, test := range []struct {
		name    string
		filters []string
		want    []string
	}{
		{"none", nil, []string{beat, ab, cd}},
		{"one", []string{"Event-Name HEARTBEAT"}, []string{beat}},
		{"in any case", []string{"EVENT-NAME heartbeat"}, []string{beat}},
		{"of an encoded value", []string{"who some one", "Event-Subclass c::d"}, []string{ab, cd}},
		{"not of a part", []string{"who some"}, nil},
		{"any of several", []string{"Event-Name HEARTBEAT", "who nobody"}, []string{beat, cd}},
		{"several of one header", []string{"Event-Subclass a::b", "Event-Subclass c::d"}, []string{ab, cd}},
		{"a header that no event has", []string{"no-such x"}, nil},
		{"a plus is no part of the value", []string{"who +nobody"}, []string{cd}},
		{"nor can it be", []string{"what +49"}, nil},
		{"a minus keeps out", []string{"Event-Name CUSTOM", "who -nobody"}, []string{ab}},
		{"and lets nothing in", []string{"who -nobody"}, nil},
		{"the last sign counts", []string{"who -+ nobody"}, []string{cd}},
		{"a pattern", []string{"who /^Some|^no/"}, []string{ab, cd}},
		{"a pattern in any case", []string{"who /^some/i"}, []string{ab}},
		{"half a pattern", []string{"who /^Some"}, nil},
		{"no pattern behind a sign", []string{"Event-Name CUSTOM", "who -/nobody/"}, []string{ab, cd}},
		{"a broken pattern", []string{"who /(/"}, nil},
		{"one deleted", []string{"who nobody", "Event-Name HEARTBEAT", "delete WHO nobody"}, []string{beat}},
		{"not deleted for another value", []string{"who nobody", "delete who NOBODY"}, []string{cd}},
		{"deleted by header", []string{"who nobody", "who x", "delete who"}, []string{beat, ab, cd}},
		{"deleted by an empty value", []string{"who nobody", "who "}, []string{beat, ab, cd}},
		{"all deleted", []string{"who nobody", "Event-Name X", "delete all"}, []string{beat, ab, cd}},
	} {
		t.Run(test.name, func(t *testing.T) {
			commands := []string{"event plain HEARTBEAT CUSTOM a::b c::d"}
			for _, f := range test.filters {
				commands = append(commands, "filter "+f)
			}
			if got := hears(t, Options{}, emit, commands...); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestNixedEventsAreNotSent(t *testing.T) {
	emit := func(s *Switch) {
		s.Emit(Heartbeat, Caller{}, time.Time{})
		s.Emit(NoAuth, Caller{}, time.Time{})
		s.EmitCustom("a::b", time.Time{})
	}
	const beat, pre, ab = "HEARTBEAT ", "sofia::pre_register", "a::b"
	for _, test := range []struct {
		commands []string
		want     []string
	}{
		{[]string{"event plain HEARTBEAT CUSTOM a::b", "nixevent HEARTBEAT"}, []string{ab}},
		{[]string{"event plain HEARTBEAT CUSTOM a::b", "nixevent CUSTOM a::b"}, []string{beat}},
		{[]string{"event plain HEARTBEAT CUSTOM a::b", "nixevent ALL"}, nil},
		{[]string{"event plain CUSTOM a::b", "nixevent ALL", "event plain CUSTOM"}, []string{ab}}, // a subclass is kept
		{[]string{"event plain ALL"}, []string{beat, pre, ab}},
		{[]string{"event plain ALL", "nixevent HEARTBEAT"}, []string{pre}}, // those that FreeSWITCH knew at the time of the command
		{[]string{"event plain ALL", "noevents", "event plain CUSTOM"}, nil},
	} {
		if got := hears(t, Options{}, emit, test.commands...); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.commands, got, test.want)
		}
	}
}

func TestALogLineIsSentToClientsOfItsLevel(t *testing.T) {
	emit := func(s *Switch) {
		s.Emit(RejectedRegister, Caller{}, time.Time{})
		s.Emit(CTILine, Caller{}, time.Time{})
	}
	for _, test := range []struct {
		commands []string
		want     []string
	}{
		{nil, nil},
		{[]string{"event plain ALL"}, nil},
		{[]string{"log 3"}, nil},
		{[]string{"log 4"}, []string{"log 4"}},
		{[]string{"log notice"}, []string{"log 4", "log 5"}},
		{[]string{"log", "filter Event-Name NONE"}, []string{"log 4", "log 5"}}, // filters apply to events only
		{[]string{"log 7", "nolog"}, nil},
	} {
		if got := hears(t, Options{}, emit, test.commands...); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.commands, got, test.want)
		}
	}
}

func TestALeastPrivilegeLoginMayBeGivenTheLog(t *testing.T) {
	s := start(t, Options{User: "guard@example.org", AllowedEvents: []string{"ALL"}, AllowedLog: true})
	u := dial(t, s)
	u.next(esl.AuthRequest)
	u.sends("userauth guard@example.org:ClueCon")
	if f := u.next(esl.CommandReply); f.Get("Allowed-Events") != "ALL" || f.Get("Allowed-API") != "all" || f.Get("Allowed-LOG") != "true" {
		t.Errorf("%s", f.Header)
	}
	u.says("event plain HEARTBEAT", "+OK event listener enabled plain")
	u.says("event plain CUSTOM a::b", "-ERR permission denied") // ALL never includes a subclass
	waited := make(chan error, 1)
	go func() { waited <- s.WaitSubscribed(t.Context(), "HEARTBEAT", "log") }()
	u.says("log 4", "+OK log level 4 [4]")
	if err := <-waited; err != nil {
		t.Error(err)
	}
}
