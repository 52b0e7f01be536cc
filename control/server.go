package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is what a Server needs of the daemon.
type daemon interface {
	Status(context.Context) (Status, error)
	Top(ctx context.Context, n int) (Top, error)
	Bans(ctx context.Context, evidence bool) ([]Ban, error)
	Ban(ctx context.Context, r BanRequest, by string) (Ban, error)
	Unban(ctx context.Context, p netip.Prefix, by string) (Ban, error)
	Why(ctx context.Context, addr netip.Addr) (Standing, error)
	Allow(ctx context.Context, r AllowRequest, by string) (NeverBan, error)
	Disallow(ctx context.Context, p netip.Prefix, by string) (NeverBan, error)
	Held(ctx context.Context) ([]HeldBan, error)
	Release(ctx context.Context, p netip.Prefix, by string) (int, error)
	Discard(ctx context.Context, p netip.Prefix, by string) (int, error)
}

// A RefusedError is an answer of the daemon that says no: the request was understood and cannot be done.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

// maxRequest bounds a request's body, in bytes.
const maxRequest = 64 << 10

// A Server answers on a unix socket.
type Server struct {
	path   string
	daemon daemon
	log    *slog.Logger
}

// NewServer returns a Server for the socket at path. It opens nothing.
func NewServer(path string, d daemon, log *slog.Logger) *Server {
	return &Server{path: path, daemon: d, log: log}
}

// Listen makes the socket. A dead one that an earlier run left is replaced; one that somebody answers on is an error.
func (s *Server) Listen() (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return nil, fmt.Errorf("control socket (control.socket): %w", err)
	}
	l, err := net.Listen("unix", s.path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if conn, dialErr := net.DialTimeout("unix", s.path, time.Second); dialErr == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("control socket %s: another fsban is running", s.path)
		}
		if err := os.Remove(s.path); err != nil {
			return nil, fmt.Errorf("control socket (control.socket): %w", err)
		}
		l, err = net.Listen("unix", s.path)
	}
	if err != nil {
		return nil, fmt.Errorf("control socket (control.socket): %w", err)
	}
	if err := os.Chmod(s.path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket (control.socket): %w", err), l.Close())
	}
	return l, nil
}

// Serve answers on l until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, r *http.Request) {
		status, err := s.daemon.Status(r.Context())
		answer(w, status, err)
	})
	mux.HandleFunc("GET "+pathTop, func(w http.ResponseWriter, r *http.Request) {
		n, err := rows(r)
		var top Top
		if err == nil {
			top, err = s.daemon.Top(r.Context(), n)
		}
		answer(w, top, err)
	})
	mux.HandleFunc("GET "+pathBans, func(w http.ResponseWriter, r *http.Request) {
		bans, err := s.daemon.Bans(r.Context(), r.URL.Query().Has("evidence"))
		answer(w, bans, err)
	})
	mux.HandleFunc("POST "+pathBans, func(w http.ResponseWriter, r *http.Request) {
		withBody(w, r, func(req BanRequest) (any, error) { return s.daemon.Ban(r.Context(), req, peerOf(r)) })
	})
	mux.HandleFunc("DELETE "+pathBans, func(w http.ResponseWriter, r *http.Request) {
		withPrefix(w, r, func(p netip.Prefix) (any, error) { return s.daemon.Unban(r.Context(), p, peerOf(r)) })
	})
	mux.HandleFunc("GET "+pathWhy, func(w http.ResponseWriter, r *http.Request) {
		withPrefix(w, r, func(p netip.Prefix) (any, error) { return s.daemon.Why(r.Context(), p.Addr()) })
	})
	mux.HandleFunc("POST "+pathAllow, func(w http.ResponseWriter, r *http.Request) {
		withBody(w, r, func(req AllowRequest) (any, error) { return s.daemon.Allow(r.Context(), req, peerOf(r)) })
	})
	mux.HandleFunc("DELETE "+pathAllow, func(w http.ResponseWriter, r *http.Request) {
		withPrefix(w, r, func(p netip.Prefix) (any, error) { return s.daemon.Disallow(r.Context(), p, peerOf(r)) })
	})
	mux.HandleFunc("GET "+pathHeld, func(w http.ResponseWriter, r *http.Request) {
		held, err := s.daemon.Held(r.Context())
		answer(w, held, err)
	})
	// Without a prefix these mean all of them.
	mux.HandleFunc("POST "+pathHeld, func(w http.ResponseWriter, r *http.Request) {
		withPrefix(w, r, func(p netip.Prefix) (any, error) { return s.daemon.Release(r.Context(), p, peerOf(r)) })
	})
	mux.HandleFunc("DELETE "+pathHeld, func(w http.ResponseWriter, r *http.Request) {
		withPrefix(w, r, func(p netip.Prefix) (any, error) { return s.daemon.Discard(r.Context(), p, peerOf(r)) })
	})
	srv := &http.Server{
		Handler:           onlyAdmins(mux),
		ConnContext:       withPeer,
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
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return ctx.Err()
	}
	return fmt.Errorf("control socket %s: %w", s.path, err)
}

// withBody answers with what do makes of the request's body.
func withBody[T any](w http.ResponseWriter, r *http.Request, do func(T) (any, error)) {
	var req T
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		answer(w, nil, &RefusedError{"request: " + err.Error()})
		return
	}
	body, err := do(req)
	answer(w, body, err)
}

// withPrefix answers with what do makes of the prefix in the query, or of the zero Prefix where there is none.
func withPrefix(w http.ResponseWriter, r *http.Request, do func(netip.Prefix) (any, error)) {
	var prefix netip.Prefix
	if r.URL.Query().Has("prefix") {
		var err error
		if prefix, err = netip.ParsePrefix(r.URL.Query().Get("prefix")); err != nil {
			answer(w, nil, &RefusedError{"request: " + err.Error()})
			return
		}
	}
	body, err := do(prefix)
	answer(w, body, err)
}

// How many addresses and users a Top has, unless the request says, and at most.
const (
	usualRows = 20
	maxRows   = 100
)

// rows returns how many are asked for.
func rows(r *http.Request) (int, error) {
	if !r.URL.Query().Has("n") {
		return usualRows, nil
	}
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || n < 1 || n > maxRows {
		return 0, &RefusedError{fmt.Sprintf("request: n is 1 to %d", maxRows)}
	}
	return n, nil
}

type peerKey struct{}

// withPeer remembers who is at the other end of a connection, as the kernel says it.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	if raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, cred)
}

func onlyAdmins(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred)
		if !ok || cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
			writeJSON(w, http.StatusForbidden, apiError{"only root may talk to fsban: use sudo"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func peerOf(r *http.Request) string {
	cred, ok := r.Context().Value(peerKey{}).(*unix.Ucred)
	if !ok {
		return "unknown"
	}
	return fmt.Sprintf("uid %d, pid %d", cred.Uid, cred.Pid)
}

func answer(w http.ResponseWriter, body any, err error) {
	var refused *RefusedError
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, body)
	case errors.As(err, &refused):
		writeJSON(w, http.StatusConflict, apiError{refused.Text})
	default:
		writeJSON(w, http.StatusServiceUnavailable, apiError{err.Error()})
	}
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}
