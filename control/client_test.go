package control

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// Without an answer the error names the cause and the remedy, as far as they are known.
func TestErrorsOfAClientWithoutADaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c := NewClient(path)
	defer c.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), path) {
		t.Errorf("nothing there: %v", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "fsban has closed the connection ("+path+")") {
		t.Errorf("closed at once: %v", err)
	}
}
