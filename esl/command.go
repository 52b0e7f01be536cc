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

// Commands queues the handling of replies to the commands of a session: FreeSWITCH answers in the order of the commands, so a
// queue is sufficient. Any goroutine may send; only the session's own takes replies.
type commands struct {
	conn     net.Conn
	patience time.Duration // bound of a write: a peer that does not read cannot block us

	writing sync.Mutex // puts commands in order; held while one is written, and taken before mu

	mu       sync.Mutex // guards the fields below; never held during a wait, because the reader takes it
	expected []expectation
	closed   error // why no more commands are sent
}

// maxExpected bounds the commands in flight: beyond it, an api caller gets an error. Options bound the commands of the session
// itself.
const maxExpected = 64

// An expectation is the handling of the reply to one command.
type expectation struct {
	subscribes string       // the event that the command subscribes to, or empty
	filters    bool         // the command adds a filter
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

// send writes one command and queues the handling of its reply. After a failed write, replies could not be assigned to commands, so it
// closes the connection.
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

// next removes the oldest expectation from the queue.
func (c *commands) next() (e expectation, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.expected) == 0 {
		return expectation{}, false
	}
	e, c.expected = c.expected[0], c.expected[1:]
	return e, true
}

// unanswered returns the number of commands without a reply.
func (c *commands) unanswered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.expected)
}

// close makes later commands fail, and ends all waits for replies. The first cause is kept.
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

// cause returns why we closed the connection ourselves, or err if we did not.
func (c *commands) cause(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.closed != nil {
		return c.closed
	}
	return err
}
