package esl_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fsban/esl"
)

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

func TestAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready := make(chan struct{})
		client, states := start(t, "fs:8021", esl.Options{Dial: scripted(t, func(p *peer) {
			<-ready
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
		close(ready)
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
		// The late reply is discarded; the next one is ours.
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
		// No probe was sent, because replies were due already.
		if s := <-states; s.Err == nil || s.Err.Error() != "event socket fs:8021 is silent: no answer for 10s" {
			t.Errorf("state %+v", s)
		}
	})
}
