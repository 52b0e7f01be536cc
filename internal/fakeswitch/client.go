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

// What FreeSWITCH says at the start and at the end of a connection.
const (
	greeting  = "Content-Type: auth/request\n\n"
	goodbye   = "Content-Type: text/disconnect-notice\nContent-Length: 67\n\nDisconnected, goodbye.\nSee you at ClueCon! http://www.cluecon.com/\n"
	rejection = "Content-Type: text/rude-rejection\nContent-Length: 24\n\nAccess Denied, go away.\n" + goodbye
)

// How patient a Switch is.
const (
	loginTime = 25 * time.Second // for a login, as FreeSWITCH is
	writeTime = 10 * time.Second // for a client to take what waits for it
	leaveTime = 5 * time.Second  // for a client to hang up after we said goodbye
)

// A client is one connection: one goroutine reads commands, one writes what waits.
type client struct {
	s    *Switch
	conn *net.TCPConn
	wake chan struct{} // one token: something waits to be written
	done chan struct{} // closed when nobody reads any more

	// Guarded by the Switch's mutex.
	loggedIn  bool
	api       []string // the api commands that it may run; nil: everything
	wants     subscription
	waiting   []byte
	finishing bool // nothing more comes: write what waits, then hang up
}

// serve is one connection, to its end.
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

// send lets b wait to be written. The lock is held.
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

// rouse has the writer look at what waits.
func (c *client) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// drop cuts off a client that does not read. The lock is held.
func (c *client) drop() {
	c.finishing, c.waiting = true, nil
	c.s.dropped++
	c.conn.Close()
	c.s.notify()
}

// finish sends last, then hangs up. The lock is held.
func (c *client) finish(last []byte) {
	c.send(last)
	c.finishing = true
	c.rouse()
}

// write writes what waits, until the connection ends.
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
			// Only our half: closing with commands unread would reset the connection, and our last words would be lost.
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

// read reads and answers commands, until the connection ends. A command ends with a blank line; what stands between its
// first line and that (the headers of sendevent) is not used.
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

// answer answers one command. The lock is held.
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

// allowance is FreeSWITCH's reply to userauth. It has room for 510 bytes, and what does not fit is cut off, the blank line
// at the end included.
func (c *client) allowance() string {
	events, api := "all", "all"
	if c.wants.allowed != nil {
		var names, custom []string
		for _, name := range c.wants.allowed {
			switch {
			case name == "CUSTOM": // comes before the subclasses
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
	text, ok := c.s.replies[command]
	if !ok {
		text = fmt.Sprintf("-ERR %s Command not found!\n", name)
	}
	c.send(fmt.Appendf(nil, "Content-Type: api/response\nContent-Length: %d\n\n%s", len(text), text))
}

func (c *client) reply(text string) { c.send([]byte(reply(text))) }

// reply is the frame that answers a command.
func reply(text string) string { return "Content-Type: command/reply\nReply-Text: " + text + "\n\n" }
