package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"
)

// A Client talks to the daemon behind a unix socket.
type Client struct {
	Version string // ours, for when the two do not understand each other

	path string
	http *http.Client
}

// NewClient returns a Client of the socket at path.
func NewClient(path string) *Client {
	return &Client{path: path, http: &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}},
	}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns the state of the daemon.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.do(ctx, http.MethodGet, pathStatus, nil, &s)
}

// Bans returns the bans that p selects.
func (c *Client) Bans(ctx context.Context, p Pick) (b []Ban, err error) {
	return b, c.do(ctx, http.MethodGet, pathBans+p.query(), nil, &b)
}

// Top returns current activity, with up to n addresses and users; 0 means 20.
func (c *Client) Top(ctx context.Context, n int) (t Top, err error) {
	path := pathTop
	if n != 0 {
		path += "?n=" + strconv.Itoa(n)
	}
	return t, c.do(ctx, http.MethodGet, path, nil, &t)
}

// Ban orders a ban and returns it. The error may be a *DoubtError.
func (c *Client) Ban(ctx context.Context, r BanRequest) (b Ban, err error) {
	return b, c.do(ctx, http.MethodPost, pathBans, r, &b)
}

// Unban ends the ban of exactly p and returns it.
func (c *Client) Unban(ctx context.Context, p netip.Prefix) (b Ban, err error) {
	return b, c.do(ctx, http.MethodDelete, pathBans+query(p), nil, &b)
}

// Why returns the state of addr.
func (c *Client) Why(ctx context.Context, addr netip.Addr) (s AddressState, err error) {
	return s, c.do(ctx, http.MethodGet, pathWhy+query(netip.PrefixFrom(addr, addr.BitLen())), nil, &s)
}

// Allow puts a prefix onto the never-ban list and ends its bans. The error may be a *DoubtError.
func (c *Client) Allow(ctx context.Context, r AllowRequest) (a Allowance, err error) {
	return a, c.do(ctx, http.MethodPost, pathAllow, r, &a)
}

// Disallow removes the allowance of exactly p.
func (c *Client) Disallow(ctx context.Context, p netip.Prefix) (n NeverBan, err error) {
	return n, c.do(ctx, http.MethodDelete, pathAllow+query(p), nil, &n)
}

// Held returns the bans that guards hold.
func (c *Client) Held(ctx context.Context) (h []HeldBan, err error) {
	return h, c.do(ctx, http.MethodGet, pathHeld, nil, &h)
}

// Release makes the held ban of p, or all of them for the zero Prefix, and returns how many that were.
func (c *Client) Release(ctx context.Context, p netip.Prefix) (n int, err error) {
	return n, c.do(ctx, http.MethodPost, pathHeld+query(p), nil, &n)
}

// Discard drops the held ban of p, or all of them for the zero Prefix, and returns how many that were.
func (c *Client) Discard(ctx context.Context, p netip.Prefix) (n int, err error) {
	return n, c.do(ctx, http.MethodDelete, pathHeld+query(p), nil, &n)
}

// Reload has the daemon read its configuration file again. The error is a *ConfigError where the file is wrong: then nothing
// has changed.
func (c *Client) Reload(ctx context.Context) (r Reload, err error) {
	return r, c.do(ctx, http.MethodPost, pathReload, nil, &r)
}

// Enforce ends watching, or withdraws an earlier request to.
func (c *Client) Enforce(ctx context.Context, r EnforceRequest) (e Enforcement, err error) {
	return e, c.do(ctx, http.MethodPost, pathEnforce, r, &e)
}

func query(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return "?prefix=" + url.QueryEscape(p.String())
}

func (c *Client) do(ctx context.Context, method, path string, body, to any) error {
	var data bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&data).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://fsban"+path, &data)
	if err != nil {
		return err
	}
	req.Header.Set(headerVersion, c.Version)
	req.Header.Set(headerAPI, strconv.Itoa(apiVersion))
	resp, err := c.http.Do(req)
	if err != nil {
		return c.dialError(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return c.refusal(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(to); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// refusal returns the error of an answer other than 200.
func (c *Client) refusal(resp *http.Response) error {
	var e apiError
	if json.NewDecoder(io.LimitReader(resp.Body, maxRequest)).Decode(&e) != nil || e.Error == "" {
		daemon := resp.Header.Get(headerVersion)
		api, _ := strconv.Atoi(resp.Header.Get(headerAPI))
		what := resp.Request.Method + " " + resp.Request.URL.Path
		e.Error = disagree(daemon, c.Version, what, olderThan(c.Version, daemon, apiVersion-api)) + " (" + resp.Status + ")"
	}
	switch resp.StatusCode {
	case http.StatusUnprocessableEntity:
		return &ConfigError{e.Error}
	case http.StatusPreconditionRequired:
		return &DoubtError{e.Error}
	}
	return &RefusedError{e.Error}
}

// ErrNotRunning is wrapped by the errors of a Client if no daemon listens on its socket.
var ErrNotRunning = errors.New("no fsban is running here")

// dialError explains a missing or closed socket.
func (c *Client) dialError(err error) error {
	var op *net.OpError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (nobody answers on %s): systemctl start fsban, or --socket for another one", ErrNotRunning, c.path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("only root may talk to fsban (%s): use sudo, or see control.readers and control.admins", c.path)
	case os.IsTimeout(err), errors.Is(err, context.Canceled), errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("talk to fsban on %s: %w", c.path, err)
	}
	return fmt.Errorf("fsban has closed the connection (%s): too many others are asking it, or it is ending; try again: %w", c.path, err)
}
