package esl

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/percipia/eslgo/command"
)

// Commands are what a session sent and what the replies to it are for: FreeSWITCH answers in the order in which it is
// asked, so a queue is all the bookkeeping there is. Any goroutine may send; only the session's own takes replies.
type commands struct {
	conn     net.Conn
	patience time.Duration // for a write: a peer that does not read cannot hold us

	writing sync.Mutex // puts commands in order; held while one is written, and taken before mu

	mu       sync.Mutex // guards what follows; never held while anything waits, for the reader takes it
	expected []expectation
	closed   error // why no more commands are sent
}

// maxExpected bounds the commands in flight: an api caller beyond it gets an error. What a session itself sends is bounded
// by its Options.
const maxExpected = 64

// An expectation is what to do with the reply to one command.
type expectation struct {
	subscribes string       // the event that the command asked for, or empty
	filters    bool         // the command narrowed the events
	reply      chan<- reply // for api; buffered, so that the reader never waits
}

type reply struct {
	body []byte
	err  error
}

var (
	errLineBreak = errors.New("a command with a line break in it was not sent")
	errBusy      = fmt.Errorf("%d commands wait for an answer", maxExpected)
)

// send writes one command and remembers what its reply is for. After a write that failed nobody could say which reply is
// whose, so it closes the connection.
func (c *commands) send(cmd command.Command, e expectation) error {
	message := cmd.BuildMessage()
	if strings.ContainsAny(message, "\r\n") {
		return errLineBreak
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.expect(e); err != nil {
		return err
	}
	err := c.conn.SetWriteDeadline(time.Now().Add(c.patience))
	if err == nil {
		_, err = c.conn.Write([]byte(message + "\n\n"))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: it does not take our commands", errSilent)
	}
	if err != nil {
		c.close(err)
		c.conn.Close()
	}
	return err
}

func (c *commands) expect(e expectation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed != nil:
		return ErrDown
	case e.reply != nil && len(c.expected) >= maxExpected:
		return errBusy
	}
	c.expected = append(c.expected, e)
	return nil
}

// next takes the oldest expectation off the queue.
func (c *commands) next() (e expectation, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.expected) == 0 {
		return expectation{}, false
	}
	e, c.expected = c.expected[0], c.expected[1:]
	return e, true
}

// unanswered returns how many commands wait for a reply.
func (c *commands) unanswered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.expected)
}

// close has every later command fail, and ends the wait of those who wait for a reply. The first cause stands.
func (c *commands) close(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil {
		c.closed = cause
	}
	for _, e := range c.expected {
		if e.reply != nil {
			e.reply <- reply{err: ErrDown}
		}
	}
	c.expected = nil
}

// cause returns why we closed the connection ourselves, if we did, and err otherwise.
func (c *commands) cause(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.closed != nil {
		return c.closed
	}
	return err
}
