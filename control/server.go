package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"fsban/internal/plainjson"
)

// daemon is the part of the daemon that a Server uses.
type daemon interface {
	Status(context.Context) (Status, error)
	Top(ctx context.Context, n int) (Top, error)
	Bans(ctx context.Context, p *Pick) ([]Ban, error)
	Ban(ctx context.Context, r BanRequest, by string) (Ban, error)
	Unban(ctx context.Context, p netip.Prefix, w Withdrawal, by string) (Ban, error)
	UnbanMany(ctx context.Context, r UnbanRequest, by string) (Unbanned, error)
	History(ctx context.Context, p *HistoryPick) ([]EndedBan, error)
	Why(ctx context.Context, addr netip.Addr) (AddressState, error)
	Allowed(ctx context.Context) ([]Allowance, error)
	Allow(ctx context.Context, r AllowRequest, by string) (Allowance, error)
	Disallow(ctx context.Context, p netip.Prefix, w Withdrawal, by string) (NeverBan, error)
	Held(ctx context.Context) ([]HeldBan, error)
	Release(ctx context.Context, p netip.Prefix, by string) (int, error)
	Discard(ctx context.Context, p netip.Prefix, by string) (int, error)
	Reload(ctx context.Context, by string) (Reload, error)
	Enforce(ctx context.Context, r EnforceRequest, by string) (Enforcement, error)
}

// A RefusedError is an answer of the daemon that says no: the request was understood and cannot be done.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

// maxRequest bounds a request's body, in bytes.
const maxRequest = 64 << 10

// A ConfigError says that a configuration file is wrong: nothing was changed.
type ConfigError struct{ Text string }

func (e *ConfigError) Error() string { return e.Text }

// A Server answers on a unix socket.
type Server struct {
	path    string
	version string
	daemon  daemon
	log     *slog.Logger

	access    atomic.Pointer[access]
	requests  [numRoles]atomic.Uint64 // answered; those of strangers are the refused ones
	dropped   atomic.Uint64           // connections that were not let in
	listening atomic.Bool
}

// NewServer returns a Server of that version for the socket at path. It opens nothing, and lets nobody in but root and our
// own user.
func NewServer(path, version string, d daemon, log *slog.Logger) *Server {
	s := &Server{path: path, version: version, daemon: d, log: log}
	s.access.Store(&access{self: os.Geteuid()})
	return s
}

// SetGroups grants two unix groups access, to read and to change; "": no group. It returns the problems of the groups: a missing
// group has no members.
func (s *Server) SetGroups(readers, admins string) (problems []string) {
	a := &access{s.access.Load().self, findGroup(readers), findGroup(admins)}
	s.access.Store(a)
	problems = a.problems()
	if s.listening.Load() {
		if err := s.setMode(); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if info, err := os.Stat(filepath.Dir(s.path)); err == nil && a.open() && info.Mode()&0o001 == 0 {
		problems = append(problems, fmt.Sprintf("control.readers, control.admins: not everybody can get into %s, so their members may not reach "+
			"the socket: chmod o+x", filepath.Dir(s.path)))
	}
	return problems
}

// Requests returns the numbers of answered requests of readers and admins, and of refused requests.
func (s *Server) Requests() (readers, admins, refused uint64) {
	return s.requests[reader].Load(), s.requests[admin].Load(), s.requests[stranger].Load()
}

// Dropped returns how many connections were closed at once, because as many as may be were open.
func (s *Server) Dropped() uint64 { return s.dropped.Load() }

// setMode sets the mode of the socket: open if a group has access, because access is decided for each connection.
func (s *Server) setMode() error {
	mode := fs.FileMode(0o600)
	if s.access.Load().open() {
		mode = 0o666
	}
	if err := os.Chmod(s.path, mode); err != nil {
		return fmt.Errorf("control socket (control.socket): %w", err)
	}
	return nil
}

// notMade explains why the socket could not be created, with the remedy if its directory is the cause.
func (s *Server) notMade(err error) error {
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("control socket (control.socket): %w: fsban must be able to write to %s", err, filepath.Dir(s.path))
	}
	return fmt.Errorf("control socket (control.socket): %w", err)
}

// Listen makes the socket. A dead one that an earlier run left is replaced; one that somebody answers on is an error.
func (s *Server) Listen() (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return nil, s.notMade(err)
	}
	l, err := net.Listen("unix", s.path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if info, statErr := os.Lstat(s.path); statErr == nil && info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("control socket (control.socket): %s is there, and is no socket", s.path)
		}
		conn, dialErr := net.DialTimeout("unix", s.path, time.Second)
		if dialErr == nil {
			_ = conn.Close()
		}
		if dialErr == nil || errors.Is(dialErr, syscall.EAGAIN) { // its queue is full, but it listens
			return nil, fmt.Errorf("control socket %s: another fsban is running", s.path)
		}
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, s.notMade(err)
		}
		l, err = net.Listen("unix", s.path)
	}
	if err != nil {
		return nil, s.notMade(err)
	}
	if err := s.setMode(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s.listening.Store(true)
	return l, nil
}

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(),
		ConnContext:       withGuest,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxRequest,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(&gate{Listener: l, server: s})
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return ctx.Err()
	}
	return fmt.Errorf("control socket %s: %w", s.path, err)
}

// handler answers the requests that the peer's role permits.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, req *http.Request) {
			body, err := r.do(s, w, req)
			answer(w, body, err)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusNotFound, apiError{s.unknown(r, fmt.Sprintf("%s %.100q", r.Method, r.URL.Path))})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(headerVersion, s.version)
		w.Header().Set(headerAPI, strconv.Itoa(apiVersion))
		p, known := r.Context().Value(guestKey{}).(*peer)
		if !known {
			p = &peer{uid: nobody}
		}
		a := s.access.Load()
		is := a.role(p)
		if is == stranger || is == reader && r.Method != http.MethodGet {
			s.requests[stranger].Add(1)
			w.Header().Set("Connection", "close")
			writeJSON(w, http.StatusForbidden, apiError{a.refusal(p, is)})
			return
		}
		s.requests[is].Add(1)
		mux.ServeHTTP(w, r)
	})
}

// nobody is the uid of a peer that the kernel does not identify.
const nobody = 1<<32 - 1

func answer(w http.ResponseWriter, body any, err error) {
	var refused *RefusedError
	var wrong *ConfigError
	var doubt *DoubtError
	text, isYAML := body.(yaml)
	switch {
	case err == nil && isYAML:
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(text)
	case err == nil:
		writeJSON(w, http.StatusOK, body)
	case errors.As(err, &wrong):
		writeJSON(w, http.StatusUnprocessableEntity, apiError{wrong.Text})
	case errors.As(err, &doubt):
		writeJSON(w, http.StatusPreconditionRequired, apiError{doubt.Text})
	case errors.As(err, &refused):
		writeJSON(w, http.StatusConflict, apiError{refused.Text})
	default:
		writeJSON(w, http.StatusServiceUnavailable, apiError{err.Error()})
	}
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(plainjson.Writer{Out: w}).Encode(body)
}
