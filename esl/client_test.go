package esl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fsban/esl"
	"fsban/internal/captures"
	"fsban/internal/fakeswitch"
)

// start runs a Client for as long as the test lasts. Its states arrive on the channel.
func start(t *testing.T, addr string, o esl.Options) (*esl.Client, <-chan esl.State) {
	t.Helper()
	states := make(chan esl.State, 1000)
	o.OnState = func(s esl.State) { states <- s }
	if o.Password == "" {
		o.Password = "ClueCon"
	}
	client := esl.NewClient(addr, o)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- client.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		if s := client.State(); s.Up || s.Err != nil || s.Peer != nil || !s.Retry.IsZero() {
			t.Errorf("after Run: %+v", s)
		}
	})
	return client, states
}

// A peer is the other end of a connection, as a test scripts it.
type peer struct {
	net.Conn
	t        *testing.T
	commands chan string // as they come; closed at the end
}

// scripted is an Options.Dial: each connection is answered by the next script; the last one answers all that follow.
func scripted(t *testing.T, scripts ...func(*peer)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		ours, theirs := net.Pipe()
		p := &peer{theirs, t, make(chan string, 1000)}
		go func() {
			defer close(p.commands)
			for {
				command := readCommand(theirs)
				if command == "" {
					return
				}
				p.commands <- command
			}
		}()
		script := scripts[0]
		scripts = scripts[min(1, len(scripts)-1):]
		go func() {
			defer theirs.Close()
			script(p)
		}()
		return ours, nil
	}
}

func (p *peer) say(text string) { _, _ = io.WriteString(p, text) }

func (p *peer) reply(text string) { p.say("Content-Type: command/reply\nReply-Text: " + text + "\n\n") }

func (p *peer) expect(want string) {
	if got := <-p.commands; got != want {
		p.t.Errorf("the client sent %q, want %q", got, want)
	}
}

// login lets the client in and answers n subscriptions.
func (p *peer) login(n int) {
	p.say("Content-Type: auth/request\n\n")
	p.expect("auth ClueCon")
	p.reply("+OK accepted")
	for range n {
		<-p.commands
		p.reply("+OK event listener enabled plain")
	}
}

func (p *peer) sleep(d time.Duration) {
	select {
	case <-p.t.Context().Done():
	case <-time.After(d):
	}
}

// hold keeps the connection until the client hangs up. Commands are not answered.
func (p *peer) hold() {
	for range p.commands {
	}
}

const goodbye = "Content-Type: text/disconnect-notice\nContent-Length: 67\n\nDisconnected, goodbye.\nSee you at ClueCon! http://www.cluecon.com/\n"

func TestWhyAConnectionFails(t *testing.T) {
	denied := captures.Read(t, "esl-acl-denied.raw")
	for _, test := range []struct {
		name      string
		opts      esl.Options
		script    func(*peer)
		reason    esl.Reason
		permanent bool
		want      string // after "event socket fs:8021"
	}{
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
	} {
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

func TestAPeerThatDoesNotReadIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, states := start(t, "fs:8021", esl.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				_, _ = io.WriteString(theirs, "Content-Type: auth/request\n\n")
				readCommand(theirs)
				_, _ = io.WriteString(theirs, "Content-Type: command/reply\nReply-Text: +OK accepted\n\n")
				<-t.Context().Done()
				theirs.Close()
			}()
			return ours, nil
		}})
		<-states
		_, err := client.API(t.Context(), "status", "")
		if want := "event socket fs:8021: no answer: it does not take our commands"; err == nil || err.Error() != want {
			t.Errorf("API: %v", err)
		}
		if s := <-states; s.Err == nil || s.Err.Error() != "event socket fs:8021 is silent: no answer: it does not take our commands" {
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

func TestWhatArrives(t *testing.T) {
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

func TestAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, states := start(t, "fs:8021", esl.Options{Dial: scripted(t, func(p *peer) {
			p.login(0)
			for command := range p.commands {
				switch name := strings.TrimPrefix(command, "api "); name {
				case "reloadxml":
					p.reply("-ERR permission denied")
				case "slow":
					p.sleep(3 * time.Second)
					p.say("Content-Type: api/response\nContent-Length: 5\n\nlate\n")
				default:
					p.say(fmt.Sprintf("Content-Type: api/response\nContent-Length: %d\n\n%s", len(name), name))
				}
			}
		})})
		if _, err := client.API(t.Context(), "status", ""); !errors.Is(err, esl.ErrDown) {
			t.Errorf("before the login: %v", err)
		}
		<-states
		for _, test := range []struct{ name, arguments, want, err string }{
			{"status", "", "status", ""},
			{"sofia", "status profile internal", "sofia status profile internal", ""},
			{"reloadxml", "", "", "event socket fs:8021: -ERR permission denied"},
			{"status", "x\n\nexit", "", "event socket fs:8021: a command with a line break in it was not sent"},
			{"status\r\n", "", "", "event socket fs:8021: a command with a line break in it was not sent"},
		} {
			got, err := client.API(t.Context(), test.name, test.arguments)
			if string(got) != test.want || (err != nil || test.err != "") && fmt.Sprint(err) != test.err {
				t.Errorf("%s %q: %q, %v", test.name, test.arguments, got, err)
			}
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.API(ctx, "slow", ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("slow: %v", err)
		}
		// The late reply is nobody's; the next one is ours.
		if got, err := client.API(t.Context(), "status", ""); string(got) != "status" {
			t.Errorf("after a late reply: %q, %v", got, err)
		}

		var callers sync.WaitGroup
		for i := range 50 {
			callers.Go(func() {
				want := fmt.Sprintf("echo %d", i)
				if got, err := client.API(t.Context(), "echo", fmt.Sprint(i)); string(got) != want {
					t.Errorf("%s: %q, %v", want, got, err)
				}
			})
		}
		callers.Wait()
	})
}

func TestAPICallersDoNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, states := start(t, "fs:8021", esl.Options{Dial: scripted(t, func(p *peer) {
			p.login(0)
			p.hold()
		}, (*peer).hold)})
		<-states
		errs := make(chan error, 65)
		for range 65 {
			go func() {
				_, err := client.API(t.Context(), "status", "")
				errs <- err
			}()
		}
		if err := <-errs; err == nil || err.Error() != "event socket fs:8021: 64 commands wait for an answer" {
			t.Errorf("one too many: %v", err)
		}
		for range 64 {
			if err := <-errs; !errors.Is(err, esl.ErrDown) {
				t.Errorf("at the end of the connection: %v", err)
			}
		}
		// Nothing was asked, for answers were due anyway.
		if s := <-states; s.Err == nil || s.Err.Error() != "event socket fs:8021 is silent: no answer for 10s" {
			t.Errorf("state %+v", s)
		}
	})
}

func TestRetriesBackOffWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials []time.Time
		_, states := start(t, "fs:8021", esl.Options{
			RetryMin: time.Second, RetryMax: 10 * time.Second,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				dials = append(dials, time.Now())
				return nil, errors.New("refused")
			},
		})
		for range 200 {
			if s := <-states; s.Err.Error() != "connect to event socket fs:8021: refused" || s.Err.Reason != esl.ReasonUnreachable {
				t.Fatalf("state %+v", s)
			}
		}
		least, most := time.Hour, time.Duration(0)
		for i, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
			if got := dials[i+1].Sub(dials[i]); got < pause/2 || got > pause*3/2 {
				t.Errorf("pause %d: %v", i+1, got)
			}
		}
		for i := 5; i < len(dials); i++ {
			got := dials[i].Sub(dials[i-1])
			least, most = min(least, got), max(most, got)
		}
		if least < 5*time.Second || most > 15*time.Second || most-least < 5*time.Second {
			t.Errorf("the longest pause is between %v and %v", least, most)
		}
	})
}

func TestTheFirstRetryAfterAGoodConnectionComesSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		scripts := slices.Repeat([]func(*peer){func(*peer) {}}, 10)
		scripts = append(scripts, func(p *peer) { p.login(0); <-end }, func(p *peer) { p.login(0); p.hold() })
		_, states := start(t, "fs:8021", esl.Options{Silence: time.Hour, Dial: scripted(t, scripts...)})
		for range 10 {
			if s := <-states; s.Up {
				t.Fatalf("state %+v", s)
			}
		}
		if s := <-states; !s.Up {
			t.Fatalf("state %+v", s)
		}
		time.Sleep(time.Minute)
		close(end)
		s := <-states
		if wait := s.Retry.Sub(s.Since); wait > 375*time.Millisecond {
			t.Errorf("waits %v", wait)
		}
		if s := <-states; !s.Up || s.Connects != 2 {
			t.Errorf("state %+v", s)
		}
	})
}

func TestADialThatTakesTooLongIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, states := start(t, "fs:8021", esl.Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
		}})
		s := <-states
		if s.Err.Error() != "connect to event socket fs:8021: timed out" || s.Since.Sub(began) != 5*time.Second {
			t.Errorf("after %v: %v", s.Since.Sub(began), s.Err)
		}
	})
}

func TestRunEndsWithItsContextWhateverItDoes(t *testing.T) {
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
	for name, dial := range map[string]func(*testing.T) func(context.Context, string, string) (net.Conn, error){
		"dialling": func(*testing.T) func(context.Context, string, string) (net.Conn, error) {
			return func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		},
		"waiting for a login": func(t *testing.T) func(context.Context, string, string) (net.Conn, error) {
			return scripted(t, (*peer).hold)
		},
		"reading": func(t *testing.T) func(context.Context, string, string) (net.Conn, error) {
			return scripted(t, func(p *peer) { p.login(0); p.hold() })
		},
		"pausing": func(*testing.T) func(context.Context, string, string) (net.Conn, error) { return refuse },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				client := esl.NewClient("fs:8021", esl.Options{Password: "ClueCon", Dial: dial(t)})
				ran := make(chan error)
				go func() { ran <- client.Run(ctx) }()
				synctest.Wait()
				began := time.Now()
				cancel()
				if err := <-ran; !errors.Is(err, context.Canceled) || time.Since(began) > 0 {
					t.Errorf("%v after %v", err, time.Since(began))
				}
				if s := client.State(); s.Up || s.Err != nil {
					t.Errorf("state %+v", s)
				}
				if _, err := client.API(t.Context(), "status", ""); !errors.Is(err, esl.ErrDown) {
					t.Errorf("API: %v", err)
				}
			})
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, states := start(t, addr, esl.Options{})
	if s := <-states; s.Err.Error() != "connect to event socket "+addr+": connection refused" {
		t.Errorf("state %+v", s)
	}
}

// serveSwitch serves a fake FreeSWITCH for as long as the test lasts.
func serveSwitch(t *testing.T, o fakeswitch.Options) *fakeswitch.Switch {
	t.Helper()
	fs := fakeswitch.New(o)
	if err := fs.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- fs.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return fs
}

func TestAConnectionSurvivesEveryEndOfFreeSWITCH(t *testing.T) {
	fs := serveSwitch(t, fakeswitch.Options{})
	subclasses := make(chan string, 100)
	client, states := start(t, fs.Addr(), esl.Options{
		Events:     []string{"HEARTBEAT"},
		Subclasses: []string{"sofia::register_failure"},
		Fields:     esl.NewFields("Event-Subclass"),
		OnEvent:    func(ev *esl.Event) { subclasses <- string(ev.Get(0)) },
		RetryMin:   time.Millisecond,
		RetryMax:   time.Millisecond,
	})
	for i, how := range []fakeswitch.Ending{fakeswitch.Shutdown, fakeswitch.Reload, fakeswitch.Kill, fakeswitch.HalfFrame, fakeswitch.Reset} {
		if s := <-states; !s.Up || s.Connects != uint64(i+1) || s.Peer.String() != fs.Addr() {
			t.Fatalf("%s: %+v", how, s)
		}
		fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{}, time.Now())
		if got := <-subclasses; got != "sofia::register_failure" {
			t.Errorf("%s: event %q", how, got)
		}
		if reply, err := client.API(t.Context(), "status", ""); !strings.HasPrefix(string(reply), "UP ") {
			t.Errorf("%s: api %q, %v", how, reply, err)
		}
		fs.End(how)
		if s := <-states; s.Up || s.Err == nil || s.Err.Reason != esl.ReasonDisconnected || strings.Count(s.Err.Error(), fs.Addr()) != 1 {
			t.Errorf("%s: %+v", how, s)
		}
	}
	if s := <-states; !s.Up {
		t.Errorf("at the end: %+v", s)
	}
}

func TestALeastPrivilegeLoginIsUpWithWhatItMaySee(t *testing.T) {
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
