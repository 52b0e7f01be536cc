package main

import (
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
		Use:     "ban ADDRESS|PREFIX...",
		Short:   "Ban an address or prefix by hand",
		Example: "  fsban ban 192.0.2.7\n  fsban ban 192.0.2.0/24 --bantime 7d --reason \"scans since Monday\"",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if bantime != "" {
				d, err := config.ParseDuration(bantime)
				if err != nil {
					return &usageError{fmt.Errorf("--bantime: %w", err)}
				}
				req.Time = d
			}
			client := s.client()
			defer client.Close()
			return eachPrefix(args, func(prefix netip.Prefix) error {
				req.Prefix = prefix
				b, err := client.Ban(cmd.Context(), req)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "banned %v %s\n", b.Prefix, until(&b))
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&bantime, "bantime", "", "how long: 90s, 10m, 24h, 7d or forever (default: policy.bantime)")
	c.Flags().StringVar(&req.Reason, "reason", "", "why, for the record")
	c.Flags().BoolVar(&req.Force, "force", false, "ban even an address that is never banned")
	return c
}

func newUnban(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:               "unban ADDRESS|PREFIX...",
		Short:             "End a ban: the address starts from zero",
		Example:           "  fsban unban 192.0.2.7",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: s.completing(0, bannedNow),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := s.client()
			defer client.Close()
			return eachPrefix(args, func(prefix netip.Prefix) error {
				b, err := client.Unban(cmd.Context(), prefix)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "unbanned %v (rule %s)\n", b.Prefix, b.Rule)
				}
				return err
			})
		},
	}
}

// eachPrefix does something with each argument, up to the first that fails.
func eachPrefix(args []string, do func(netip.Prefix) error) error {
	for _, arg := range args {
		prefix, err := config.ParsePrefix(arg)
		if err != nil {
			return &usageError{err}
		}
		if err := do(prefix); err != nil {
			return err
		}
	}
	return nil
}

func until(b *control.Ban) string {
	if b.Until.IsZero() {
		return "until you unban it"
	}
	return "until " + b.Until.Local().Format("2006-01-02 15:04:05")
}
