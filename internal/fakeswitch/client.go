package fakeswitch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
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

// natives are the events that a client may ask for; FreeSWITCH has some more.
var natives = []string{
	"ALL", "CUSTOM", "HEARTBEAT", "SHUTDOWN", "STARTUP", "API", "BACKGROUND_JOB", "RELOADXML", "RE_SCHEDULE", "MODULE_LOAD",
	"MODULE_UNLOAD", "CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_HANGUP", "CHANNEL_HANGUP_COMPLETE", "CHANNEL_DESTROY",
}

// A client is one connection: one goroutine reads commands, one writes what waits.
type client struct {
	s    *Switch
	conn *net.TCPConn
	wake chan struct{} // one token: something waits to be written
	done chan struct{} // closed when nobody reads any more

	// Guarded by the Switch's mutex.
	loggedIn  bool
	allowed   []string // nil: everything
	api       []string // the same for api commands
	events    map[string]bool
	logging   bool
	waiting   []byte
	finishing bool // nothing more comes: write what waits, then hang up
}

// serve is one connection, to its end.
func (s *Switch) serve(ctx context.Context, conn *net.TCPConn) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c := &client{s: s, conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{}), events: make(map[string]bool)}
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
	verb, rest, _ := strings.Cut(command, " ")
	if !c.loggedIn {
		c.login(verb, rest)
		return
	}
	switch verb {
	case "event":
		c.reply(c.subscribe(strings.Fields(rest)))
	case "noevents":
		if len(c.events) == 0 {
			c.reply("-ERR not listening for events")
			return
		}
		clear(c.events)
		c.reply("+OK no longer listening for events")
	case "log":
		c.log(rest)
	case "nolog":
		if !c.logging {
			c.reply("-ERR not loging")
			return
		}
		c.logging = false
		c.reply("+OK no longer logging")
	case "api":
		c.run(strings.TrimSpace(rest))
	case "exit":
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
		c.allowed, c.api = o.AllowedEvents, o.AllowedAPI
		if c.allowed != nil {
			text = c.allowance()
		}
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

// allowance is FreeSWITCH's reply to a least-privilege login. It has room for 510 bytes, and what does not fit is cut
// off, the blank line at the end included.
func (c *client) allowance() string {
	var events []string
	custom := ""
	for _, name := range c.allowed {
		if slices.Contains(natives, name) {
			events = append(events, name)
		} else {
			custom += " " + name
		}
	}
	if custom != "" {
		events = append(events, "CUSTOM"+custom)
	}
	text := reply(fmt.Sprintf("+OK accepted\nAllowed-Events: %s\nAllowed-API: %s\nAllowed-LOG: false",
		strings.Join(events, " "), strings.Join(c.api, " ")))
	return text[:min(len(text), 510)]
}

// subscribe is `event plain NAME… CUSTOM SUBCLASS…`: what follows CUSTOM is a subclass, names that FreeSWITCH does not
// know are passed over, and the first one that is not allowed ends it.
func (c *client) subscribe(words []string) string {
	if len(words) == 0 || words[0] != "plain" {
		return "-ERR no keywords supplied"
	}
	known, custom := 0, false
	for _, name := range words[1:] {
		if !custom && !slices.Contains(natives, name) {
			continue
		}
		// CUSTOM itself is allowed to whoever may see any subclass.
		if c.allowed != nil && (name != "CUSTOM" || custom) && !slices.Contains(c.allowed, name) {
			return "-ERR permission denied"
		}
		known++
		if name == "CUSTOM" {
			custom = true
			continue
		}
		c.events[name] = true
	}
	if known == 0 {
		return "-ERR no keywords supplied"
	}
	c.s.notify()
	return "+OK event listener enabled plain"
}

// listens says whether c asked for an event, by its name or subclass. The lock is held.
func (c *client) listens(name string) bool { return c.events[name] || c.events["ALL"] }

func (c *client) log(level string) {
	if c.allowed != nil {
		c.reply("-ERR permission denied")
		return
	}
	n, err := strconv.Atoi(level)
	if err != nil || n < 0 || n > 7 {
		n = 7
	}
	c.logging = true
	c.reply(fmt.Sprintf("+OK log level %d [%d]", n, n))
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
