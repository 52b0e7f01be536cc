package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
)

func newAllow(s *settings) *cobra.Command {
	var (
		limit string
		req   control.AllowRequest
	)
	c := &cobra.Command{
		Use:   "allow ADDRESS|PREFIX...",
		Short: "Put an address or prefix onto the never-ban list",
		Long: `Put an address or prefix onto the never-ban list, forever or for a time, and end all its bans, on all nodes of the fleet. If an
operator has banned a wider prefix, the address stays banned: the message names that ban, and the exit code is 1.

A repeated allow changes only the given values: without --for its end stays, without --reason its reason, and one made
with --local stays local. A very wide prefix (an IPv4 /16, an IPv6 /32) needs a confirmation on a terminal, or --force. An
allowance outlives a restart. Permanent entries belong into policy.ignoreip. fsban allowed lists the allowances, fsban status
--all the whole never-ban list.`,
		Example: "  fsban allow 192.0.2.7\n  fsban allow 192.0.2.0/24 --for 7d --reason \"the new office moves in\"",
		Args:    someArgs,
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			if limit != "" {
				d, err := config.ParseDuration(limit)
				if err != nil {
					return &usageError{fmt.Errorf("--for: %w", err)}
				}
				req.Time = d
			}
			return eachPrefix(args, func(prefix netip.Prefix) error {
				req.Prefix = prefix
				return confirmed(cmd, req.Force, func(force bool) error {
					r := req
					r.Force = force
					a, err := client.Allow(cmd.Context(), r)
					switch {
					case err != nil:
						return err
					case len(a.StillBanned) > 0:
						return stillBanned(&a)
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%v is never banned%s\n", a.Prefix, untilTime(a.Until))
					return nil
				})
			})
		}),
	}
	c.Flags().StringVar(&limit, "for", "", "how long: 10m, 24h, 7d or forever (default: as before, or forever)")
	c.Flags().StringVar(&req.Reason, "reason", "", "why: shown by allowed and why")
	c.Flags().BoolVar(&req.Force, "force", false, "allow also a very wide prefix, unasked")
	c.Flags().BoolVar(&req.Local, "local", false, "here, and on no other node of the fleet")
	return c
}

func untilTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " until " + t.Local().Format(time.DateTime)
}

func newDisallow(s *settings) *cobra.Command {
	var w control.Withdrawal
	c := &cobra.Command{
		Use:   "disallow ADDRESS|PREFIX...",
		Short: "Take an allowed address off the never-ban list",
		Long: `Withdraw allowances made by fsban allow. Entries of the configuration stay:
fsban allowed lists allowances, fsban status --all every entry with its origin.`,
		Example:           "  fsban disallow 192.0.2.7",
		Args:              someArgs,
		ValidArgsFunction: s.completing(0, allowedNow),
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			return eachPrefix(args, func(prefix netip.Prefix) error {
				n, err := client.DisallowWith(cmd.Context(), prefix, w)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%v can be banned again\n", n.Prefix)
				}
				return err
			})
		}),
	}
	c.Flags().StringVar(&w.Reason, "reason", "", "why, for the log")
	c.Flags().BoolVar(&w.Local, "local", false, "here, and on no other node of the fleet")
	return c
}
