package esl_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fsban/esl"
	"fsban/internal/fakeswitch"
)

var refusedCalls = esl.Filtered{
	Event: "CHANNEL_HANGUP_COMPLETE",
	Only:  []esl.Filter{{Header: "variable_sip_hangup_disposition", Value: "send_refuse"}, {Header: "Caller-Context", Value: "public 2"}},
}

const (
	added   = "+OK filter added. [x]=[y]"
	enabled = "+OK event listener enabled plain"
)

func TestNoEventIsAskedForBeforeItsFiltersHold(t *testing.T) {
	wholeFilters := [][2]string{
		{"filter Event-Name CUSTOM", added},
		{"filter Event-Name HEARTBEAT", added},
	}
	whole := [][2]string{
		{"event plain HEARTBEAT", enabled},
		{"event plain CUSTOM a::b", enabled},
	}
	refused := [][2]string{
		{"filter variable_sip_hangup_disposition send_refuse", added},
		{"filter Caller-Context public 2", "-ERR command not found"},
	}
	for _, test := range []struct {
		name      string
		filtered  []esl.Filtered
		exchanges [][2]string
		denied    []string
	}{
		{"all is well", []esl.Filtered{refusedCalls}, slices.Concat(wholeFilters, [][2]string{
			{"filter variable_sip_hangup_disposition send_refuse", added},
			{"filter Caller-Context public 2", added},
		}, whole, [][2]string{
			{"event plain CHANNEL_HANGUP_COMPLETE", enabled},
			{"log 4", "+OK log level 4 [4]"},
		}), nil},
		{"the event is refused", []esl.Filtered{{Event: "MESSAGE", Only: []esl.Filter{{Header: "from", Value: "x"}}}}, slices.Concat(wholeFilters, [][2]string{
			{"filter from x", added},
		}, whole, [][2]string{
			{"event plain MESSAGE", "-ERR permission denied"},
			{"log 4", "-ERR permission denied"},
		}), []string{"MESSAGE", "log"}},
		{"a filter is refused", []esl.Filtered{refusedCalls, {Event: "MESSAGE", Only: []esl.Filter{{Header: "from", Value: "x"}}}}, slices.Concat(wholeFilters, refused, [][2]string{
			{"filter from x", added},
			{"filter delete all", "+OK filter deleted. [all][]"},
		}, whole, [][2]string{
			{"log 4", "+OK log level 4 [4]"},
		}), []string{"CHANNEL_HANGUP_COMPLETE", "MESSAGE"}},
		{"no filter is known", []esl.Filtered{refusedCalls}, [][2]string{
			{"filter Event-Name CUSTOM", "-ERR command not found"},
			{"filter Event-Name HEARTBEAT", "-ERR command not found"},
			{"filter variable_sip_hangup_disposition send_refuse", "-ERR command not found"},
			{"filter Caller-Context public 2", "-ERR command not found"},
			{"filter delete all", "-ERR command not found"},
			whole[0],
			whole[1],
			{"log 4", "+OK log level 4 [4]"},
		}, []string{"CHANNEL_HANGUP_COMPLETE"}},
		{"one is not valid", []esl.Filtered{{Event: "MESSAGE", Only: []esl.Filter{{Header: "from", Value: "/x"}}}}, slices.Concat(whole, [][2]string{
			{"log 4", "+OK log level 4 [4]"},
		}), []string{"MESSAGE"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var heard []string
				_, states := start(t, "fs:8021", esl.Options{
					Events: []string{"HEARTBEAT"}, Subclasses: []string{"a::b"}, Required: "a::b", LogLevel: 4, Filtered: test.filtered,
					OnEvent: func(ev *esl.Event) { heard = append(heard, string(ev.Get(0))) },
					Dial: scripted(t, func(p *peer) {
						p.login(0)
						for _, exchange := range test.exchanges {
							p.expect(exchange[0])
							p.reply(exchange[1])
						}
						p.say(eventFrame("HEARTBEAT"))
						p.hold()
					}),
				})
				if s := <-states; !s.Up || !slices.Equal(s.Denied, test.denied) {
					t.Errorf("state %+v", s)
				}
				synctest.Wait()
				if !slices.Equal(heard, []string{"HEARTBEAT"}) {
					t.Errorf("heard %q", heard)
				}
			})
		})
	}
}

func TestASubscriptionToAllEventsNeedsNoFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, states := start(t, "fs:8021", esl.Options{
			Events: []string{"ALL"}, Filtered: []esl.Filtered{refusedCalls},
			Dial: scripted(t, func(p *peer) {
				p.login(0)
				p.expect("event plain ALL")
				p.reply(enabled)
				p.hold()
			}),
		})
		if s := <-states; !s.Up || len(s.Denied) > 0 {
			t.Errorf("state %+v", s)
		}
	})
}

func TestManySubscriptionsAreNoTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		subclasses := slices.Repeat([]string{"a::b"}, 200)
		_, states := start(t, "fs:8021", esl.Options{Subclasses: subclasses, Dial: scripted(t, func(p *peer) {
			p.login(0)
			p.sleep(time.Second)
			for range subclasses {
				p.expect("event plain CUSTOM a::b")
				p.reply(enabled)
			}
			p.hold()
		})})
		if s := <-states; !s.Up {
			t.Errorf("state %+v", s)
		}
	})
}

func TestOfAFilteredEventOnlyTheWantedOnesCome(t *testing.T) {
	for _, test := range []struct {
		name string
		opts esl.Options
		want []string
	}{
		{"refused calls", esl.Options{
			Events: []string{"HEARTBEAT"}, Subclasses: []string{"sofia::register_failure", "cti::x"}, Filtered: []esl.Filtered{refusedCalls},
		}, []string{"HEARTBEAT ", "CUSTOM sofia::register_failure", "CHANNEL_HANGUP_COMPLETE ", "CUSTOM cti::x"}},
		{"all custom events", esl.Options{
			Filtered: []esl.Filtered{{Event: "ALL", Only: []esl.Filter{{Header: "Event-Name", Value: "CUSTOM"}}}},
		}, []string{"CUSTOM sofia::pre_register", "CUSTOM sofia::register_attempt", "CUSTOM sofia::register_failure", "CUSTOM cti::x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fs := serveSwitch(t, fakeswitch.Options{})
			var heard []string
			test.opts.Fields = esl.NewFields("Event-Name", "Event-Subclass")
			test.opts.OnEvent = func(ev *esl.Event) { heard = append(heard, string(ev.Get(0))+" "+string(ev.Get(1))) }
			_, states := start(t, fs.Addr(), test.opts)
			if s := <-states; !s.Up || len(s.Denied) > 0 {
				t.Fatalf("state %+v", s)
			}
			fs.Emit(fakeswitch.Heartbeat, fakeswitch.Caller{}, time.Time{})
			fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{}, time.Time{})
			fs.Emit(fakeswitch.AnsweredCall, fakeswitch.Caller{}, time.Time{})
			fs.Emit(fakeswitch.RefusedCall, fakeswitch.Caller{}, time.Time{})
			fs.EmitCustom("cti::x", time.Time{})
			fs.End(fakeswitch.Reload)
			<-states
			if !slices.Equal(heard, test.want) {
				t.Errorf("heard %q, want %q", heard, test.want)
			}
		})
	}
}

func TestAFilterThatWouldMeanSomethingElseIsAnError(t *testing.T) {
	for _, test := range []struct{ event, header, value, want string }{
		{"CHANNEL_HANGUP_COMPLETE", "variable_sip_hangup_disposition", "send_refuse", ""},
		{"ALL", "sip.X-y_2", "a b +-/ \xc3\xa9\xff", ""},
		{"", "x", "y", `filtered event "": not the name of an event`},
		{"HEARTBEAT CUSTOM", "x", "y", `filtered event "HEARTBEAT CUSTOM": not the name of an event`},
		{"A\n", "x", "y", `filtered event "A\n": not the name of an event`},
		{"A", "", "y", `filtered event A: filter "" "y": the header's name is not made of letters, digits, '-', '_' and '.'`},
		{"A", "x y", "z", `filtered event A: filter "x y" "z": the header's name is not made of letters, digits, '-', '_' and '.'`},
		{"A", "x[1]", "z", `filtered event A: filter "x[1]" "z": the header's name is not made of letters, digits, '-', '_' and '.'`},
		{"A", "Delete", "all", `filtered event A: filter "Delete" "all": no header has this name`},
		{"A", "add", "x y", `filtered event A: filter "add" "x y": no header has this name`},
		{"A", "_body", "y", `filtered event A: filter "_body" "y": not a header`},
		{"A", "x", "", `filtered event A: filter "x" "": no value`},
		{"A", "x", "y\n\nexit", `filtered event A: filter "x" "y\n\nexit": the value has a control character`},
		{"A", "x", "y\r", `filtered event A: filter "x" "y\r": the value has a control character`},
		{"A", "x", "+49", `filtered event A: filter "x" "+49": the value starts with a character that FreeSWITCH takes for a sign`},
		{"A", "x", "-y", `filtered event A: filter "x" "-y": the value starts with a character that FreeSWITCH takes for a sign`},
		{"A", "x", "/y/", `filtered event A: filter "x" "/y/": the value starts with a character that FreeSWITCH takes for a sign`},
		{"A", "x", " y", `filtered event A: filter "x" " y": the value starts with a character that FreeSWITCH takes for a sign`},
		{"A", "x", "ARRAY::y", `filtered event A: filter "x" "ARRAY::y": FreeSWITCH takes this value for something else`},
		{"A", "x", "unload mod_Event_socket", `filtered event A: filter "x" "unload mod_Event_socket": FreeSWITCH takes this value for something else`},
	} {
		err := esl.Filtered{Event: test.event, Only: []esl.Filter{{Header: "good", Value: "one"}, {Header: test.header, Value: test.value}}}.Validate()
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%q %q %q: %s", test.event, test.header, test.value, got)
		}
	}
	if err := (esl.Filtered{Event: "A"}).Validate(); err == nil || err.Error() != "filtered event A: no filter" {
		t.Errorf("without a filter: %v", err)
	}
}

