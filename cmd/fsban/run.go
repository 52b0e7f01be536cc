package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/daemon"
)

func newRun(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long: `Run the daemon in the foreground, logging to standard error, until SIGINT or SIGTERM.

Without a configuration file the defaults hold: the event socket 127.0.0.1:8021 with FreeSWITCH's own password, five
failures in five minutes, banned for a day. Stopping leaves every ban in force; the next start takes them over.

SIGHUP, like fsban reload, has the configuration file read again. Where it is wrong, that is logged and nothing changes.`,
		Example: "  fsban run\n  fsban run --config /etc/fsban/config.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hangup := make(chan os.Signal, 1) // before anything else: a hangup must not take the guard down
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			load := func() (config.Config, error) {
				cfg, err := config.Load(s.config)
				if s.socket != "" {
					cfg.Control.Socket = s.socket
				}
				return cfg, err
			}
			cfg, err := load()
			if err != nil {
				return &usageError{err}
			}
			log := newLogger(os.Stderr)
			log.set(cfg.Log)
			return daemon.Run(cmd.Context(), cfg, daemon.Options{
				Log: slog.New(log), Version: version, Revision: revision(), Load: load, Hangup: hangup, SetLog: log.set,
			})
		},
	}
}

// A logger is a handler of a log whose level and format can be changed while it is used.
type logger struct {
	text, json slog.Handler
	asJSON     *atomic.Bool
	level      *slog.LevelVar
}

func newLogger(out io.Writer) *logger {
	level := new(slog.LevelVar)
	opts := &slog.HandlerOptions{Level: level}
	return &logger{slog.NewTextHandler(out, opts), slog.NewJSONHandler(out, opts), new(atomic.Bool), level}
}

func (l *logger) set(c config.Log) {
	l.level.Set(c.SlogLevel())
	l.asJSON.Store(c.Format == "json")
}

func (l *logger) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level.Level() }

func (l *logger) Handle(ctx context.Context, r slog.Record) error {
	if l.asJSON.Load() {
		return l.json.Handle(ctx, r)
	}
	return l.text.Handle(ctx, r)
}

func (l *logger) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logger{l.text.WithAttrs(attrs), l.json.WithAttrs(attrs), l.asJSON, l.level}
}

func (l *logger) WithGroup(name string) slog.Handler {
	return &logger{l.text.WithGroup(name), l.json.WithGroup(name), l.asJSON, l.level}
}
