package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"fsban/control"
)

func newReload(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "reload",
		Short: "Reload the configuration file",
		Long: `Reload the configuration file of the daemon.

The whole file is checked first: after an error all errors are reported, the exit code is 2, and nothing changes. No count, ban
or held ban is lost. Settings that need a restart are named and keep their values until systemctl restart fsban.`,
		Example: "  fsban check && fsban reload",
		Args:    noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) error {
			r, err := client.Reload(cmd.Context())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, r)
			}
			if len(r.Changed) > 0 {
				fmt.Fprintf(out, "in force now: %s\n", strings.Join(r.Changed, ", "))
			}
			if len(r.NeedsRestart) > 0 {
				fmt.Fprintf(out, "needs a restart: %s\n", strings.Join(r.NeedsRestart, ", "))
			}
			if len(r.Changed)+len(r.NeedsRestart) == 0 {
				fmt.Fprintln(out, "nothing has changed: fsban runs with these settings already")
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}
