package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
	"fsban/policy"
)

func newAllow(s *settings) *cobra.Command {
	var (
		limit string
		req   control.AllowRequest
	)
	c := &cobra.Command{
		Use:   "allow ADDRESS|PREFIX...",
		Short: "Never ban an address or prefix, from now on",
		Long: `Put an address or prefix onto the never-ban list, for good or for a time, and end the bans of it that a rule has made. It
outlives a restart. What should always hold belongs into policy.ignoreip; fsban status --all lists everything that is
never banned, and why.`,
		Example: "  fsban allow 192.0.2.7\n  fsban allow 192.0.2.0/24 --for 7d --reason \"the new office moves in\"",
		Args:    someArgs,
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			if limit != "" {
				d, err := config.ParseDuration(limit)
				if err != nil {
					return &usageError{fmt.Errorf("--for: %w", err)}
				}
				if req.Time = d; d == policy.Forever {
					req.Time = 0
				}
			}
			return eachPrefix(args, func(prefix netip.Prefix) error {
				req.Prefix = prefix
				n, err := client.Allow(cmd.Context(), req)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%v is never banned%s\n", n.Prefix, forTime(req.Time))
				}
				return err
			})
		}),
	}
	c.Flags().StringVar(&limit, "for", "", "how long: 10m, 24h, 7d (default: until you disallow it)")
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the record")
	c.Flags().BoolVar(&req.Local, "local", false, "here, and on no other node of the fleet")
	return c
}

func forTime(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return " for " + config.Duration(d).String()
}

func newDisallow(s *settings) *cobra.Command {
	var local bool
	c := &cobra.Command{
		Use:   "disallow ADDRESS|PREFIX...",
		Short: "Take back what fsban allow said",
		Long: `Take addresses or prefixes off the never-ban list again, as fsban allow put them there. What the configuration names
stays: fsban status --all says where each comes from.`,
		Example:           "  fsban disallow 192.0.2.7",
		Args:              someArgs,
		ValidArgsFunction: s.completing(0, allowedNow),
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			return eachPrefix(args, func(prefix netip.Prefix) error {
				disallow := client.Disallow
				if local {
					disallow = client.DisallowHere
				}
				n, err := disallow(cmd.Context(), prefix)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "%v can be banned again\n", n.Prefix)
				}
				return err
			})
		}),
	}
	c.Flags().BoolVar(&local, "local", false, "here, and on no other node of the fleet")
	return c
}
