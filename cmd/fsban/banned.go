package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"fsban/control"
	"fsban/internal/term"
)

func newBanned(s *settings) *cobra.Command {
	var quiet bool
	c := &cobra.Command{
		Use:   "banned ADDRESS|PREFIX...",
		Short: "Check whether an address is banned, for scripts",
		Long: `Check whether addresses or prefixes are banned, each by a ban of its own or of a network around it. The exit code is 0 if at
least one of them is banned, 1 if none is, and 2 after an error: as with systemctl is-active and grep, and unlike
fail2ban-client banned, which always exits with 0. While fsban watches no address is banned.`,
		Example: "  fsban banned 192.0.2.7\n  fsban banned -q 192.0.2.7 && echo \"still banned\"",
		Args:    someArgs,
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			found, err := anyBanned(cmd.Context(), client, args, term.NewScreen(cmd.OutOrStdout()), quiet)
			switch {
			case err != nil:
				return &exitError{exitUsage, err}
			case !found:
				return &exitError{code: exitFailed}
			}
			return nil
		}),
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing")
	return c
}

// anyBanned reports whether one of the prefixes is banned, and prints a line for each unless quiet.
func anyBanned(ctx context.Context, client *control.Client, args []string, s *term.Screen, quiet bool) (found bool, err error) {
	prefixes, err := parsePrefixes(args)
	if err != nil {
		return false, err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return false, err
	}
	enforced := !status.Watching
	for _, prefix := range prefixes {
		ban, err := coveringBan(ctx, client, prefix)
		if err != nil {
			return false, err
		}
		found = found || ban != nil && enforced
		if !quiet {
			fmt.Fprintln(s.Out, bannedLine(s, prefix, ban, enforced, time.Now()))
		}
	}
	return found, nil
}

// coveringBan returns the ban that covers all of prefix and lasts longest, or nil.
func coveringBan(ctx context.Context, client *control.Client, prefix netip.Prefix) (*control.Ban, error) {
	bans, err := client.Bans(ctx, control.Pick{Prefix: prefix, Sort: "time-left", Reverse: true})
	if err != nil {
		return nil, err
	}
	for i := range bans {
		if covers(bans[i].Prefix, prefix) {
			return &bans[i], nil
		}
	}
	return nil, nil
}

// covers reports whether wide contains all of narrow.
func covers(wide, narrow netip.Prefix) bool {
	return wide.Bits() <= narrow.Bits() && wide.Overlaps(narrow)
}

func bannedLine(s *term.Screen, prefix netip.Prefix, ban *control.Ban, enforced bool, now time.Time) string {
	if ban == nil {
		return term.Prefix(prefix) + " is not banned"
	}
	verb := "is banned"
	if !enforced {
		verb = "would be banned (fsban watches)"
	}
	network := ""
	if ban.Prefix != prefix {
		network = " with " + ban.Prefix.String()
	}
	return fmt.Sprintf("%s %s%s by rule %s, %s", term.Prefix(prefix), verb, network, s.Clean(ban.Rule), remaining(ban, now))
}

// remaining renders the remaining time of a ban in a sentence.
func remaining(b *control.Ban, now time.Time) string {
	if b.Until.IsZero() {
		return "without end"
	}
	return timeLeft(b, now) + " left"
}
