package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
)

func newBan(s *settings) *cobra.Command {
	var (
		bantime string
		req     control.BanRequest
	)
	c := &cobra.Command{
		Use:   "ban ADDRESS|PREFIX...",
		Short: "Ban an address or prefix by hand",
		Long: `Ban addresses or prefixes, all that they send, whatever they have done. Banning again what is banned already sets its end
anew. An address of the never-ban list (fsban status --all) is refused without --force. Where one is refused the others are
banned all the same, and the exit code is 1.`,
		Example: "  fsban ban 192.0.2.7\n  fsban ban 192.0.2.0/24 --bantime 7d --reason \"scans since Monday\"",
		Args:    someArgs,
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			if bantime != "" {
				d, err := config.ParseDuration(bantime)
				if err != nil {
					return &usageError{fmt.Errorf("--bantime: %w", err)}
				}
				req.Time = d
			}
			return eachPrefix(args, func(prefix netip.Prefix) error {
				req.Prefix = prefix
				b, err := client.Ban(cmd.Context(), req)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "banned %v %s\n", b.Prefix, until(&b))
				}
				return err
			})
		}),
	}
	c.Flags().StringVar(&bantime, "bantime", "", "how long: 90s, 10m, 24h, 7d or forever (default: policy.bantime)")
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the record")
	c.Flags().BoolVar(&req.Force, "force", false, "ban even an address that is never banned")
	c.Flags().BoolVar(&req.Local, "local", false, "here, and on no other node of the fleet")
	return c
}

func newUnban(s *settings) *cobra.Command {
	var local bool
	c := &cobra.Command{
		Use:   "unban ADDRESS|PREFIX...",
		Short: "End a ban: the address starts from zero",
		Long: `End the bans of addresses or prefixes, as fsban list shows them. For a minute (policy.unban_grace) nothing that they do
counts, and the ban makes no later one longer. Who is not to be banned again: fsban allow.`,
		Example:           "  fsban unban 192.0.2.7\n  fsban list --rule scanner --json | jq -r '.[].prefix' | xargs fsban unban",
		Args:              someArgs,
		ValidArgsFunction: s.completing(0, bannedNow),
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			return eachPrefix(args, func(prefix netip.Prefix) error {
				unban := client.Unban
				if local {
					unban = client.UnbanHere
				}
				b, err := unban(cmd.Context(), prefix)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "unbanned %v (rule %s)\n", b.Prefix, b.Rule)
				}
				return err
			})
		}),
	}
	c.Flags().BoolVar(&local, "local", false, "here, and on no other node of the fleet")
	return c
}

// eachPrefix does something with each argument, once all are understood. Where the daemon says no to one, it goes on with
// the others.
func eachPrefix(args []string, do func(netip.Prefix) error) error {
	prefixes := make([]netip.Prefix, len(args))
	for i, arg := range args {
		var err error
		if prefixes[i], err = config.ParsePrefix(arg); err != nil {
			return &usageError{err}
		}
	}
	var all error
	for _, prefix := range prefixes {
		err := do(prefix)
		all = errors.Join(all, err)
		if err != nil && !errors.As(err, new(*control.RefusedError)) {
			break
		}
	}
	return all
}

func until(b *control.Ban) string {
	if b.Until.IsZero() {
		return "until you unban it"
	}
	return "until " + b.Until.Local().Format("2006-01-02 15:04:05")
}
