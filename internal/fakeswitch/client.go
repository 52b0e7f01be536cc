package fakeswitch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Messages of FreeSWITCH at the start and the end of a connection.
const (
	greeting = "Content-Type: auth/request\n\n"
	goodbye  = "Content-Type: text/disconnect-notice\nContent-Length: 67\n\nDisconnected, goodbye.\nSee you at ClueCon! " +
		"http://www.cluecon.com/\n"
	rejection = "Content-Type: text/rude-rejection\nContent-Length: 24\n\nAccess Denied, go away.\n" + goodbye
)

// Time limits of a connection.
const (
	loginTime = 25 * time.Second // limit for a login, as in FreeSWITCH
	writeTime = 10 * time.Second // limit for one write to a client
	leaveTime = 5 * time.Second  // limit for the client to hang up after the disconnect notice
)

// A client is one connection. One goroutine reads commands, another writes queued bytes.
type client struct {
	s    *Switch
	conn *net.TCPConn
	wake chan struct{} // one token: output is queued
	done chan struct{} // closed when the reader has ended

	// Guarded by the Switch's mutex.
	loggedIn  bool
	api       []string // api commands that it may run; nil: all
	wants     subscription
	waiting   []byte
	finishing bool // no more output will be queued: write the queue, then hang up
}

// serve handles one connection until it ends.
func (s *Switch) serve(ctx context.Context, conn *net.TCPConn) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := &client{s: s, conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{}), wants: newSubscription()}
	s.mu.Lock()
	s.clients[c] = struct{}{}
	switch s.fault {
	case DenyAddress:
		c.finish([]byte(rejection))
	case Garbage:
		c.send(garbage())
	default:
		c.send([]byte(greeting))
	}
	s.notify()
	s.mu.Unlock()

	var writer sync.WaitGroup
	writer.Go(c.write)
	c.read()
	conn.Close()
	close(c.done)
	writer.Wait()

	s.mu.Lock()
	delete(s.clients, c)
	s.notify()
	s.mu.Unlock()
}

// send queues b for the client. The caller holds the lock.
func (c *client) send(b []byte) {
	switch {
	case c.finishing, c.s.fault == Silent:
		return
	case len(c.waiting)+len(b) > c.s.opts.Queue:
		c.drop()
		return
	}
	c.waiting = append(c.waiting, b...)
	c.rouse()
}

// rouse wakes the writer.
func (c *client) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// drop disconnects a client that does not read. The caller holds the lock.
func (c *client) drop() {
	c.finishing, c.waiting = true, nil
	c.s.dropped++
	c.conn.Close()
	c.s.notify()
}

// finish queues last and hangs up after the queue is written. The caller holds the lock.
func (c *client) finish(last []byte) {
	c.send(last)
	c.finishing = true
	c.rouse()
}

// write writes queued output until the connection ends.
func (c *client) write() {
	var spare []byte
	for {
		select {
		case <-c.done:
			return
		case <-c.wake:
		}
		c.s.mu.Lock()
		b, last, slow := c.waiting, c.finishing, c.s.fault == Slow
		c.waiting = spare[:0]
		c.s.mu.Unlock()
		if err := c.put(b, slow); err != nil {
			c.s.mu.Lock()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.drop()
			}
			c.s.mu.Unlock()
			return
		}
		if last {
			// Close the write side only: closing with unread commands would reset the connection and lose the last message.
			_ = c.conn.SetReadDeadline(time.Now().Add(leaveTime))
			_ = c.conn.CloseWrite()
			return
		}
		spare = b
	}
}

func (c *client) put(b []byte, slow bool) error {
	if !slow {
		_ = c.conn.SetWriteDeadline(time.Now().Add(writeTime))
		_, err := c.conn.Write(b)
		return err
	}
	ticker := time.NewTicker(tricklePause)
	defer ticker.Stop()
	for piece := range slices.Chunk(b, trickleBytes) {
		_ = c.conn.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := c.conn.Write(piece); err != nil {
			return err
		}
		select {
		case <-c.done:
			return net.ErrClosed
		case <-ticker.C:
		}
	}
	return nil
}

