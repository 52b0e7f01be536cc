package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
)

// maxVisitors is how many connections to metrics and health may be open. One more is closed at once, and counted.
const maxVisitors = 128

// visitors lets in as many as may be.
type visitors struct {
	net.Listener
	open   atomic.Int64
	turned *atomic.Uint64
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
		if v.open.Add(1) <= maxVisitors {
			return &visitor{c, sync.OnceFunc(func() { v.open.Add(-1) })}, nil
		}
		v.open.Add(-1)
		v.turned.Add(1)
		_ = c.Close()
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
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug), // a stranger can cause a line a connection
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	webConfig := d.cfg().HTTP.WebConfigFile
	flags := &web.FlagConfig{WebConfigFile: &webConfig, WebListenAddresses: &[]string{d.cfg().HTTP.Listen}, WebSystemdSocket: new(bool)}
	if err := web.Serve(&visitors{Listener: l, turned: &d.turnedAway}, srv, flags, d.log); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics (http.listen, http.web_config_file): %w", err)
	}
	return ctx.Err()
}
