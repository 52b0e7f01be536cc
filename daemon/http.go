package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
)

// Limits of connections to metrics and health. One more is closed at once, and counted.
const (
	maxVisitors   = 128
	maxPerVisitor = 16 // of one address, or one IPv6 /64; those of this host share maxVisitors
)

// visitors lets in as many as may be.
type visitors struct {
	net.Listener
	turned *atomic.Uint64

	mu   sync.Mutex
	open int
	of   map[netip.Prefix]int // open connections of each address
}

// A visitor is a connection that was let in.
type visitor struct {
	net.Conn
	leave func()
}

// Accept returns the next visitor.
func (v *visitors) Accept() (net.Conn, error) {
	for {
		c, err := v.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if from := origin(c); v.enter(from) {
			return &visitor{c, sync.OnceFunc(func() { v.leave(from) })}, nil
		}
		v.turned.Add(1)
		_ = c.Close()
	}
}

// origin returns the prefix whose connections share a limit; the zero Prefix for this host.
func origin(c net.Conn) netip.Prefix {
	remote, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := remote.AddrPort().Addr().Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil || addr.IsLoopback() {
		return netip.Prefix{}
	}
	return p
}

func (v *visitors) enter(from netip.Prefix) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open >= maxVisitors || from.IsValid() && v.of[from] >= maxPerVisitor {
		return false
	}
	v.open++
	if v.of == nil {
		v.of = make(map[netip.Prefix]int)
	}
	v.of[from]++
	return true
}

func (v *visitors) leave(from netip.Prefix) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open--
	if v.of[from]--; v.of[from] == 0 {
		delete(v.of, from)
	}
}

// Close ends the connection and gives its place back.
func (v *visitor) Close() error {
	v.leave()
	return v.Conn.Close()
}

// serveHTTP serves metrics and health until ctx ends. There is nothing here that changes anything.
func (d *Daemon) serveHTTP(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: 4, Registry: d.registry,
	}))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, r *http.Request) {
		alive, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := d.loop.Do(alive, func() {}); err != nil {
			http.Error(w, "the decision loop does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "healthy")
	})
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) {
		if why := d.unready(); len(why) > 0 {
			http.Error(w, strings.Join(why, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name: "fsban", Description: "Bans addresses that attack FreeSWITCH.", Version: d.opts.Version, Profiling: "false",
		Links: []web.LandingLinks{{Address: "metrics", Text: "Metrics"}, {Address: "-/ready", Text: "Ready"},
			{Address: "-/healthy", Text: "Healthy"}},
	})
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	mux.Handle("GET /{$}", landing)
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug), // a stranger can cause a line a connection
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	webConfig := d.cfg().HTTP.WebConfigFile
	if err := checkWebConfig(webConfig); err != nil {
		return err
	}
	flags := &web.FlagConfig{WebConfigFile: &webConfig, WebListenAddresses: &[]string{d.cfg().HTTP.Listen}, WebSystemdSocket: new(bool)}
	if err := web.Serve(&visitors{Listener: l, turned: &d.turnedAway}, srv, flags, d.log); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics (http.listen, http.web_config_file): %w", err)
	}
	return ctx.Err()
}
