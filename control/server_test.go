package control

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"log/slog"

	"golang.org/x/sys/unix"
)

func TestOnlyRootAndTheDaemonsOwnUserAreLetIn(t *testing.T) {
	handler := onlyAdmins(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, peerOf(r)) }))
	for _, tc := range []struct {
		name string
		cred *unix.Ucred
		code int
		body string
	}{
		{"root", &unix.Ucred{Uid: 0, Pid: 12}, http.StatusOK, "uid 0, pid 12"},
		{"the daemon's user", &unix.Ucred{Uid: uint32(os.Geteuid()), Pid: 13}, http.StatusOK, ", pid 13"},
		{"somebody else", &unix.Ucred{Uid: uint32(os.Geteuid()) + 1}, http.StatusForbidden, "only root may talk to fsban: use sudo"},
		{"nobody knows who", nil, http.StatusForbidden, "only root may talk to fsban: use sudo"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := t.Context()
			if tc.cred != nil {
				ctx = context.WithValue(ctx, peerKey{}, tc.cred)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, pathStatus, http.NoBody))
			if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.body) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
}

func TestTheSocketIsForItsOwnerAlone(t *testing.T) {
	dir, err := os.MkdirTemp("", "fsban")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "run", "s")
	s := NewServer(path, nil, slog.New(slog.DiscardHandler))
	l, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := s.Listen(); err == nil || !strings.Contains(err.Error(), "another fsban is running") {
		t.Errorf("a second listener: %v", err)
	}
	// What a killed daemon leaves is replaced.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = s.Listen(); err != nil {
		t.Fatalf("over a dead socket: %v", err)
	}
	_ = l.Close()
}
