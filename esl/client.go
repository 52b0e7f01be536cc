package esl

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Options configure the login, the subscription and the timeouts of a Client. The zero value of each duration selects the
// default given in its comment.
type Options struct {
	User     string // "user@domain" for a least-privilege login (userauth); empty for auth with the password alone
	Password string

	Fields     *Fields  // the event headers to keep
	Events     []string // native events, like HEARTBEAT
	Subclasses []string // subclasses of CUSTOM, each subscribed separately, so that one refusal does not affect the others
	Required   string   // the subclass without which the login is useless; empty: none
	LogLevel   int      // subscribe to log lines up to this level (4 is warning); 0 for none

	// Filtered lists native events of which only some are wanted. It is ignored if Events contains ALL: then nothing can be
	// filtered.
	Filtered []Filtered

	// OnEvent, OnLog and OnState are called in the goroutine of Run, in the order of arrival. They must return at once.
	// The event or line is valid until they return.
	OnEvent func(*Event)
	OnLog   func(Log)
	OnState func(State)

	DialTimeout  time.Duration // bound of connecting
	LoginTimeout time.Duration // 10s: for login and subscription
	IdleTimeout  time.Duration // after this time without a byte the peer is probed; after as long again without one it is dead
	RetryMin     time.Duration // 250ms: the pause after a first failure; doubled each time, with jitter
	RetryMax     time.Duration // the longest pause, before jitter; short, because attacks continue meanwhile
	RetryRefused time.Duration // 60s: the pause after a refusal that only a changed setting can lift

	// Dial replaces the network, for tests.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		value *time.Duration
		or    time.Duration
	}{
		{&o.DialTimeout, 5 * time.Second},
		{&o.LoginTimeout, 10 * time.Second},
		{&o.IdleTimeout, 5 * time.Second},
		{&o.RetryMin, 250 * time.Millisecond},
		{&o.RetryMax, 3 * time.Second},
		{&o.RetryRefused, time.Minute},
	} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	if o.Fields == nil {
		o.Fields = NewFields("Event-Name", "Event-Subclass")
	}
	if o.Dial == nil {
		o.Dial = dialer().DialContext
	}
	return o
}

// dialer makes the kernel detect a peer that vanished silently, within 15 seconds even if there are no commands to send.
func dialer() *net.Dialer {
	return &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 2}}
}

// A State is the state of a Client, as of Since.
type State struct {
	Up       bool      // logged in and subscribed: events arrive
	Since    time.Time // when Up last changed, or Err was last set
	Err      *Error    // why it is not up; nil if it is up or was never tried
	Retry    time.Time // time of the next attempt; zero when up
	Connects uint64    // how often it came up
	Denied   []string  // missing events: refused to this login, or not filtered by FreeSWITCH; "log" for log lines
	Allowed  []string  // events allowed to this login, as reported by FreeSWITCH; nil: all, or never up
	Peer     net.Addr  // the other end, when up
}

// A Client keeps a connection to one event socket. Run does the work; the other methods may be called from any
// goroutine at any time.
type Client struct {
	addr string
	opts Options

	mu      sync.Mutex
	state   State
	session *session // nil unless up
	skipped uint64
	next    *target            // for the next connection, if it differs
	end     context.CancelFunc // ends the connection, or the pause before the next
}

// A target is an address with the options for it.
type target struct {
	addr string
	opts Options
}

// NewClient returns a Client of the event socket at addr (host:port). It starts no goroutine.
func NewClient(addr string, opts Options) *Client {
	return &Client{addr: addr, opts: opts.withDefaults()}
}

// State returns the state of the client.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Skipped returns the number of skipped frames: unexpected content types, replies without a command, and events whose own body
// does not have the stated length.
func (c *Client) Skipped() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skipped
}

// Reconfigure makes the client connect to another address, or with other options, at once. It ends the current connection, whose last
// event is delivered before the first of the new one.
func (c *Client) Reconfigure(addr string, opts Options) {
	c.mu.Lock()
	c.next = &target{addr, opts.withDefaults()}
	end := c.end
	c.mu.Unlock()
	if end != nil {
		end()
	}
}

// turn applies a pending Reconfigure. The context ends with the next one, or with ctx.
func (c *Client) turn(ctx context.Context) (_ context.Context, end context.CancelFunc, changed bool) {
	ctx, end = context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = end
	if changed = c.next != nil; changed {
		c.addr, c.opts, c.next = c.next.addr, c.next.opts, nil
	}
	return ctx, end, changed
}

// Run connects, reads and reconnects until ctx ends. It returns ctx's error, after every goroutine that it started has ended.
func (c *Client) Run(ctx context.Context) error {
	pause := c.opts.RetryMin
	for {
		turn, end, changed := c.turn(ctx)
		if changed {
			pause = c.opts.RetryMin
		}
		pause = c.attempt(turn, pause)
		ended := turn.Err() != nil
		end()
		err := ctx.Err()
		if ended || err != nil {
			c.change(func(s *State) { s.Up, s.Err, s.Retry, s.Peer = false, nil, time.Time{}, nil })
		}
		if err != nil {
			return err
		}
	}
}

// attempt is one connection, and the pause after it. It returns the pause after the next, should that one fail.
func (c *Client) attempt(ctx context.Context, pause time.Duration) time.Duration {
	err := c.once(ctx)
	if ctx.Err() != nil {
		return pause
	}
	// After a connection that was up for a while, the next failure is a first failure.
	if was := c.State(); was.Up && time.Since(was.Since) > c.opts.RetryMax {
		pause = c.opts.RetryMin
	}
	wait := jitter(pause)
	if err.Reason.Permanent() {
		wait = jitter(c.opts.RetryRefused)
	}
	c.change(func(s *State) { s.Up, s.Err, s.Retry, s.Peer = false, err, time.Now().Add(wait), nil })
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return min(2*pause, c.opts.RetryMax)
}

// once is one connection, from dial to its end. The error is never nil.
func (c *Client) once(ctx context.Context) *Error {
	dialCtx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
	conn, err := c.opts.Dial(dialCtx, "tcp", c.addr)
	cancel()
	if err != nil {
		return dialError(c.addr, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	opts := c.opts
	s := newSession(c.addr, conn, &opts)
	s.onSkip = func() {
		c.mu.Lock()
		c.skipped++
		c.mu.Unlock()
	}
	s.onUp = func() {
		c.change(func(st *State) {
			c.session = s // set together with Up: a caller that sees Up may call API
			st.Up, st.Err, st.Retry, st.Peer = true, nil, time.Time{}, conn.RemoteAddr()
			st.Denied, st.Allowed = s.denied, s.allowed
			st.Connects++
		})
	}
	defer func() {
		c.mu.Lock()
		c.session = nil
		c.mu.Unlock()
		s.commands.close(ErrDown)
	}()
	return s.run()
}

// change applies f to the state, with the lock held, and publishes the state.
func (c *Client) change(f func(*State)) {
	c.mu.Lock()
	f(&c.state)
	c.state.Since = time.Now()
	state := c.state
	c.mu.Unlock()
	if c.opts.OnState != nil {
		c.opts.OnState(state)
	}
}

// ErrDown is API's error when there is no connection.
var ErrDown = errors.New("event socket is not connected")

// API runs an api command of FreeSWITCH and returns its reply. It never blocks reading: Run receives the reply.
func (c *Client) API(ctx context.Context, name, arguments string) ([]byte, error) {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return nil, ErrDown
	}
	return s.api(ctx, name, arguments)
}

// jitter returns a random duration between half of d and one and a half, so that many clients do not reconnect at once.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d+1)
}
