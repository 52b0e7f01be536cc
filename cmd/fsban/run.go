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
)

func newRun(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long: `Run the daemon in the foreground, logging to standard error, until SIGINT or SIGTERM.

Without a configuration file the defaults hold: the event socket 127.0.0.1:8021 with FreeSWITCH's own password, five
failures in five minutes, banned for a day. Stopping leaves every ban in force; the next start takes them over.

SIGHUP, like fsban reload, has the configuration file read again. Where it is wrong, that is logged and nothing changes.

It leaves no core, whatever ends it, and lets no debugger but root's in: there are passwords in its memory.`,
		Example: "  fsban run\n  fsban run --config /etc/fsban/config.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hangup := make(chan os.Signal, 1) // before anything else: a hangup must not take the guard down
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			// Who no longer reads the log must not take the guard down either.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
			closed := closeMemory() // before there is a password in it
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
			lines := newSink(os.Stderr)
			defer lines.close()
			log := newLogger(lines)
			log.set(cfg.Log)
			if closed != nil {
				slog.New(log).Warn("a crash may leave passwords in a core", "error", closed)
			}
			return daemon.Run(cmd.Context(), cfg, daemon.Options{
				Log: slog.New(log), Version: version, Revision: revision(), Load: load, Hangup: hangup, SetLog: log.set, LogLost: lines.lost.Load,
			})
		},
	}
}

// closeMemory has the kernel make no core of this process, nor of the programs that it starts, which have its environment, and
// let no debugger but root's in.
func closeMemory() error {
	// A core that goes through a pipe (systemd-coredump) does not ask for the limit; what is started loses the mark.
	return errors.Join(
		os.NewSyscallError("prctl(PR_SET_DUMPABLE)", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)),
		os.NewSyscallError("setrlimit(RLIMIT_CORE)", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})),
	)
}
