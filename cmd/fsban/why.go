package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
)

func newWhy(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "why ADDRESS",
		Short: "Everything that is known of an address",
		Long: `Say everything that is known of an address: whether it is banned, by which rule and after which attempts; whether it is
never banned or known-good, and why; how far it is with each rule, and what it did last.`,
		Example:           "  fsban why 192.0.2.7",
		Args:              oneArg,
		ValidArgsFunction: s.completing(1, bannedAddresses),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix, err := config.ParsePrefix(args[0])
			if err != nil || !prefix.IsSingleIP() {
				return &usageError{fmt.Errorf("%.60q is not an address", args[0])}
			}
			client, err := s.client()
			if err != nil {
				return err
			}
			defer client.Close()
			standing, err := client.Why(cmd.Context(), prefix.Addr())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), standing)
			}
			screen := screenOf(cmd.OutOrStdout())
			for _, line := range screen.standing(&standing, time.Now()) {
				fmt.Fprintln(screen.out, line)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// standing says it all, a fact a line.
func (s *screen) standing(w *control.Standing, now time.Time) []string {
	var lines []string
	row := func(name, format string, args ...any) {
		lines = append(lines, s.row(fmt.Sprintf("  %-12s ", name), fmt.Sprintf(format, args...))...)
	}
	first := w.Addr.String()
	if !w.Prefix.IsSingleIP() {
		first += fmt.Sprintf(", counted as %v", w.Prefix)
	}
	lines = append(lines, first)
	stamp := func(t time.Time) string { return t.Local().Format(time.DateTime) }
	attempts := w.Attempts
	switch b := w.Ban; {
	case b != nil:
		row("banned", "by rule %s since %s, %s left, after %d attempts", s.clean(b.Rule), stamp(b.Since), timeLeft(b, now), b.Attempts)
		if b.By != "" || b.Reason != "" {
			row("by", "%s %s", s.clean(b.By), s.quote(b.Reason, 200))
		}
		if b.Node != "" {
			row("node", "%s", s.node(b))
		}
		row("dropped", "%d packets, %d bytes", b.Dropped.Packets, b.Dropped.Bytes)
		attempts = b.Evidence
	case w.Held != nil:
		row("held", "a ban by rule %s, by the %s guard: fsban held", s.clean(w.Held.Rule), s.clean(w.Held.Guard))
		attempts = w.Held.Evidence
	default:
		row("banned", "no")
	}
	if w.Never != nil {
		row("never banned", "because of %v (%s)", w.Never.Prefix, s.clean(w.Never.Origin))
	}
	if !w.KnownGood.IsZero() {
		row("known-good", "since %s, last login %s", stamp(w.KnownGood), stamp(w.LastLogin))
	}
	if !w.Suspected.IsZero() {
		row("suspicious", "a login right after failures, %s", stamp(w.Suspected))
	}
	if w.Offences > 0 {
		row("past bans", "%d, the last began %s: the next one is longer", w.Offences, stamp(w.LastBan))
	}
	if w.Excused {
		row("excused", "a ban of it was lifted a moment ago: nothing counts yet")
	}
	for _, c := range w.Counts {
		row("counts", "%d of %d within %s, rule %s", c.Count, c.MaxRetry, c.FindTime, s.clean(c.Rule))
	}
	for _, p := range w.Stuck {
		row("stuck phone", "user %s, %d failures since %s, %s", s.quote(p.User, 60), p.Count, stamp(p.Since), s.quote(p.UserAgent, 80))
	}
	for _, a := range attempts {
		number := ""
		if a.Number != "" {
			number = " to " + s.quote(a.Number, 60)
		}
		row("attempt", "%s %s %s user %s%s, %s, told by %s", stamp(a.At), s.clean(a.Kind), s.clean(a.Method), s.quote(a.User, 60), number, s.quote(a.UserAgent, 80), s.clean(a.Source))
	}
	return lines
}
