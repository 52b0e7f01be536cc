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
		Short: "Have the daemon read its configuration file again",
		Long: `Have the daemon read its configuration file again.

The whole file is read and checked first: where anything in it is wrong, everything that is wrong is said, the exit code
is 2, and nothing changes. What can change while fsban runs does; no count, ban or held ban is lost. What cannot is said,
and stays as it is until fsban is restarted (systemctl restart fsban).`,
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
				fmt.Fprintln(out, "nothing has changed")
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}
