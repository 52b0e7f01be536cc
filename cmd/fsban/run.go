package main

import (
	"log/slog"
	"os"
	"os/signal"
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
failures in five minutes, banned for a day. Stopping leaves every ban in force; the next start takes them over.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(s.config)
			if err != nil {
				return err
			}
			// A hangup must not take the guard down.
			signal.Ignore(syscall.SIGHUP)
			if s.socket != "" {
				cfg.Control.Socket = s.socket
			}
			return daemon.Run(cmd.Context(), cfg, daemon.Options{Log: logger(&cfg.Log), Version: version, Revision: revision()})
		},
	}
}

func logger(l *config.Log) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.SlogLevel()}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