// read reads and answers commands until the connection ends. A command ends with a blank line; lines between its first line and
// the blank line (the headers of sendevent) are ignored.
func (c *client) read() {
	_ = c.conn.SetReadDeadline(time.Now().Add(loginTime))
	lines := bufio.NewScanner(c.conn)
	command := ""
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		switch {
		case line != "" && command == "":
			command = line
		case line == "" && command != "":
			c.s.mu.Lock()
			c.answer(command)
			c.s.mu.Unlock()
			command = ""
		}
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if !c.finishing && errors.Is(lines.Err(), os.ErrDeadlineExceeded) {
		_, _ = c.conn.Write([]byte(goodbye))
	}
}

// answer executes one command and queues its reply. The caller holds the lock.
func (c *client) answer(command string) {
	if c.finishing {
		return
	}
	verb, rest, more := strings.Cut(command, " ")
	verb = strings.ToLower(verb)
	if !c.loggedIn {
		c.login(verb, rest)
		return
	}
	switch {
	case verb == "event":
		c.reply(c.wants.event(strings.Fields(rest)))
		c.s.notify()
	case verb == "nixevent":
		c.reply(c.wants.nix(strings.Fields(rest)))
	case verb == "noevents":
		c.reply(c.wants.noEvents())
	case verb == "filter" && more:
		c.reply(c.wants.filter(rest))
	case verb == "log":
		c.reply(c.wants.log(rest))
		c.s.notify()
	case verb == "nolog":
		c.reply(c.wants.noLog())
	case verb == "api":
		c.run(strings.TrimSpace(rest))
	case verb == "exit":
		c.finish([]byte(reply("+OK bye") + goodbye))
	default:
		c.reply("-ERR command not found")
	}
}

func (c *client) login(verb, rest string) {
	o := &c.s.opts
	right := c.s.fault != RefusePassword
	text := reply("+OK accepted")
	switch verb {
	case "auth":
		right = right && rest == o.Password
	case "userauth":
		right = right && o.User != "" && rest == o.User+":"+o.Password
		c.wants.allowed, c.api = o.AllowedEvents, o.AllowedAPI
		c.wants.mayLog = o.AllowedEvents == nil || o.AllowedLog
		text = c.allowance()
	default:
		c.reply("-ERR command not found")
		return
	}
	if !right {
		c.finish([]byte(reply("-ERR invalid") + goodbye))
		return
	}
	c.loggedIn = true
	_ = c.conn.SetReadDeadline(time.Time{})
	c.send([]byte(text))
}

// allowance returns FreeSWITCH's reply to userauth: its buffer holds 510 bytes, and the rest is cut off, including the final
// blank line.
func (c *client) allowance() string {
	events, api := "all", "all"
	if c.wants.allowed != nil {
		var names, custom []string
		for _, name := range c.wants.allowed {
			switch {
			case name == "CUSTOM": // precedes the subclasses
			case slices.Contains(natives, name):
				names = append(names, name)
			default:
				custom = append(custom, name)
			}
		}
		if len(custom) > 0 {
			names = append(append(names, "CUSTOM"), custom...)
		}
		events = strings.Join(names, " ")
	}
	if c.api != nil {
		api = strings.Join(c.api, " ")
	}
	text := reply(fmt.Sprintf("+OK accepted\nAllowed-Events: %s\nAllowed-API: %s\nAllowed-LOG: %v", events, api, c.wants.mayLog))
	return text[:min(len(text), 510)]
}

func (c *client) run(command string) {
	name, _, _ := strings.Cut(command, " ")
	if c.api != nil && !slices.Contains(c.api, name) {
		c.reply("-ERR permission denied")
		return
	}
	if len(c.s.ran) < maxRan {
		c.s.ran = append(c.s.ran, command)
	}
	text, ok := c.s.replies[command]
	if !ok {
		text = fmt.Sprintf("-ERR %s Command not found!\n", name)
	}
	c.send(fmt.Appendf(nil, "Content-Type: api/response\nContent-Length: %d\n\n%s", len(text), text))
}

func (c *client) reply(text string) { c.send([]byte(reply(text))) }

// reply returns the frame of a command's reply.
func reply(text string) string { return "Content-Type: command/reply\nReply-Text: " + text + "\n\n" }
