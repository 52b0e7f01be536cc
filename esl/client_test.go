package esl_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fsban/esl"
	"fsban/internal/captures"
	"fsban/internal/fakeswitch"
)

const goodbye = "Content-Type: text/disconnect-notice\nContent-Length: 67\n\nDisconnected, goodbye.\nSee you at ClueCon! http://www.cluecon.com/\n"

// A failedConnection is a script of the peer, and the error that it causes.
type failedConnection struct {
	name      string
	opts      esl.Options
	script    func(*peer)
	reason    esl.Reason
	permanent bool
	want      string // after "event socket fs:8021"
}

// failedConnections covers every reason. denied are the bytes that a FreeSWITCH sends to an address that its access list
// denies.
func failedConnections(denied []byte) []failedConnection {
	return []failedConnection{
		{"the password is wrong", esl.Options{}, func(p *peer) {
			p.say("Content-Type: auth/request\n\n")
			p.expect("auth ClueCon")
			p.reply("-ERR invalid")
			p.say(goodbye)
		}, esl.ReasonPassword, true, " refused the password (freeswitch.user, freeswitch.password)"},
		{"the user is wrong", esl.Options{User: "guard@example.org"}, func(p *peer) {
			p.say("Content-Type: auth/request\n\n")
			p.expect("userauth guard@example.org:ClueCon")
			p.reply("-ERR invalid")
		}, esl.ReasonPassword, true, " refused the password (freeswitch.user, freeswitch.password)"},
		{"the address is denied", esl.Options{}, func(p *peer) { p.say(string(denied)) },
			esl.ReasonAddress, true, " denied this address (apply-inbound-acl in event_socket.conf.xml)"},
		{"the event that is required is not allowed", esl.Options{Events: []string{"HEARTBEAT"}, Subclasses: []string{"a::b"}, Required: "a::b"}, func(p *peer) {
			p.login(1)
			p.expect("event plain CUSTOM a::b")
			p.reply("-ERR permission denied")
			p.hold()
		}, esl.ReasonPermission, true, " does not allow this login to see a::b (esl-allowed-events in the directory)"},
		{"nothing is said", esl.Options{}, (*peer).hold, esl.ReasonSilent, false, " is silent: no answer to the login within 10s"},
		{"the login is not answered", esl.Options{}, func(p *peer) {
			p.say("Content-Type: auth/request\n\n")
			p.hold()
		}, esl.ReasonSilent, false, " is silent: no answer to the login within 10s"},
		{"the reply to a login is cut off", esl.Options{User: "guard@example.org"}, func(p *peer) {
			p.say("Content-Type: auth/request\n\n")
			p.say("Content-Type: command/reply\nReply-Text: +OK accepted\nAllowed-Events: CUSTOM sofia::regi")
			p.hold()
		}, esl.ReasonSilent, false, " is silent: no answer to the login within 10s (esl-allowed-events and esl-allowed-api together must stay under 430 characters)"},
		{"a subscription is not answered", esl.Options{Events: []string{"HEARTBEAT"}}, func(p *peer) {
			p.login(0)
			p.hold()
		}, esl.ReasonSilent, false, " is silent: no answer to the login within 10s"},
		{"the login took FreeSWITCH too long", esl.Options{}, func(p *peer) {
			p.say("Content-Type: auth/request\n\n")
			<-p.commands
			p.say(goodbye)
		}, esl.ReasonDisconnected, false, " closed the connection: Disconnected, goodbye."},
		{"it is another protocol", esl.Options{}, func(p *peer) { p.say("SSH-2.0-OpenSSH_9.9\r\n"); p.hold() },
			esl.ReasonProtocol, false, `: event socket protocol error: "SSH-2.0-OpenSSH_9.9" is not a header line`},
		{"it is an outbound event socket", esl.Options{}, func(p *peer) { p.say("Content-Type: command/reply\n\n"); p.hold() },
			esl.ReasonProtocol, false, `: event socket protocol error: FreeSWITCH greets with auth/request, this with "command/reply"`},
		{"the login is answered with something else", esl.Options{}, func(p *peer) {
			p.say("Content-Type: auth/request\n\nContent-Type: auth/request\n\n")
			p.hold()
		}, esl.ReasonProtocol, false, `: event socket protocol error: the login was answered with "auth/request"`},
		{"the password has a line break", esl.Options{Password: "x\n\nexit"}, func(p *peer) {
			p.say("Content-Type: auth/request\n\n")
			p.hold()
		}, esl.ReasonProtocol, false, ": a command with a line break in it was not sent"},
		{"the end comes before the login", esl.Options{}, func(*peer) {}, esl.ReasonDisconnected, false, " closed the connection: EOF"},
	}
}

