package esl

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Options say how a Client logs in, what it asks for, and how patient it is. The zero value of each duration stands for
// the default beside it.
type Options struct {
	User     string // "user@domain" for a least-privilege login (userauth); empty for auth with the password alone
	Password string

	Fields     *Fields  // the event headers to keep
	Events     []string // native events, like HEARTBEAT
	Subclasses []string // subclasses of CUSTOM, each asked for by itself, so that one refusal does not take the others
	Required   string   // the subclass without which the login is of no use; empty: none
	LogLevel   int      // ask for log lines up to this level (4 is warning); 0 for none

	// Filtered are native events of which only some are wanted. With ALL among Events there is nothing to narrow: they are
	// not asked for.
	Filtered []Filtered

	// OnEvent, OnLog and OnState are called in the goroutine of Run, in the order of arrival. They must return at once.
	// The event or line is valid until they return.
	OnEvent func(*Event)
	OnLog   func(Log)
	OnState func(State)

	DialTimeout  time.Duration // 5s: for the connection to stand
	LoginTimeout time.Duration // 10s: for login and subscription
	Silence      time.Duration // 5s: without a byte for so long the peer is asked; without one for as long again it is dead
	RetryMin     time.Duration // 250ms: the pause after a first failure; doubled each time, with jitter
	RetryMax     time.Duration // 3s: the longest pause, before jitter: an attack does not wait
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
		{&o.Silence, 5 * time.Second},
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

// dialer has the kernel notice a peer that vanished without a word, within 15 seconds even when we have nothing to ask.
func dialer() *net.Dialer {
	return &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 2}}
}

// A State is what a Client is doing, as of Since.
type State struct {
	Up       bool      // logged in and subscribed: events arrive
	Since    time.Time // when Up last changed, or Err was last set
	Err      *Error    // why it is not up; nil when it is up or was never tried
	Retry    time.Time // when the next attempt comes; zero when up
	Connects uint64    // how often it came up
	Denied   []string  // what does not come: events that this login may not see or have filtered, "log" (none is Required)
	Allowed  []string  // what FreeSWITCH says this login may ask for, in its words; nil: everything, or never up
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
	next    *target            // for the next connection, if it is another
	end     context.CancelFunc // ends the connection, or the pause before the next
}

// A target is what a Client connects to, and how.
type target struct {
	addr string
	opts Options
}

// NewClient returns a Client of the event socket at addr (host:port). It starts nothing.
func NewClient(addr string, opts Options) *Client {
	return &Client{addr: addr, opts: opts.withDefaults()}
}

// State returns what the client is doing.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Skipped returns how many frames were skipped: of a content type that a Client does not ask for, replies that nobody asked
// for, and events whose own body is not as long as they say.
func (c *Client) Skipped() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skipped
}

// Change has the client connect to another address, or with other options, at once. A connection that stands is ended, and
// its last event has been handed out before the new one begins.
func (c *Client) Change(addr string, opts Options) {
	c.mu.Lock()
	c.next = &target{addr, opts.withDefaults()}
	end := c.end
	c.mu.Unlock()
	if end != nil {
		end()
	}
}

// turn begins with what Change has asked for. The context ends when it asks for something else, or with ctx.
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

// Run connects, reads and reconnects until ctx ends. It returns ctx's error, after every goroutine that it started.
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
	// A connection that was up for a while was a good one: the next failure is a first failure.
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
			c.session = s // together with Up: whoever sees that may call API
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

// change has f change the state, with the lock held, and tells it.
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

// API runs an api command of FreeSWITCH and returns its reply. It never blocks reading: the reply comes by way of Run.
func (c *Client) API(ctx context.Context, name, arguments string) ([]byte, error) {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return nil, ErrDown
	}
	return s.api(ctx, name, arguments)
}

// jitter spreads d over half of it to one and a half, so that many clients do not come back as one.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d+1)
}
