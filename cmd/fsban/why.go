package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
	"fsban/policy"
)

func newWhy(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "why ADDRESS",
		Short: "Everything that is known of an address",
		Long: `Say everything that is known of an address: whether it is banned, by which rule and after which attempts; whether it is
never banned or known-good, and why; how far it is with each rule, what its next failure would lead to, and what it did
last.`,
		Example:           "  fsban why 192.0.2.7",
		Args:              oneArg,
		ValidArgsFunction: s.completing(1, bannedAddresses),
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			prefix, err := config.ParsePrefix(args[0])
			if err != nil || !prefix.IsSingleIP() {
				return &usageError{fmt.Errorf("%.60q is not an address", args[0])}
			}
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
		}),
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
	for _, c := range w.Counts {
		row("counts", "%d of %d within %s, rule %s", c.Count, c.MaxRetry, c.FindTime, s.clean(c.Rule))
	}
	for _, text := range s.next(w) {
		row("next failure", "%s", text)
	}
	for _, p := range w.Stuck {
		of := ""
		if p.Domain != "" {
			of = " of " + s.quote(p.Domain, 60)
		}
		row("stuck phone", "user %s%s, %d failures since %s, %s", s.quote(p.User, 60), of, p.Count, stamp(p.Since), s.quote(p.UserAgent, 80))
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

// next says what the next failure leads to.
func (s *screen) next(w *control.Standing) (list []string) {
	if len(w.Next) == 0 && w.Ban != nil {
		return []string{"does not count: it is banned"}
	}
	for i := range w.Next {
		text := s.leadsTo(&w.Next[i], w.Never)
		switch {
		case len(list) > 0 && text == list[0]: // they differ in what is not said
		case w.Next[i].User == "another" && len(w.Attempts) > 0:
			list = append(list, "of another user "+text)
		default:
			list = append(list, text)
		}
	}
	return list
}

func (s *screen) leadsTo(n *control.Next, never *control.NeverBan) string {
	rule := s.clean(n.Rule)
	ban := fmt.Sprintf("it by %s for %s", rule, short(n.BanTime))
	if n.BanTime == policy.Forever {
		ban = fmt.Sprintf("it by %s for good", rule)
	}
	spared := "is spared: never banned"
	if never != nil {
		spared += " (" + s.clean(never.Origin) + ")"
	}
	switch n.Verdict {
	case policy.Counted.String():
		return fmt.Sprintf("counts as %d of %d for %s", n.Count, n.MaxRetry, rule)
	case policy.BanNow.String():
		if n.Offence > 1 {
			ban += fmt.Sprintf(" (its ban number %d)", n.Offence)
		}
		return "bans " + ban
	case policy.Held.String():
		return fmt.Sprintf("would ban %s: the %s guard holds that", ban, s.clean(n.Guard))
	case policy.Spared.String():
		return spared
	case policy.SparedBan.String():
		return fmt.Sprintf("would ban %s, and %s", ban, spared)
	case policy.Excused.String():
		return "does not count: unbanned a moment ago"
	default:
		return "does not count: no rule asks for it"
	}
}
