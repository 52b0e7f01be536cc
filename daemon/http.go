package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
)

// serveHTTP serves metrics and health until ctx ends. There is nothing here that changes anything.
func (d *Daemon) serveHTTP(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: 4, Registry: d.registry,
	}))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, r *http.Request) {
		alive, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := d.do(alive, func(*loop) {}); err != nil {
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
		Name: "fsban", Description: "Guards a FreeSWITCH.", Version: d.opts.Version, Profiling: "false",
		Links: []web.LandingLinks{{Address: "metrics", Text: "Metrics"}, {Address: "-/ready", Text: "Ready"}, {Address: "-/healthy", Text: "Healthy"}},
	})
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	mux.Handle("GET /{$}", landing)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	webConfig := d.cfg().HTTP.WebConfigFile
	flags := &web.FlagConfig{WebConfigFile: &webConfig, WebListenAddresses: &[]string{d.cfg().HTTP.Listen}, WebSystemdSocket: new(bool)}
	if err := web.Serve(l, srv, flags, d.log); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics (http.listen, http.web_config_file): %w", err)
	}
	return ctx.Err()
}
