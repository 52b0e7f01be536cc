package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/detect"
	"fsban/internal/fakeswitch"
	"fsban/ledger"
	"fsban/policy"
)

// FuzzControl: whatever is asked on the control socket, there is an answer that says so in words, what is banned is a prefix
// without host bits, an unspecified one never, and the daemon goes on.
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
			return // it is none of HTTP's
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

// FuzzRestart: whatever a state file holds whose checksums are right, fsban starts with it, and bans a guesser.
func FuzzRestart(f *testing.F) {
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	odd := detect.Memo{Addr: netip.MustParseAddr("192.0.2.7"), User: "a", At: end, Kind: policy.Challenge, Told: 1<<policy.NumSources - 1, Held: &policy.Attempt{At: end}}
	sealed := func(head string, memos ...detect.Memo) []byte {
		return appendStanding(nil, []byte(head), slices.Values(memos))
	}
	f.Add(sealed(`{"log":{"at":"2026-11-22T12:00:00Z"}}`, memosToWrite()...), []byte(`{"prefix":"192.0.2.7/32"}`), []byte(`{"prefix":"192.0.2.7/32","count":3}`), "1000", int64(0), uint8(0))
	f.Add(sealed(`{}`, odd), []byte(`{"prefix":"::/0","last":"9999-12-31T23:59:59Z"}`), []byte(`{"prefix":"192.0.2.7/33"}`), "\xff\x00", int64(1)<<62, uint8(255))
	f.Add(sealed(`{"log":{"file":{"dev":-1},"offset":-1}}`), []byte(`[]`), []byte(`{"count":-1,"since":"0001-01-01T00:00:00Z"}`), "", int64(-1)<<62, uint8(3))
	f.Add([]byte(`{}`), []byte(`{}`), []byte(`{}`), "", int64(0), uint8(0))
	fs := newSwitch(f, fakeswitch.Options{})
	cfg := configFor(f, fs)
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
	path := filepath.Join(cfg.State.Directory, "fsban.db")
	guesser := netip.AddrFrom4([4]byte{203, 0, 113, byte(rand.IntN(256))})
	f.Fuzz(func(t *testing.T, state, known, offence []byte, user string, ms int64, kind uint8) {
		now := time.Now()
		_ = os.Remove(path) // of the one before
		l, err := ledger.Open(path, now)
		if err != nil {
			t.Fatal(err)
		}
		prefix := netip.MustParsePrefix("192.0.2.7/32")
		_, _ = l.Keep(ledger.Known, prefix, json.RawMessage(known)), l.Keep(ledger.Offences, prefix, json.RawMessage(offence)) // no JSON is not kept
		a := policy.Attempt{Addr: prefix.Addr(), At: now.Add(time.Duration(ms)), Kind: policy.Kind(kind), User: user}
		for range 7 {
			l.Note(ledger.Entry{Attempt: a}, a.At)
		}
		l.Seal(state, now.Add(-time.Hour))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		d, err := open(cfg, Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		d.aliveWith(nil)
		for range 5 {
			d.loop.decide(&sighting{Attempt: policy.Attempt{Addr: guesser, At: now, Kind: policy.AuthFailure, User: "1000"}, read: now})
		}
		if _, banned := d.ledger.Get(netip.PrefixFrom(guesser, 32)); !banned {
			t.Error("the guesser is not banned")
		}
		d.loop.tick(now)
		if err := errors.Join(d.ledger.Close(), d.backend.Close()); err != nil {
			t.Fatal(err)
		}
	})
}
