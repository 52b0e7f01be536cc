package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"fsban/fleet/resp"
)

// Timeouts of Redis.
const (
	dialTimeout = 2 * time.Second
	answerTime  = 3 * time.Second // for a reply, the time that a command waits excluded
	blockTime   = 2 * time.Second
	maxHops     = 4 // nodes of a cluster that point at each other
)

// limits bound a reply of Redis before the client library allocates for it. Scripts return at most replyBudget bytes and
// replyElements elements at once, so that an honest Redis exceeds them only with foreign entries in the log.
var limits = resp.Limits{Line: 4 << 10, String: maxBatch, Reply: 8 << 20, Elements: 8_192, Depth: 8}

// silent keeps the client library from writing to standard error: it returns its errors, too.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

func init() { redis.SetLogger(silent{}) }

// A dialer connects to the Redis that serves the fleet: the one configured, the master known to a Sentinel, or the node of a
// cluster that owns the fleet's keys. It asks Sentinels and cluster nodes itself, because the client library's discovery
// trusts their answers: it panics on a short one and collects addresses without bound.
type dialer struct {
	opts *Options
	turn atomic.Uint32 // of Addrs; it advances when one fails
}

// clients are two connections, because a blocked read must not delay a write.
type clients struct{ in, out *redis.Client }

func (d *dialer) clients() *clients {
	return &clients{in: redis.NewClient(d.options()), out: redis.NewClient(d.options())}
}

func (c *clients) close() {
	_ = c.in.Close()
	_ = c.out.Close()
}

func (d *dialer) options() *redis.Options {
	o := options(d.dial)
	o.Addr, o.DB, o.Username, o.Password = d.opts.Addrs[0], d.opts.DB, d.opts.Username, d.opts.Password
	return o
}

// options returns options of a client that speaks RESP2 and leaves retries, with growing pauses, to the fleet.
func options(dial func(context.Context, string, string) (net.Conn, error)) *redis.Options {
	return &redis.Options{
		Dialer: dial, Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		DialTimeout:              2 * dialTimeout, ReadTimeout: answerTime, WriteTimeout: answerTime, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolSize: 4,
	}
}

// dial is the client library's way to a connection. The library calls it in goroutines of its own.
func (d *dialer) dial(ctx context.Context, _, _ string) (c net.Conn, err error) {
	err = contained(func() error {
		addr, err := d.address(ctx)
		if err != nil {
			return err
		}
		c, err = d.connect(ctx, addr)
		return err
	})
	if err != nil {
		d.turn.Add(1)
		return nil, err
	}
	return c, nil
}

func (d *dialer) address(ctx context.Context) (string, error) {
	addr := d.opts.Addrs[int(d.turn.Load()%uint32(len(d.opts.Addrs)))] //nolint:gosec // a handful of addresses
	switch {
	case d.opts.Sentinel != "":
		return d.master(ctx, addr)
	case d.opts.Cluster:
		return d.owner(ctx, addr)
	}
	return addr, nil
}

// connect dials an address, with TLS if configured, and bounds the replies.
func (d *dialer) connect(ctx context.Context, addr string) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(d.opts.Addrs[0], "/") {
		network = "unix"
	}
	plain := &net.Dialer{Timeout: dialTimeout, KeepAlive: time.Minute}
	dial := plain.DialContext
	if d.opts.TLS != nil {
		dial = (&tls.Dialer{NetDialer: plain, Config: d.opts.TLS}).DialContext
	}
	c, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return resp.NewConn(c, limits), nil
}

// ask sends one command on a connection of its own.
func (d *dialer) ask(ctx context.Context, addr string, o *redis.Options, args ...any) *redis.Cmd {
	o.Addr, o.Dialer = addr, func(ctx context.Context, _, _ string) (net.Conn, error) { return d.connect(ctx, addr) }
	c := redis.NewClient(o)
	defer func() { _ = c.Close() }()
	return c.Do(ctx, args...)
}

// master asks a Sentinel, without login, for the address of the master.
func (d *dialer) master(ctx context.Context, sentinel string) (string, error) {
	r, err := d.ask(ctx, sentinel, options(nil), "SENTINEL", "get-master-addr-by-name", d.opts.Sentinel).StringSlice()
	switch {
	case errors.Is(err, redis.Nil):
		return "", fmt.Errorf("sentinel %s knows no master %q (fleet.sentinel)", sentinel, d.opts.Sentinel)
	case err != nil:
		return "", fmt.Errorf("ask sentinel %s for the master: %w", sentinel, err)
	case len(r) != 2:
		return "", fmt.Errorf("ask sentinel %s for the master: a reply of %d values", sentinel, len(r))
	}
	return net.JoinHostPort(r[0], r[1]), nil
}

// owner follows a cluster's redirections to the node that owns the fleet's keys.
func (d *dialer) owner(ctx context.Context, addr string) (string, error) {
	keys := keysOf(d.opts.Name)
	for range maxHops {
		o := d.options()
		err := d.ask(ctx, addr, o, "HLEN", keys.meta).Err()
		next, moved := redis.IsMovedError(err)
		if !moved {
			return addr, err
		}
		host, port, err := net.SplitHostPort(next)
		if err != nil {
			return "", fmt.Errorf("cluster node %s redirects to %.100q: %w", addr, next, err)
		}
		if host == "" { // the same one
			host, _, _ = net.SplitHostPort(addr)
		}
		addr = net.JoinHostPort(host, port)
	}
	return "", fmt.Errorf("cluster: more than %d redirections", maxHops)
}

// replaced reports whether an error means that another Redis serves the fleet now: open connections lead to the wrong one.
func replaced(err error) bool {
	_, moved := redis.IsMovedError(err)
	return moved || redis.IsReadOnlyError(err)
}