func TestStateListsTheAllowedEvents(t *testing.T) {
	for _, test := range []struct {
		reply string
		want  []string
	}{
		{"+OK accepted", nil},
		{"+OK accepted\nAllowed-Events: all\nAllowed-API: all\nAllowed-LOG: true", nil},
		{"+OK accepted\nAllowed-Events: HEARTBEAT CUSTOM a::b  c::d\nAllowed-API: status", []string{"HEARTBEAT", "CUSTOM", "a::b", "c::d"}},
		{"+OK accepted\nAllowed-Events: HEARTBEAT,CUSTOM,a::b", []string{"HEARTBEAT", "CUSTOM", "a::b"}},
		{"+OK accepted\nAllowed-Events: HEARTBEAT, CUSTOM", []string{"HEARTBEAT,", "CUSTOM"}}, // as FreeSWITCH reads it
	} {
		synctest.Test(t, func(t *testing.T) {
			client, states := start(t, "fs:8021", esl.Options{User: "guard@example.org", Dial: scripted(t, func(p *peer) {
				p.say("Content-Type: auth/request\n\n")
				p.expect("userauth guard@example.org:ClueCon")
				p.reply(test.reply)
			}, (*peer).hold)})
			if s := <-states; !s.Up || !slices.Equal(s.Allowed, test.want) {
				t.Errorf("%q: state %+v", test.reply, s)
			}
			if s := <-states; s.Up || !slices.Equal(client.State().Allowed, test.want) {
				t.Errorf("%q: when down: %+v", test.reply, s)
			}
		})
	}
}

func TestARefusedLogTakesNothingElse(t *testing.T) {
	fs := serveSwitch(t, fakeswitch.Options{User: "guard@example.org", AllowedEvents: []string{"HEARTBEAT", "CHANNEL_HANGUP_COMPLETE", "sofia::register_failure"}})
	var heard, logged []string
	_, states := start(t, fs.Addr(), esl.Options{
		User: "guard@example.org", Events: []string{"HEARTBEAT"}, Subclasses: []string{"sofia::register_failure"}, LogLevel: 4,
		Filtered: []esl.Filtered{refusedCalls},
		OnEvent:  func(ev *esl.Event) { heard = append(heard, string(ev.Get(0))) },
		OnLog:    func(l esl.Log) { logged = append(logged, string(l.Text)) },
	})
	if s := <-states; !s.Up || !slices.Equal(s.Denied, []string{"log"}) || len(s.Allowed) != 4 {
		t.Fatalf("state %+v", s)
	}
	for _, situation := range []fakeswitch.Situation{fakeswitch.Heartbeat, fakeswitch.RejectedInvite, fakeswitch.WrongPassword, fakeswitch.RefusedCall} {
		fs.Emit(situation, fakeswitch.Caller{}, time.Time{})
	}
	fs.End(fakeswitch.Reload)
	<-states
	if want := []string{"HEARTBEAT", "CUSTOM", "CHANNEL_HANGUP_COMPLETE"}; !slices.Equal(heard, want) || len(logged) > 0 {
		t.Errorf("heard %q and %q", heard, logged)
	}
}

func TestTheLogIsReceivedUpToItsLevel(t *testing.T) {
	fs := serveSwitch(t, fakeswitch.Options{})
	var logged []string
	_, states := start(t, fs.Addr(), esl.Options{LogLevel: 4, OnLog: func(l esl.Log) { logged = append(logged, string(l.File)) }})
	<-states
	fs.Emit(fakeswitch.RejectedInvite, fakeswitch.Caller{}, time.Time{})
	fs.Emit(fakeswitch.CTILine, fakeswitch.Caller{}, time.Time{}) // a notice
	fs.Emit(fakeswitch.RejectedRegister, fakeswitch.Caller{}, time.Time{})
	fs.End(fakeswitch.Reload)
	<-states
	if !slices.Equal(logged, []string{"sofia.c", "sofia_reg.c"}) {
		t.Errorf("logged %q", logged)
	}
}