func TestWhyAConnectionFails(t *testing.T) {
	for _, test := range failedConnections(captures.Read(t, "esl-acl-denied.raw")) {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test.opts.Dial = scripted(t, test.script)
				_, states := start(t, "fs:8021", test.opts)
				s := <-states
				if s.Up || s.Err == nil || s.Err.Reason != test.reason || s.Err.Reason.Permanent() != test.permanent {
					t.Fatalf("state %+v", s)
				}
				if got := s.Err.Error(); got != "event socket fs:8021"+test.want {
					t.Errorf("got  %s\nwant %s", got, "event socket fs:8021"+test.want)
				}
				if s.Peer != nil {
					t.Errorf("the peer of no connection: %v", s.Peer)
				}
				least, most := 125*time.Millisecond, 375*time.Millisecond
				if test.permanent {
					least, most = 30*time.Second, 90*time.Second
				}
				if wait := time.Until(s.Retry); wait < least || wait > most {
					t.Errorf("tries again in %v", wait)
				}
			})
		})
	}
}

func TestHowAConnectionThatWasUpEnds(t *testing.T) {
	_, shutdown, _ := bytes.Cut(captures.Read(t, "esl-shutdown-sigterm.plain-all.esl"), []byte("enabled plain\n\n"))
	for _, test := range []struct {
		name   string
		script func(*peer) // after login
		reason esl.Reason
		after  time.Duration
		want   string
	}{
		{"FreeSWITCH is stopped", func(p *peer) { p.say(string(shutdown)) },
			esl.ReasonDisconnected, 0, " closed the connection: The system is being shut down."},
		{"mod_event_socket is reloaded", func(p *peer) {
			p.say("Content-Type: text/disconnect-notice\nContent-Length: 31\n\nThe system is being shut down.\n")
		}, esl.ReasonDisconnected, 0, " closed the connection: The system is being shut down."},
		{"its goodbye would move a terminal's cursor", func(p *peer) {
			p.say("Content-Type: text/disconnect-notice\nContent-Length: 15\n\n\x1b[2Jbye\x07\xff\u202e!\nx")
		}, esl.ReasonDisconnected, 0, " closed the connection: ?[2Jbye???!"},
		{"FreeSWITCH is killed", func(*peer) {}, esl.ReasonDisconnected, 0, " closed the connection: EOF"},
		{"FreeSWITCH is killed in the middle of an event", func(p *peer) { p.say("Content-Length: 100\n\nEvent-Na") },
			esl.ReasonDisconnected, 0, " closed the connection: unexpected EOF"},
		{"the host is gone", (*peer).hold, esl.ReasonSilent, 10 * time.Second, " is silent: no answer for 10s"},
		{"bytes come, and no frames", func(p *peer) {
			for range 10 {
				p.say("X: y\n")
				p.sleep(4 * time.Second)
			}
		}, esl.ReasonSilent, 32 * time.Second, " is silent: no answer: bytes, but no whole frame for 30s"},
		{"garbage", func(p *peer) { p.say("\x00\x01\x02\n"); p.hold() },
			esl.ReasonProtocol, 0, `: event socket protocol error: "\x00\x01\x02" is not a header line`},
		{"a huge frame", func(p *peer) { p.say("Content-Length: 1000000000\n\n"); p.hold() },
			esl.ReasonProtocol, 0, `: event socket protocol error: Content-Length "1000000000" is not a number from 0 to 16777216`},
		{"the address is denied now", func(p *peer) { p.say("Content-Type: text/rude-rejection\n\n"); p.hold() },
			esl.ReasonAddress, 0, " denied this address (apply-inbound-acl in event_socket.conf.xml)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, states := start(t, "fs:8021", esl.Options{
					Events: []string{"HEARTBEAT"},
					Dial:   scripted(t, func(p *peer) { p.login(1); test.script(p) }, (*peer).hold),
				})
				up, down := <-states, <-states
				if !up.Up || up.Err != nil || up.Connects != 1 || up.Peer == nil {
					t.Fatalf("up: %+v", up)
				}
				if down.Up || down.Err == nil || down.Err.Reason != test.reason || down.Peer != nil {
					t.Fatalf("down: %+v", down)
				}
				if got := down.Err.Error(); got != "event socket fs:8021"+test.want {
					t.Errorf("got  %s\nwant %s", got, "event socket fs:8021"+test.want)
				}
				if after := down.Since.Sub(up.Since); after != test.after {
					t.Errorf("noticed after %v, want %v", after, test.after)
				}
			})
		})
	}
}

func TestASilentPeerThatAnswersIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		client, _ := start(t, "fs:8021", esl.Options{Events: []string{"HEARTBEAT"}, Dial: scripted(t, func(p *peer) {
			p.login(1)
			for i := range 100 {
				p.expect("event plain HEARTBEAT")
				if asked := time.Since(began); asked != time.Duration(i+1)*5*time.Second {
					t.Errorf("asked after %v", asked)
				}
				p.reply("-ERR permission denied") // an answer too
			}
			p.hold()
		})})
		time.Sleep(500 * time.Second)
		synctest.Wait()
		if s := client.State(); !s.Up || s.Connects != 1 || len(s.Denied) > 0 {
			t.Errorf("state %+v", s)
		}
	})
}

func TestEachEventIsAskedForByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, states := start(t, "fs:8021", esl.Options{
			Events: []string{"HEARTBEAT", "SHUTDOWN"}, Subclasses: []string{"a::b", "c::d"}, Required: "a::b", LogLevel: 4,
			Dial: scripted(t, func(p *peer) {
				p.login(0)
				for _, exchange := range [][2]string{
					{"event plain HEARTBEAT", "+OK event listener enabled plain"},
					{"event plain SHUTDOWN", "-ERR permission denied"},
					{"event plain CUSTOM a::b", "+OK event listener enabled plain"},
					{"event plain CUSTOM c::d", "-ERR permission denied"},
					{"log 4", "-ERR permission denied"},
				} {
					p.expect(exchange[0])
					p.reply(exchange[1])
				}
				p.hold()
			}),
		})
		if s := <-states; !s.Up || !slices.Equal(s.Denied, []string{"SHUTDOWN", "c::d", "log"}) {
			t.Errorf("state %+v", s)
		}
	})
}

func TestEventsAndLogLinesArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		client, states := start(t, "fs:8021", esl.Options{
			OnEvent: func(ev *esl.Event) { got = append(got, string(ev.Get(0))) },
			OnLog:   func(l esl.Log) { got = append(got, fmt.Sprintf("%d %s %s %s", l.Level, l.File, l.Func, l.Text)) },
			Dial: scripted(t, func(p *peer) {
				p.login(0)
				p.say(eventFrame("FIRST"))
				p.say("\n\n" + eventFrame("SECOND"))
				p.say("Content-Type: log/data\nContent-Length: 4\nLog-Level: 4\nLog-File: f.c\nLog-Func: g\n\ntext")
				p.say("Content-Type: text/event-json\nContent-Length: 2\n\n{}")
				p.say("Content-Type: text/new\nContent-Length: 1\n\nx")
				p.say("Content-Type: command/reply\nReply-Text: +OK nobody asked\n\n")
				p.say("Content-Type: text/event-plain\nContent-Length: 20\n\nContent-Length: 99\n\n")
				p.say(eventFrame("THIRD"))
			}),
		})
		<-states
		<-states
		if want := []string{"FIRST", "SECOND", "4 f.c g text", "THIRD"}; !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		if client.Skipped() != 4 {
			t.Errorf("%d frames skipped", client.Skipped())
		}
	})
}

func TestALeastPrivilegeLoginIsUpWithItsAllowedEvents(t *testing.T) {
	fs := serveSwitch(t, fakeswitch.Options{User: "guard@example.org", AllowedEvents: []string{"sofia::register_failure"}, AllowedAPI: []string{"status"}})
	client, states := start(t, fs.Addr(), esl.Options{
		User:       "guard@example.org",
		Events:     []string{"HEARTBEAT"},
		Subclasses: []string{"sofia::register_failure", "sofia::register"},
		Required:   "sofia::register_failure",
		LogLevel:   4,
	})
	if s := <-states; !s.Up || !slices.Equal(s.Denied, []string{"HEARTBEAT", "sofia::register", "log"}) {
		t.Errorf("state %+v", s)
	}
	if _, err := client.API(t.Context(), "reloadxml", ""); err == nil || !strings.HasSuffix(err.Error(), ": -ERR permission denied") {
		t.Errorf("api: %v", err)
	}
}
