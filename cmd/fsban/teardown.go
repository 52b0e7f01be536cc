package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"fsban/control"
	"fsban/firewall"
)

func newTeardown(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "teardown",
		Short: "Remove everything fsban made in the kernel",
		Long: `Remove fsban's rules, chains, tables and sets from the kernel, whichever backend made them, and nothing else. Every ban
ends with it, until fsban runs again: the state file keeps them. Stop the daemon first, or it puts everything back.`,
		Example: "  systemctl stop fsban && fsban teardown",
		Args:    noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) error {
			switch _, err := client.Status(cmd.Context()); {
			case err == nil:
				return errors.New("fsban is running and would put everything back: stop it first (systemctl stop fsban)")
			case !errors.Is(err, control.ErrNotRunning):
				return fmt.Errorf("fsban may be running, and would put everything back: stop it first (systemctl stop fsban): %w", err)
			}
			removed, err := firewall.Teardown()
			for _, r := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), "removed", r)
			}
			if err == nil && len(removed) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing of fsban's is in the kernel")
			}
			return err
		}),
	}
}
