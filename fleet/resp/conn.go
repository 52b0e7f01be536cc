package resp

import (
	"net"
	"syscall"
)

// conn is a connection with bounded replies.
type conn struct {
	net.Conn

	scanner *Scanner
	err     error
}

// NewConn returns c with bounded replies. A Read that meets a reply beyond the limits returns the bytes before the offending
// header, and then always the error. If c is a syscall.Conn, so is the result: the library checks idle connections by that.
func NewConn(c net.Conn, l Limits) net.Conn {
	bounded := &conn{Conn: c, scanner: NewScanner(l)}
	if s, ok := c.(syscall.Conn); ok {
		return struct {
			*conn
			syscall.Conn
		}{bounded, s}
	}
	return bounded
}

func (c *conn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	passed, bad := c.scanner.Scan(p[:n])
	if bad == nil {
		return n, err
	}
	if c.err = bad; passed > 0 {
		return passed, nil
	}
	return 0, bad
}
