package daemon

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"fsban/internal/fakeswitch"
)

// FuzzControl sends arbitrary requests to the control socket. Every one must get an answer with a readable error, every banned
// prefix must be masked and specified, and the daemon must survive.
func FuzzControl(f *testing.F) {
	for _, request := range [][3]string{
		{"GET", "/v1/status", ""}, {"GET", "/v1/bans?evidence", ""}, {"GET", "/v1/top?n=100", ""}, {"GET", "/v1/held", ""},
		{"GET", "/v1/why?prefix=192.0.2.7/32", ""}, {"GET", "/v1/schema", ""}, {"POST", "/v1/reload", ""},
		{"POST", "/v1/bans", `{"prefix":"192.0.2.7/32","time":3600000000000,"reason":"x","force":true}`},
		{"POST", "/v1/bans", `{"prefix":"2001:db8::1/64","time":-1}`},
		{"POST", "/v1/bans", `{"prefix":"","time":1e300}`},
		{"DELETE", "/v1/bans?prefix=192.0.2.7/32", ""},
		{"POST", "/v1/allow", `{"prefix":"198.51.100.0/24","time":1,"reason":"\u0000"}`},
		{"DELETE", "/v1/allow?prefix=198.51.100.0/24", ""},
		{"POST", "/v1/held?prefix=0.0.0.0/0", ""}, {"DELETE", "/v1/held", ""}, {"PUT", "/v1/../v1/bans?prefix=%zz", "{"},
	} {
		f.Add(request[0], request[1], []byte(request[2]))
	}
	fs := newSwitch(f, fakeswitch.Options{})
	r := start(f, fs, configFor(f, fs))
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.cfg().Control.Socket)
	}}}
	f.Cleanup(client.CloseIdleConnections)
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		u, err := url.Parse(target)
		if err != nil || len(method) > 100 {
			return
		}
		u.Scheme, u.Host, u.Opaque = "http", "fsban", ""
		request, err := http.NewRequestWithContext(t.Context(), method, u.String(), strings.NewReader(string(body)))
		if err != nil {
			return // not valid HTTP
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatalf("%s %s: %v", method, u, err)
		}
		text, err := io.ReadAll(response.Body)
		if err := response.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil || response.StatusCode >= 500 {
			t.Errorf("%s %s %q: %s, %v: %s", method, u, body, response.Status, err, text)
		}
		if response.Header.Get("Content-Type") == "application/json" && request.Method != http.MethodHead && !json.Valid(text) {
			t.Errorf("%s %s: no JSON: %s", method, u, text)
		}
		v4, v6 := r.ledger.Count()
		for _, b := range r.ledger.List() {
			if p := b.Prefix; !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || p == netip.PrefixFrom(netip.IPv4Unspecified(), 0) || p == netip.PrefixFrom(netip.IPv6Unspecified(), 0) {
				t.Errorf("%s %s %q: %v is banned", method, u, body, p)
			}
		}
		if v4+v6 > 100 {
			r.empty(t)
		}
	})
}

// empty ends every ban.
func (r *rig) empty(t *testing.T) {
	for _, b := range r.ledger.List() {
		if _, err := r.client.Unban(t.Context(), b.Prefix); err != nil {
			t.Errorf("%v: %v", b.Prefix, err)
		}
	}
}
