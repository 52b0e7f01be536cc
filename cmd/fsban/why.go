package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
	"fsban/internal/term"
	"fsban/policy"
)

func newWhy(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "why ADDRESS",
		Short: "Explain why an address is banned, or is not",
		Long: `Explain the state of an address: whether it is banned, by which rule and after which attempts; whether it is never banned or
known-good, and why; its counts by rule, the effect of its next failure, and its last attempts.`,
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
			screen := term.NewScreen(cmd.OutOrStdout())
			screen.PrintLines(explain(screen, &standing, time.Now()))
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// explain renders the state of an address, one fact a line.
func explain(s *term.Screen, w *control.AddressState, now time.Time) []string {
	var lines []string
	row := func(name, format string, args ...any) {
		lines = append(lines, s.Row(fmt.Sprintf("  %-12s ", name), fmt.Sprintf(format, args...))...)
	}
	first := w.Addr.String()
	if !w.Prefix.IsSingleIP() {
		first += fmt.Sprintf(", counted as %v", w.Prefix)
	}
	lines = append(lines, first)
	state := stateName(w)
	if w.Watching {
		row("watching", "nobody is blocked: fsban enforce switches enforcement on")
	}
	for _, p := range w.Blocked {
		row("BLOCKED", "the kernel still holds a ban of %v from before fsban watched", p)
	}
	stamp := func(t time.Time) string { return t.Local().Format(time.DateTime) }
	attempts := w.Attempts
	switch b := w.Ban; {
	case b != nil:
		banRows(s, w, b, now, row)
		for i := range w.Wider {
			banRows(s, w, &w.Wider[i], now, row)
		}
		attempts = b.Evidence
	case w.Held != nil:
		row("held", "a ban by rule %s, by the %s guard: fsban held", s.Clean(w.Held.Rule), s.Clean(w.Held.Guard))
		attempts = w.Held.Evidence
	default:
		row(state, "no")
	}
	if w.Never != nil {
		row("never banned", "because of %v (%s)%s", w.Never.Prefix, s.Clean(w.Never.Origin), despite(s, w))
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
		row("counts", "%d of %d within %s, rule %s", c.Count, c.MaxRetry, c.FindTime, s.Clean(c.Rule))
	}
	for _, text := range nextFailure(s, w) {
		row("next failure", "%s", text)
	}
	for _, p := range w.Stuck {
		of := ""
		if p.Domain != "" {
			of = " of " + s.Quote(p.Domain, 60)
		}
		row("stuck phone", "user %s%s, %d failures since %s, %s", s.Quote(p.User, 60), of, p.Count, stamp(p.Since), s.Quote(p.UserAgent, 80))
	}
	for _, a := range attempts {
		number := ""
		if a.Number != "" {
			number = " to " + s.Quote(a.Number, 60)
		}
		row("attempt", "%s %s %s%s user %s%s, %s, reported by %s", stamp(a.At), kindOf(s, &a), s.Clean(a.Method), onWire(s, &a),
			s.Quote(a.User, 60), number, s.Quote(a.UserAgent, 80), s.Clean(a.Source))
	}
	for i := range w.History {
		e := &w.History[i]
		row("ended ban", "%s to %s, rule %s%s, %s", stamp(e.Since), stamp(e.Ended), s.Clean(e.Rule), attemptsOf(", ", e.Attempts), endingOf(s, e))
	}
	return lines
}

// attemptsOf renders the attempts that led to a ban, after an introduction, or nothing for a ban without attempts, by hand for example.
func attemptsOf(before string, n int) string {
	if n == 0 {
		return ""
	}
	return before + plural(n, "attempt")
}

// stateName names the state of a banned address.
func stateName(w *control.AddressState) string {
	if w.Watching {
		return "would ban"
	}
	return "banned"
}

// banRows renders a ban that holds the address.
func banRows(s *term.Screen, w *control.AddressState, b *control.Ban, now time.Time, row func(name, format string, args ...any)) {
	part := ""
	if b.Prefix != w.Prefix && !b.Prefix.IsSingleIP() {
		part = fmt.Sprintf("as part of %v ", b.Prefix)
	}
	row(stateName(w), "%sby rule %s since %s, %s left%s", part, s.Clean(b.Rule), b.Since.Local().Format(time.DateTime),
		timeLeft(b, now), attemptsOf(", after ", b.Attempts))
	if b.By != "" || b.Reason != "" {
		row("by", "%s %s", s.Clean(b.By), s.Quote(b.Reason, 200))
	}
	if b.Node != "" {
		row("node", "%s", nodeOf(s, b))
		if len(b.Evidence) == 0 && b.Attempts > 0 && b.Rule != "operator" {
			row("evidence", "is on that node, run there: fsban why %v", w.Addr)
		}
	}
	if !b.Watched || b.InKernel {
		row("dropped", "%d packets, %d bytes", b.Dropped.Packets, b.Dropped.Bytes)
	}
}

// despite explains why an address on the never-ban list is banned.
func despite(s *term.Screen, w *control.AddressState) string {
	b := w.Ban
	switch {
	case b == nil:
		return ""
	case b.Forced:
		return fmt.Sprintf(", but %s has banned %v with --force: fsban unban %v", s.Clean(b.By), b.Prefix, b.Prefix)
	}
	return fmt.Sprintf(", but the ban of %v holds: fsban unban %v", b.Prefix, b.Prefix)
}

// nextFailure renders the effect of the next failure.
func nextFailure(s *term.Screen, w *control.AddressState) (list []string) {
	if len(w.Next) == 0 && w.Ban != nil {
		if w.Watching {
			return []string{"does not count: it would be banned"}
		}
		return []string{"does not count: it is banned"}
	}
	for i := range w.Next {
		text := verdict(s, &w.Next[i], w.Never)
		if ban, found := strings.CutPrefix(text, "bans "); found && w.Watching {
			text = "would ban " + ban
		}
		switch {
		case len(list) > 0 && text == list[0]: // they differ in details that are not shown
		case w.Next[i].User == "another" && len(w.Attempts) > 0:
			list = append(list, "of another user "+text)
		default:
			list = append(list, text)
		}
	}
	return list
}

// verdict renders one possible effect of the next failure.
func verdict(s *term.Screen, n *control.Next, never *control.NeverBan) string {
	rule := s.Clean(n.Rule)
	ban := fmt.Sprintf("it by %s for %s", rule, term.Duration(n.BanTime))
	if n.BanTime == policy.Forever {
		ban = fmt.Sprintf("it by %s for good", rule)
	}
	spared := "is spared: never banned"
	if never != nil {
		spared += " (" + s.Clean(never.Origin) + ")"
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
		return fmt.Sprintf("would ban %s: the %s guard holds that", ban, s.Clean(n.Guard))
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
