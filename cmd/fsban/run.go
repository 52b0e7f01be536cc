package main

import (
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fsban/config"
	"fsban/daemon"
	"fsban/internal/logging"
)

func newRun(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the daemon in the foreground",
		Long: `Run the daemon in the foreground, logging to standard error, until SIGINT or SIGTERM.

Without a configuration file the defaults apply: event socket 127.0.0.1:8021 with FreeSWITCH's default password, five
failures in five minutes, banned for a day. Stopping leaves every ban in force; the next start takes them over.

SIGHUP reloads the configuration file, like fsban reload. An error is logged and changes nothing.

The daemon leaves no core and admits no debugger but root's, because its memory holds passwords.`,
		Example: "  fsban run\n  fsban run --config /etc/fsban/config.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hangup := make(chan os.Signal, 1) // before anything else: a hangup must not take the guard down
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			// A closed log pipe must not end the daemon either.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
			closed := closeMemory() // before it holds a password
			load := func() (config.Config, error) {
				cfg, err := config.Load(s.config)
				if s.socket != "" {
					cfg.Control.Socket = s.socket
				}
				adjust(&cfg)
				return cfg, err
			}
			cfg, err := load()
			if err != nil {
				return &usageError{err}
			}
			lines := logging.NewSink(os.Stderr)
			defer lines.Close()
			log := logging.NewHandler(lines)
			defer log.Flush()
			log.Set(cfg.Log)
			if closed != nil {
				slog.New(log).Warn("a crash may leave passwords in a core", "error", closed)
			}
			return daemon.Run(cmd.Context(), cfg, daemon.Options{
				Log: slog.New(log), Version: version, Revision: revision(), Load: load, Hangup: hangup, SetLog: log.Set, LogLost: lines.Dropped,
			})
		},
	}
}

// adjust changes a configuration that was read. Tests replace it, to ban in memory.
var adjust = func(*config.Config) {}

// closeMemory has the kernel make no core of this process, nor of the programs that it starts, which have its environment, and
// let no debugger but root's in.
func closeMemory() error {
	// A core that goes through a pipe (systemd-coredump) ignores the limit; started programs lose PR_SET_DUMPABLE.
	return errors.Join(
		os.NewSyscallError("prctl(PR_SET_DUMPABLE)", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)),
		os.NewSyscallError("setrlimit(RLIMIT_CORE)", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})),
	)
}
