package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"fsban/control"
	"fsban/internal/term"
	"fsban/top"
)

func newTop(s *settings) *cobra.Command {
	var (
		every        time.Duration
		once, asJSON bool
	)
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch attacks, rates and bans live",
		Long: `Watch the daemon live: attempts a second by kind and over the last minutes, the busiest addresses and the users tried
most within five minutes, the latest bans, the active sources and open problems.

` + top.Keys + `

Without a terminal, --once prints one screen after the time of --every.`,
		Example: "  fsban top\n  fsban top --every 5s\n  fsban top --once\n  fsban top --once --json",
		Args:    noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) error {
			switch {
			case every < 200*time.Millisecond || every > time.Minute:
				return &usageError{fmt.Errorf("--every %v: write at least 200ms, at most 1m", every)}
			case asJSON && !once:
				return &usageError{errors.New("--json is for --once")}
			case !once && (!term.IsTerminal(os.Stdin) || !term.IsTerminal(os.Stdout)):
				return &usageError{errors.New("top needs a terminal: fsban top --once prints one screen, with --json for programs")}
			case !once && os.Getenv("TERM") == "dumb":
				return &usageError{errors.New("top cannot draw on this terminal (TERM=dumb): fsban top --once prints one screen")}
			}
			// The daemon must answer before the view takes over the terminal.
			first, err := client.Top(cmd.Context(), top.MaxRows)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), first)
			}
			o := top.Options{Screen: term.NewScreen(cmd.OutOrStdout()), Every: every, First: first, Explain: explain}
			if once {
				return top.Print(cmd.Context(), client, o)
			}
			return top.Run(cmd.Context(), client, o)
		}),
	}
	c.Flags().DurationVar(&every, "every", 2*time.Second, "time between polls")
	c.Flags().BoolVar(&once, "once", false, "print one screen and exit")
	c.Flags().BoolVar(&asJSON, "json", false, "with --once: as JSON")
	return c
}
