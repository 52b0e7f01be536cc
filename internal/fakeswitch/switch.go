// Package fakeswitch simulates a FreeSWITCH: it serves the inbound event socket over TCP and replays recordings of a real
// FreeSWITCH with other callers and times. It misbehaves on request, as networks and servers do.
//
// Tests and cmd/fsban-demo use it. Replies are those of FreeSWITCH 1.11; events have the plain format only.
package fakeswitch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Options are the login and permissions of a Switch. The zero value is a stock FreeSWITCH: password ClueCon, everything
// allowed.
type Options struct {
	Password      string        // ClueCon when empty
	User          string        // "user@domain" that may log in with userauth and the same password; empty: none
	AllowedEvents []string      // natives and subclasses that this user may receive; nil: all, and the log
	AllowedLog    bool          // with AllowedEvents: the log is allowed too
	AllowedAPI    []string      // api commands that this user may run; nil: all
	Heartbeat     time.Duration // interval of HEARTBEAT events; 0: none
	Queue         int           // bound in bytes of one client's output queue; a client beyond it is dropped; 64 MiB if 0
}

// A Switch is a simulated FreeSWITCH. Its methods may be called from any goroutine, before and during Serve.
type Switch struct {
	opts Options

	mu       sync.Mutex
	listener net.Listener
	addr     string // of the latest listener
	clients  map[*client]struct{}
	changed  chan struct{} // closed and replaced on each change that a Wait method waits for
	fault    Fault
	replies  map[string]string
	ran      []string // api commands, at most maxRan
	sequence uint64
	dropped  uint64
}

// New returns a Switch that is not yet listening.
func New(o Options) *Switch {
	if o.Password == "" {
		o.Password = "ClueCon"
	}
	if o.Queue == 0 {
		o.Queue = 64 << 20
	}
	return &Switch{
		opts:    o,
		clients: make(map[*client]struct{}),
		changed: make(chan struct{}),
		replies: map[string]string{
			"status":                  string(mustRead("api-status.txt")),
			"sofia xmlstatus gateway": "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>\n<gateways>\n</gateways>\n",
			"version": "FreeSWITCH Version 1.11.3-dev+git~20260821T141014Z~cc93a683ca~64bit (git cc93a68 2026-08-21 " +
				"14:10:14Z 64bit)\n",
		},
	}
}

// Listen opens the event socket at addr (host:port; port 0 for any). After CloseListener it opens it again.
func (s *Switch) Listen(addr string) error {
	l, err := listen(addr)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		l.Close()
		return fmt.Errorf("listen on %s: listening on %s already", addr, s.addr)
	}
	s.listener, s.addr = l, l.Addr().String()
	s.notify()
	return nil
}

// listen retries for up to five seconds while addr is in use: a child process that another goroutine forks keeps a closed
// listener open until its exec.
func listen(addr string) (net.Listener, error) {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l, err := net.Listen("tcp", addr)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
	}
}

// CloseListener stops listening. Existing connections stay open.
func (s *Switch) CloseListener() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		s.listener.Close()
		s.listener = nil
	}
}

// Addr returns the address (host:port) of the latest Listen, or "" before it.
func (s *Switch) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Serve serves clients until ctx ends and returns ctx's error after all its goroutines have ended.
func (s *Switch) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	defer context.AfterFunc(ctx, s.CloseListener)()
	defer s.CloseListener()

	if s.opts.Heartbeat > 0 {
		running.Go(func() { s.beat(ctx) })
	}
	for {
		var l net.Listener
		if err := s.wait(ctx, func() bool { l = s.listener; return l != nil }); err != nil {
			return err
		}
		conn, err := l.Accept()
		switch {
		case err == nil:
			running.Go(func() { s.serve(ctx, conn.(*net.TCPConn)) })
		case !errors.Is(err, net.ErrClosed):
			cancel()
			return fmt.Errorf("accept on %s: %w", s.Addr(), err)
		}
	}
}

func (s *Switch) beat(ctx context.Context) {
	ticker := time.NewTicker(s.opts.Heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-ticker.C:
			s.Emit(Heartbeat, Caller{}, at)
		}
	}
}

// Emit sends the events and log lines of a situation to every subscribed client. It never waits for a client: see Dropped.
func (s *Switch) Emit(sit Situation, c Caller, at time.Time) { s.tell(recordingOf(sit).told(c, at)) }

// EmitCustom sends a CUSTOM event of any subclass: FreeSWITCH's own headers, then headers, each a name and a value.
func (s *Switch) EmitCustom(subclass string, at time.Time, headers ...[2]string) {
	s.tell(customEvent(subclass, headers).told(Caller{}, at))
}

func (s *Switch) tell(t telling) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range t.recording.events {
		s.sequence++
		t.sequence = s.sequence
		frame := t.appendEvent(nil, e)
		for c := range s.clients {
			if c.wants.asks(e.name, e.subclass) && c.wants.passes(func(name string) (string, bool) { return t.header(e, name) }) {
				c.send(frame)
			}
		}
	}
	for _, l := range t.recording.logs {
		frame := t.appendLog(nil, l)
		for c := range s.clients {
			if c.wants.logLevel >= l.level {
				c.send(frame)
			}
		}
	}
}

// EmitRaw sends bytes unchanged to every client that is logged in.
func (s *Switch) EmitRaw(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if c.loggedIn {
			c.send(b)
		}
	}
}

// SetReply sets the reply to `api command`, with command including its arguments. status, version and sofia xmlstatus gateway
// (none) have default replies.
func (s *Switch) SetReply(command, reply string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replies[command] = reply
}

// maxRan bounds the api commands that are remembered.
const maxRan = 1000

// Ran returns the first api commands that clients have run, with their arguments.
func (s *Switch) Ran() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ran)
}

// Clients returns the number of connected clients, logged in or not.
func (s *Switch) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.clients)
}

// Dropped returns the number of clients disconnected because they did not read their output.
func (s *Switch) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// WaitClients waits until n clients are connected.
func (s *Switch) WaitClients(ctx context.Context, n int) error {
	return s.wait(ctx, func() bool { return len(s.clients) == n })
}

// WaitSubscribed waits until a client is subscribed to all of names: natives, subclasses, and "log" for log lines of any level.
// Without names, it waits for any subscription.
func (s *Switch) WaitSubscribed(ctx context.Context, names ...string) error {
	return s.wait(ctx, func() bool {
		for c := range s.clients {
			ready := c.wants.listening && !c.finishing
			for _, name := range names {
				ready = ready && c.wants.hears(name)
			}
			if ready {
				return true
			}
		}
		return false
	})
}

// wait waits until ready, which is called with the lock held.
func (s *Switch) wait(ctx context.Context, ready func() bool) error {
	for ctx.Err() == nil {
		s.mu.Lock()
		ok, changed := ready(), s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return ctx.Err()
}

// notify wakes the Wait methods. The caller holds the lock.
func (s *Switch) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}
