package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
	"fsban/firewall/backend"
)

func newCreateSets(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "create-sets",
		Short: "Create the sets that saved firewall rules refer to",
		Long: `Create the sets of the configured backend that are missing, without rules and without bans. Rules that were saved with
iptables-save while fsban ran name these sets, and iptables-restore refuses a whole file if one is missing. fsban-sets.service
runs this command at boot, before the services that restore rules. If the configuration is invalid, the defaults hold.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, invalid := s.load()
			if invalid != nil { // the saved rules are restored all the same
				c = config.Default()
			}
			made, err := backend.MakeSets(c.Firewall.Backend, c.Firewall.Options())
			for _, name := range made {
				fmt.Fprintln(cmd.OutOrStdout(), "created", name)
			}
			if invalid != nil {
				return invalid
			}
			return err
		},
	}
}

func newTeardown(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "teardown",
		Short: "Remove fsban's rules and sets from the kernel",
		Long: `Remove fsban's rules, chains, tables and sets from the kernel, whichever backend made them, and nothing else: sets
and chains of others with such a name stay, and are listed as kept. All bans end until fsban runs again: the state file
keeps them. Stop the daemon first, or it restores everything.`,
		Example: "  systemctl stop fsban && fsban teardown",
		Args:    noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) error {
			switch _, err := client.Status(cmd.Context()); {
			case err == nil:
				return errors.New("fsban is running and would put everything back: stop it first (systemctl stop fsban)")
			case !errors.Is(err, control.ErrNotRunning):
				return fmt.Errorf("fsban may be running, and would put everything back: stop it first (systemctl stop fsban): %w", err)
			}
			removed, kept, err := backend.Teardown()
			for _, r := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), "removed", r)
			}
			for _, k := range kept {
				fmt.Fprintln(cmd.OutOrStdout(), "kept", k)
			}
			if err == nil && len(removed)+len(kept) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "nothing of fsban's is in the kernel")
			}
			return err
		}),
	}
}
