// Command fsban-demo shows fsban at work: a night of attacks on a recorded FreeSWITCH, in network namespaces of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fsban/internal/netns"
)

// version is set at build time: -ldflags "-X main.version=1.2.3".
var version = "dev"

// run returns the exit code: 0 if the attackers were banned and nobody else, 1 if not, 2 for wrong usage.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "fsban-demo: %v\n", err)
		if errors.As(err, new(*usageError)) {
			return 2
		}
		return 1
	}
	return 0
}

// A usageError is an invalid command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func newRoot() *cobra.Command {
	var d demo
	c := &cobra.Command{
		Use:   "fsban-demo",
		Short: "Show fsban at work in namespaces of its own",
		Long: `Play a night of attacks in about 20 seconds: a password guesser, an extension scan, ordinary phones, and an office with one
wrong password. The daemon is the real one, and so are iptables, the kernel set and the packets, in network namespaces of
their own: nothing outside is touched, and no privilege is needed. FreeSWITCH is played by recorded events.

The exit code is 0 when the attackers were banned and nobody else was. If the system refuses namespaces, the demo runs
without packets and without a kernel, as a dry run.`,
		Example:           "  fsban-demo\n  fsban-demo --stay        # and look around",
		Version:           version,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("unexpected argument %.60q (see fsban-demo --help)", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if d.night < shortestNight {
				return &usageError{fmt.Errorf("--night %v: write at least %v, or some attackers never act", d.night, shortestNight)}
			}
			if d.fsban, err = program(d.fsban); err != nil {
				return err
			}
			d.out = &lines{out: cmd.OutOrStdout()}
			if netns.Inside() || d.dryRun {
				return d.run(cmd.Context())
			}
			return d.enter(cmd.Context())
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w (see fsban-demo --help)", err)}
	})
	c.Flags().BoolVar(&d.stay, "stay", false, "stay up after the night, until interrupted")
	c.Flags().DurationVar(&d.night, "night", 20*time.Second, "length of the night")
	c.Flags().BoolVar(&d.dryRun, "dry-run", false, "decide and show everything, ban nothing")
	c.Flags().StringVar(&d.fsban, "fsban", "", "`path` of fsban (default: beside fsban-demo, or in PATH)")
	return c
}

// shortestNight is the shortest in which every peer acts.
const shortestNight = 10 * time.Second

// program returns the absolute path of fsban: as named, in the directory of this program, or in PATH.
func program(named string) (string, error) {
	if named == "" {
		if self, err := os.Executable(); err == nil {
			if beside := filepath.Join(filepath.Dir(self), "fsban"); isExecutable(beside) {
				return beside, nil
			}
		}
		named = "fsban"
	}
	path, err := exec.LookPath(named)
	if err != nil {
		return "", fmt.Errorf("find fsban, which the demo runs (--fsban): %w", err)
	}
	return filepath.Abs(path)
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
