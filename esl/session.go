package esl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/percipia/eslgo/command"
)

// A session is one connection: login, subscription, then reading until its end.
type session struct {
	addr     string
	conn     net.Conn
	opts     *Options
	reader   *Reader
	event    *Event
	commands commands

	onUp   func()
	onSkip func()

	loginEnds time.Time // zero once up
	whole     bool      // a complete frame has arrived since lastFrame was set
	lastFrame time.Time // set by the read that follows a complete frame
	asked     bool      // an idle peer was probed and has not answered
	goodbye   string
	allowed   []string // nil: everything
	denied    []string
	filtered  []string // the events that are narrowed by filters
	unfit     bool     // a filter was refused
	awaited   int      // replies still to come: to the filters, then to the subscriptions
}

func newSession(addr string, conn net.Conn, opts *Options) *session {
	s := &session{addr: addr, conn: conn, opts: opts, event: NewEvent(opts.Fields), lastFrame: time.Now()}
	s.loginEnds = s.lastFrame.Add(opts.LoginTimeout)
	s.reader = NewReader(s)
	s.commands.conn, s.commands.patience = conn, opts.IdleTimeout
	return s
}

// run logs in, subscribes and reads to the end of the connection. The error is never nil.
func (s *session) run() *Error {
	if err := s.login(); err != nil {
		return err
	}
	if err := s.subscribe(); err != nil {
		return readError(s.addr, err, "")
	}
	for {
		f, err := s.reader.Next()
		if err != nil {
			return readError(s.addr, err, s.goodbye)
		}
		s.whole = true
		if err := s.take(f); err != nil {
			return err
		}
	}
}

// Read reads for the Reader: it bounds every wait, and probes a silent peer.
func (s *session) Read(p []byte) (int, error) {
	for {
		now := time.Now()
		if s.whole {
			s.whole, s.lastFrame = false, now
		}
		deadline := now.Add(s.opts.IdleTimeout)
		if !s.loginEnds.IsZero() {
			deadline = s.loginEnds
		} else if now.Sub(s.lastFrame) > 6*s.opts.IdleTimeout {
			return 0, fmt.Errorf("%w: bytes, but no whole frame for %v", errSilent, 6*s.opts.IdleTimeout)
		}
		_ = s.conn.SetReadDeadline(deadline) // fails on a closed connection, for which Read returns a better error
		n, err := s.conn.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			s.asked = false
			return n, s.commands.cause(err)
		}
		if !s.loginEnds.IsZero() {
			return 0, fmt.Errorf("%w to the login within %v", errSilent, s.opts.LoginTimeout)
		}
		if s.asked {
			return 0, fmt.Errorf("%w for %v", errSilent, 2*s.opts.IdleTimeout)
		}
		// Any answer, even a refusal, proves that the peer is alive. This command changes nothing and every FreeSWITCH has it.
		// It is unnecessary while other commands wait for a reply.
		s.asked = true
		if s.commands.unanswered() > 0 {
			continue
		}
		if err := s.commands.send(command.Event{Format: "plain", Listen: []string{"HEARTBEAT"}}, expectation{}); err != nil {
			return 0, s.commands.cause(err)
		}
	}
}

