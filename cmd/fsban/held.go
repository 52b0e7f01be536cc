package main

import (
	"errors"
	"fmt"
	"net/netip"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
	"fsban/policy"
)

func newHeld(s *settings) *cobra.Command {
	var asJSON, release, discard, all bool
	c := &cobra.Command{
		Use:   "held [ADDRESS|PREFIX...]",
		Short: "Which bans do the guards hold? Make them, or drop them",
		Long: `List the bans that a guard holds: the outage guard those of known-good addresses, when many of them fail together; the
ban-rate guard those beyond policy.ban_rate a minute. With --release the ones named are made now, with --discard they are
dropped; --all means every one.`,
		Example:           "  fsban held\n  fsban held --release 192.0.2.7\n  fsban held --discard --all",
		ValidArgsFunction: s.completing(0, heldNow),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := s.client()
			defer client.Close()
			out := cmd.OutOrStdout()
			switch {
			case release && discard:
				return &usageError{errors.New("either --release or --discard")}
			case (release || discard) && all == (len(args) > 0):
				return &usageError{errors.New("name addresses, or say --all")}
			case !release && !discard && (all || len(args) > 0):
				return &usageError{errors.New("say what to do with them: --release or --discard")}
			}
			do, done := client.Release, "released"
			if discard {
				do, done = client.Discard, "discarded"
			}
			if all {
				n, err := do(cmd.Context(), netip.Prefix{})
				if err == nil {
					fmt.Fprintf(out, "%d bans %s\n", n, done)
				}
				return err
			}
			if len(args) > 0 {
				return eachPrefix(args, func(p netip.Prefix) error {
					_, err := do(cmd.Context(), p)
					if err == nil {
						fmt.Fprintf(out, "%v %s\n", p, done)
					}
					return err
				})
			}
			held, err := client.Held(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(out, held)
			}
			if len(held) == 0 {
				fmt.Fprintln(out, "no ban is held")
				return nil
			}
			w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "HELD\tGUARD\tRULE\tSINCE\tFAILURES\tUSERS")
			for _, h := range held {
				fmt.Fprintf(w, "%v\t%s\t%s\t%s\t%d\t%s\n", h.Prefix, h.Guard, h.Rule, h.Since.Local().Format("01-02 15:04:05"), h.Attempts, usersOf(h.Evidence))
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.Flags().BoolVar(&release, "release", false, "make them now")
	c.Flags().BoolVar(&discard, "discard", false, "drop them")
	c.Flags().BoolVar(&all, "all", false, "every one")
	return c
}

// usersOf names the users of some attempts, the first few of them.
func usersOf(attempts []control.Attempt) string {
	list := make([]policy.Attempt, len(attempts))
	for i, a := range attempts {
		list[i].User = a.User
	}
	return users(list)
}

func newWhy(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "why ADDRESS",
		Short: "Everything that is known of an address",
		Long: `Say everything that is known of an address: whether it is banned, by which rule and after which attempts; whether it is
never banned or known-good, and why; how far it is with each rule, and what it did last.`,
		Example:           "  fsban why 192.0.2.7",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: s.completing(1, bannedAddresses),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix, err := config.ParsePrefix(args[0])
			if err != nil || !prefix.IsSingleIP() {
				return &usageError{fmt.Errorf("%.60q is not an address", args[0])}
			}
			client := s.client()
			defer client.Close()
			standing, err := client.Why(cmd.Context(), prefix.Addr())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), standing)
			}
			return printStanding(cmd, &standing, time.Now())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func printStanding(cmd *cobra.Command, s *control.Standing, now time.Time) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	counted := ""
	if !s.Prefix.IsSingleIP() {
		counted = fmt.Sprintf(", counted as %v", s.Prefix)
	}
	fmt.Fprintf(w, "%v%s\n", s.Addr, counted)
	stamp := func(t time.Time) string { return t.Local().Format(time.DateTime) }
	attempts := s.Attempts
	switch b := s.Ban; {
	case b != nil:
		row("banned", "by rule %s since %s, %s left, after %d attempts", b.Rule, stamp(b.Since), timeLeft(b, now), b.Attempts)
		if b.By != "" || b.Reason != "" {
			row("by", "%s %q", b.By, b.Reason)
		}
		row("dropped", "%d packets, %d bytes", b.Dropped.Packets, b.Dropped.Bytes)
		attempts = b.Evidence
	case s.Held != nil:
		row("held", "a ban by rule %s, by the %s guard: fsban held", s.Held.Rule, s.Held.Guard)
		attempts = s.Held.Evidence
	default:
		row("banned", "no")
	}
	if s.Never != nil {
		row("never banned", "because of %v (%s)", s.Never.Prefix, s.Never.Origin)
	}
	if !s.KnownGood.IsZero() {
		row("known-good", "since %s, last login %s", stamp(s.KnownGood), stamp(s.LastLogin))
	}
	if !s.Suspected.IsZero() {
		row("suspicious", "a login right after failures, %s", stamp(s.Suspected))
	}
	if s.Offences > 0 {
		row("past bans", "%d, the last began %s: the next one is longer", s.Offences, stamp(s.LastBan))
	}
	if s.Excused {
		row("excused", "a ban of it was lifted a moment ago: nothing counts yet")
	}
	for _, c := range s.Counts {
		row("counts", "%d of %d within %s, rule %s", c.Count, c.MaxRetry, c.FindTime, c.Rule)
	}
	for _, p := range s.Stuck {
		row("stuck phone", "user %q, %d failures since %s, %q", p.User, p.Count, stamp(p.Since), p.UserAgent)
	}
	for _, a := range attempts {
		number := ""
		if a.Number != "" {
			number = fmt.Sprintf(" to %q", a.Number)
		}
		row("attempt", "%s %s %s user %q%s, %q, told by %s", stamp(a.At), a.Kind, a.Method, a.User, number, a.UserAgent, a.Source)
	}
	return w.Flush()
}
