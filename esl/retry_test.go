package esl_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fsban/esl"
	"fsban/internal/fakeswitch"
)

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

func TestTheFirstRetryAfterAGoodConnectionIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		scripts := slices.Repeat([]func(*peer){func(*peer) {}}, 10)
		scripts = append(scripts, func(p *peer) { p.login(0); <-end }, func(p *peer) { p.login(0); p.hold() })
		_, states := start(t, "fs:8021", esl.Options{IdleTimeout: time.Hour, Dial: scripted(t, scripts...)})
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

func TestRunEndsWithItsContextInEveryState(t *testing.T) {
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

func TestAClosedPortIsRetried(t *testing.T) {
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

func TestChangeConnectsElsewhereAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialled []string
		to := func(scripts ...func(*peer)) func(context.Context, string, string) (net.Conn, error) {
			dial := scripted(t, scripts...)
			return func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialled = append(dialled, addr)
				return dial(ctx, network, addr)
			}
		}
		opts := esl.Options{IdleTimeout: time.Hour, RetryRefused: time.Hour, Dial: to(func(p *peer) { p.login(0); p.hold() })}
		client, states := start(t, "fs:8021", opts)
		if s := <-states; !s.Up {
			t.Fatalf("state %+v", s)
		}
		began := time.Now()
		opts.Password = "wrong"
		said := make(chan esl.State, 10)
		opts.OnState = func(s esl.State) { said <- s }
		opts.Dial = to(func(p *peer) {
			p.say("Content-Type: auth/request\n\n")
			p.expect("auth wrong")
			p.reply("-ERR invalid")
		})
		client.Reconfigure("other:8021", opts)
		if s := <-states; s.Up || s.Err != nil || s.Peer != nil {
			t.Errorf("the old connection ended with %+v", s)
		}
		if s := <-said; s.Up || s.Err == nil || s.Err.Reason != esl.ReasonPassword {
			t.Fatalf("state %+v", s)
		}
		// The pause is an hour now. A corrected password is tried at once.
		opts.Password = "ClueCon"
		opts.Dial = to(func(p *peer) { p.login(0); p.hold() })
		client.Reconfigure("other:8021", opts)
		if s := <-said; s.Up || s.Err != nil {
			t.Errorf("the pause ended with %+v", s)
		}
		if s := <-said; !s.Up || s.Connects != 2 {
			t.Errorf("state %+v", s)
		}
		if time.Since(began) != 0 || !slices.Equal(dialled, []string{"fs:8021", "other:8021", "other:8021"}) {
			t.Errorf("dialled %q within %v", dialled, time.Since(began))
		}
	})
}
