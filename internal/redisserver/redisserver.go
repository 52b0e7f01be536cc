// Package redisserver runs Debian's redis-server for tests, behind a proxy that can fail.
package redisserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fsban/internal/testenv"
)

// A tester is the part of *testing.T that Start uses.
type tester interface {
	Helper()
	Cleanup(func())
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// A Server is a redis-server of a test's own.
type Server struct {
	t      tester
	Dir    string // where it keeps its files; remove them to have it start empty
	Port   int
	Socket string
	args   []string
	cmd    *exec.Cmd
	done   chan struct{}
	out    *bytes.Buffer
}

// Start starts a server on loopback and on a unix socket, until the end of the test, which it makes a system test. args are
// options of redis-server.
func Start(t tester, args ...string) *Server {
	t.Helper()
	testenv.System(t, "redis-server")
	dir, err := os.MkdirTemp("", "fsredis") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatalf("%v", err)
	}
	s := &Server{t: t, Dir: dir, Socket: filepath.Join(dir, "s"), args: args}
	s.Port = int(netip.MustParseAddrPort(testenv.Address(t)).Port())
	err = s.start()
	t.Cleanup(func() {
		s.Kill()
		_ = os.RemoveAll(dir)
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}

// Addr is where it listens.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// Restart starts it again after Kill.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatalf("%v", err)
	}
}

func (s *Server) start() error {
	s.t.Helper()
	args := append([]string{
		"--port", strconv.Itoa(s.Port), "--bind", "127.0.0.1", "--unixsocket", s.Socket, "--unixsocketperm", "777",
		"--dir", s.Dir, "--save", "", "--appendonly", "no", "--enable-debug-command", "yes",
	}, s.args...)
	s.out = new(bytes.Buffer)
	s.cmd = exec.Command("redis-server", args...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("redis-server: %v", err)
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		defer close(done)
		_ = cmd.Wait()
	}(s.cmd, s.done)
	for range 12000 {
		conn, err := net.Dial("unix", s.Socket)
		if err == nil {
			_ = conn.Close()
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("redis-server has ended:\n%s", s.out)
		case <-time.After(10 * time.Millisecond):
		}
	}
	s.Kill() // which writes no more then
	return fmt.Errorf("redis-server does not answer:\n%s", s.out)
}

// Kill ends the server at once. Its data and its socket are lost.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
	_ = os.Remove(s.Socket)
}

// Pause has it stand still until Resume.
func (s *Server) Pause() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume has it go on.
func (s *Server) Resume() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// A Proxy passes connections on to a server, unless it is cut.
type Proxy struct {
	listener net.Listener
	mu       sync.Mutex
	to       string
	cut      bool
	slow     atomic.Int64
	conns    map[net.Conn]bool
	group    sync.WaitGroup
}

// NewProxy starts a proxy to the address, or unix socket, given.
func NewProxy(t tester, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	p := &Proxy{listener: l, to: to, conns: make(map[net.Conn]bool)}
	p.group.Go(p.serve)
	t.Cleanup(func() {
		_ = l.Close()
		p.Cut()
		p.group.Wait()
	})
	return p
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut ends all connections, and takes no new ones until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	p.drop()
}

// Heal takes connections again.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

// Slow has all that passes wait for so long, a piece at a time.
func (p *Proxy) Slow(d time.Duration) { p.slow.Store(int64(d)) }

// A slowly is where a piece arrives late.
type slowly struct {
	p  *Proxy
	to io.Writer
}

func (s slowly) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(s.p.slow.Load()))
	return s.to.Write(b)
}

// Redirect ends all connections; new ones go to another server.
func (p *Proxy) Redirect(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
	p.drop()
}

func (p *Proxy) drop() {
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) serve() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		network := "tcp"
		if filepath.IsAbs(p.to) {
			network = "unix"
		}
		var server net.Conn
		err = errors.New("cut")
		if !p.cut {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			server, err = new(net.Dialer).DialContext(ctx, network, p.to)
			cancel()
		}
		if err != nil {
			p.mu.Unlock()
			_ = conn.Close()
			continue
		}
		p.conns[conn], p.conns[server] = true, true
		p.mu.Unlock()
		pass := func(to, from net.Conn) {
			_, _ = io.Copy(slowly{p, to}, from)
			_, _ = to.Close(), from.Close()
		}
		p.group.Go(func() { pass(conn, server) })
		p.group.Go(func() { pass(server, conn) })
	}
}