func (s *session) login() *Error {
	f, err := s.reader.Next()
	if err != nil {
		return readError(s.addr, err, "")
	}
	switch f.Type {
	case AuthRequest:
	case RudeRejection:
		return &Error{Addr: s.addr, Reason: ReasonAddress}
	default:
		return readError(s.addr, fmt.Errorf("%w: FreeSWITCH greets with auth/request, this with %.60q", ErrProtocol, f.Get("Content-Type")), "")
	}
	if err := s.commands.send(command.Auth{User: s.opts.User, Password: s.opts.Password}, expectation{}); err != nil {
		return readError(s.addr, err, "")
	}
	if f, err = s.reader.Next(); err != nil {
		// FreeSWITCH cuts its reply to userauth at 512 bytes, and with it the blank line that would end the frame.
		if s.opts.User != "" && errors.Is(err, errSilent) {
			err = fmt.Errorf("%w (esl-allowed-events and esl-allowed-api together must stay under 430 characters)", err)
		}
		return readError(s.addr, err, "")
	}
	s.commands.next()
	switch text := f.Get("Reply-Text"); {
	case f.Type == DisconnectNotice:
		return readError(s.addr, errors.New("before the login"), firstLine(f.Body))
	case f.Type != CommandReply:
		return readError(s.addr, fmt.Errorf("%w: the login was answered with %.60q", ErrProtocol, f.Get("Content-Type")), "")
	case !strings.HasPrefix(text, "+OK"):
		return &Error{Addr: s.addr, Reason: ReasonPassword}
	}
	s.allowed = allowedEvents(f.Get("Allowed-Events"))
	return nil
}

// allowedEvents splits the list of events in the reply to a least-privilege login as FreeSWITCH does: at spaces, or at commas
// if there is no space. A login without limits has no such header, or "all".
func allowedEvents(value string) []string {
	if value == "" || value == "all" {
		return nil
	}
	separator := ","
	if strings.Contains(value, " ") {
		separator = " "
	}
	return slices.DeleteFunc(strings.Split(value, separator), func(name string) bool { return name == "" })
}

// take handles one frame.
func (s *session) take(f *Frame) *Error {
	switch f.Type {
	case EventPlain:
		if err := s.event.Parse(f.Body); err != nil {
			s.onSkip() // the surrounding frames are intact, and a peer may have caused the content of the event
			return nil
		}
		if s.opts.OnEvent != nil {
			s.opts.OnEvent(s.event)
		}
	case LogData:
		if s.opts.OnLog != nil {
			s.opts.OnLog(ParseLog(f))
		}
	case CommandReply, APIResponse:
		return s.answer(f)
	case DisconnectNotice:
		s.goodbye = firstLine(f.Body)
	case RudeRejection:
		return &Error{Addr: s.addr, Reason: ReasonAddress}
	default:
		s.onSkip()
	}
	return nil
}

// answer assigns a reply to its command.
func (s *session) answer(f *Frame) *Error {
	e, ok := s.commands.next()
	if !ok {
		s.onSkip()
		return nil
	}
	text := f.Get("Reply-Text")
	refused := f.Type == CommandReply && strings.HasPrefix(text, "-ERR")
	switch {
	case e.reply != nil && refused:
		e.reply <- reply{err: fmt.Errorf("event socket %s: %s", s.addr, firstLine([]byte(text)))}
	case e.reply != nil:
		e.reply <- reply{body: bytes.Clone(f.Body)}
	case e.filters:
		s.unfit = s.unfit || !strings.HasPrefix(text, "+OK")
		if s.awaited--; s.awaited == 0 {
			if err := s.filtersAnswered(); err != nil {
				return readError(s.addr, err, "")
			}
		}
	case e.subscribes != "":
		if refused {
			if e.subscribes == s.opts.Required {
				return &Error{Addr: s.addr, Reason: ReasonPermission, Detail: e.subscribes}
			}
			s.denied = append(s.denied, e.subscribes)
		}
		s.awaited--
		s.upWhenAnswered()
	}
	return nil
}

// api runs an api command and waits for the reply to it.
func (s *session) api(ctx context.Context, name, arguments string) ([]byte, error) {
	answer := make(chan reply, 1)
	err := s.commands.send(command.API{Command: name, Arguments: arguments}, expectation{reply: answer})
	switch {
	case errors.Is(err, ErrDown):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("event socket %s: %w", s.addr, err)
	}
	select {
	case r := <-answer:
		return r.body, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// firstLine returns the first line of a notice, for a log line or a terminal: "Disconnected, goodbye.".
func firstLine(body []byte) string {
	line, _, _ := bytes.Cut(body, []byte("\n"))
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(string(line[:min(len(line), 120)]), "?"))
}
