package control

import (
	"context"
	"net"
	"sync"
	"time"
)

// How many connections of each role may be open, and how many strangers are answered a second. Beyond that a connection is
// closed at once, without a word, and counted. No role can take the places of another.
var places = [numRoles]int{stranger: 4, reader: 32, admin: 32}

const strangersPerSecond = 10

// A gate accepts connections within the limits of their roles.
type gate struct {
	net.Listener
	server *Server

	mu      sync.Mutex
	open    [numRoles]int
	answers int // of strangers, left
	since   time.Time
}

// A guest is a connection that was let in.
type guest struct {
	net.Conn
	peer  peer
	leave func()
}

// Accept returns the next guest.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if p, err := peerOf(c); err == nil {
			if is := g.server.access.Load().role(&p); g.enter(is, time.Now()) {
				return &guest{c, p, sync.OnceFunc(func() { g.leave(is) })}, nil
			}
		}
		g.server.dropped.Add(1)
		_ = c.Close()
	}
}

func (g *gate) enter(is role, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[is] >= places[is] {
		return false
	}
	if is == stranger {
		if now.Sub(g.since) >= time.Second {
			g.since, g.answers = now, strangersPerSecond
		}
		if g.answers == 0 {
			return false
		}
		g.answers--
	}
	g.open[is]++
	return true
}

func (g *gate) leave(is role) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open[is]--
}

// Close ends the connection and gives its place back.
func (c *guest) Close() error {
	c.leave()
	return c.Conn.Close()
}

type guestKey struct{}

// withGuest stores the peer of a connection in ctx.
func withGuest(ctx context.Context, c net.Conn) context.Context {
	if g, ok := c.(*guest); ok {
		return context.WithValue(ctx, guestKey{}, &g.peer)
	}
	return ctx
}
