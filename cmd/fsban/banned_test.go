package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"fsban/control"
)

// answer serves canned answers of a daemon, by path, on a socket, and returns the socket's path.
func answer(t *testing.T, answers map[string]any) string {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewEncoder(w).Encode(answers[r.URL.Path]); err != nil {
			t.Error(err)
		}
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return path
}

func TestBannedExitCodes(t *testing.T) {
	bans := []control.Ban{
		{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Rule: "operator"},
		{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Rule: "auth", Until: time.Now().Add(time.Hour + time.Second)},
	}
	for _, tt := range []struct {
		mode, args, want string
		code             int
	}{
		{"enforcing", "192.0.2.7", "192.0.2.7 is banned by rule auth, 1h left\n", 0},
		{"enforcing", "198.51.100.7", "198.51.100.7 is banned with 198.51.100.0/24 by rule operator, without end\n", 0},
		{"enforcing", "198.51.100.128/25", "198.51.100.128/25 is banned with 198.51.100.0/24 by rule operator, without end\n", 0},
		{"enforcing", "198.51.0.0/16", "198.51.0.0/16 is not banned\n", 1}, // a part of it is
		{"enforcing", "192.0.2.8", "192.0.2.8 is not banned\n", 1},
		{"enforcing", "::ffff:192.0.2.7", "192.0.2.7 is banned by rule auth, 1h left\n", 0},
		{"watching", "192.0.2.7", "192.0.2.7 would be banned (fsban watches) by rule auth, 1h left\n", 1},
	} {
		socket := answer(t, map[string]any{"/v1/status": control.Status{Watching: tt.mode == "watching"}, "/v1/bans": bans})
		var out bytes.Buffer
		root := newRoot()
		root.SetOut(&out)
		root.SetArgs([]string{"--socket", socket, "banned", tt.args})
		if code := exitCode(root.ExecuteContext(t.Context())); code != tt.code || out.String() != tt.want {
			t.Errorf("%s, %s: exit code %d, %q; want %d, %q", tt.mode, tt.args, code, out.String(), tt.code, tt.want)
		}
		out.Reset()
		root.SetArgs([]string{"--socket", socket, "banned", "--quiet", "192.0.2.8", tt.args})
		if code := exitCode(root.ExecuteContext(t.Context())); code != tt.code || out.Len() > 0 {
			t.Errorf("%s, %s and another one, quiet: exit code %d, %q; want %d", tt.mode, tt.args, code, out.String(), tt.code)
		}
	}
}

func TestEnforceReportsBansWithoutRoom(t *testing.T) {
	socket := answer(t, map[string]any{
		"/v1/status":  control.Status{Firewall: control.Firewall{Enforcing: true}},
		"/v1/enforce": control.Enforcement{Kept: 2000, Evicted: 1, FileAgrees: true},
	})
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetArgs([]string{"--socket", socket, "enforce", "--keep", "--yes"})
	err := root.ExecuteContext(t.Context())
	const want = "enforcing, with 2000 bans; 0 watched bans ended\n" +
		"No room for 1 ban, those with the least evidence: see firewall.max_bans and firewall.backend.\n"
	if err != nil || out.String() != want {
		t.Errorf("%q, %v", out.String(), err)
	}
}
