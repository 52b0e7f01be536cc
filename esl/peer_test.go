package esl_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"fsban/esl"
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

// scripted is an Options.Dial: the next script answers each connection, the last one all further connections.
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

// login accepts the login and answers n subscriptions.
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

// hold keeps the connection until the client disconnects. Commands are not answered.
func (p *peer) hold() {
	for range p.commands {
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

// serve runs handle for the first client of the returned address.
func serve(tb testing.TB, handle func(net.Conn)) (addr string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		handle(conn)
	}()
	tb.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

// greet answers a login and a subscription.
func greet(conn net.Conn) {
	_, _ = io.WriteString(conn, "Content-Type: auth/request\n\n")
	for _, answer := range []string{"+OK accepted", "+OK event listener enabled plain"} {
		readCommand(conn)
		_, _ = io.WriteString(conn, "Content-Type: command/reply\nReply-Text: "+answer+"\n\n")
	}
}

// readCommand reads one command and its blank line, and no further byte.
func readCommand(conn net.Conn) (text string) {
	for !strings.HasSuffix(strings.ReplaceAll(text, "\r", ""), "\n\n") {
		var c [1]byte
		if _, err := io.ReadFull(conn, c[:]); err != nil {
			return text
		}
		text += string(c[:])
	}
	return strings.TrimSpace(text)
}

// eventFrame returns the frame of an event with only a name.
func eventFrame(name string) string {
	body := "Event-Name: " + name + "\n\n"
	return fmt.Sprintf("Content-Length: %d\nContent-Type: text/event-plain\n\n%s", len(body), body)
}
