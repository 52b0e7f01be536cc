package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/control"
)

func newStatus(s *settings) *cobra.Command {
	var asJSON, all bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Are we protected, and what needs a human?",
		Long: `Show on one screen whether fsban protects, what needs a human (!), which source speaks for what, what happens right now,
what is banned and seen since the start, and who is never banned. With --all each rule has a line, and so have all problems
and everybody who is never banned.

The exit code is 1 when fsban does not protect.`,
		Example: "  fsban status\n  fsban status --all\n  fsban status --json",
		Args:    noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) error {
			status, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), status)
			} else {
				// A daemon that cannot tell what happens right now has told the rest.
				top, _ := client.Top(cmd.Context(), maxNow)
				printStatus(screenOf(cmd.OutOrStdout()), &status, &top, all, time.Now())
			}
			if err == nil && !status.Ready {
				err = errors.New("not protecting")
			}
			return err
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.Flags().BoolVar(&all, "all", false, "all rules, problems and everybody who is never banned, each on a line")
	return c
}

// What one screen has of each, without --all.
const (
	maxProblems = 8
	maxNever    = 5
	maxNow      = 3
)

func printStatus(s *screen, st *control.Status, top *control.Top, all bool, now time.Time) {
	fmt.Fprintf(s.out, "fsban %s  %s  up %s\n", s.clean(st.Version), s.state(st.Ready), short(now.Sub(st.Started)))
	row := func(name, format string, args ...any) {
		s.say(fmt.Sprintf("  %-10s ", name), fmt.Sprintf(format, args...))
	}
	for i, p := range st.Problems {
		if i == maxProblems && len(st.Problems) > maxProblems+1 && !all {
			row("", "and %d more: fsban status --all", len(st.Problems)-i)
			break
		}
		s.say("  "+s.paint(yellow, "!")+" ", p)
	}
	for i := range st.Sources {
		row("source", "%s", sourceLine(&st.Sources[i], now))
	}
	if text := unheard(st.Speakers); text != "" {
		row("unheard", "%s", text)
	}
	row("firewall", "%s", firewallLine(&st.Firewall))
	var packets uint64
	for _, d := range st.Firewall.Dropped {
		packets += d.Packets
	}
	row("bans", "%d in force (%d IPv4, %d IPv6), %d made since the start, %d packets dropped",
		st.Bans.IPv4+st.Bans.IPv6, st.Bans.IPv4, st.Bans.IPv6, st.Bans.Made, packets)
	if len(top.NewBans) > 0 {
		row("new", "%s", newest(top.NewBans, now))
	}
	if !top.At.IsZero() {
		row("now", "%s", busiestNow(top))
	}
	if st.Fleet != nil {
		printFleet(s, row, st.Fleet, now)
	}
	row("seen", "%s", strings.Join(seen(st), ", "))
	if all {
		for _, r := range st.Policy.Rules {
			s.say(fmt.Sprintf("  %-10s %s ", "rule", fill(s.clean(r.Name), 12)), fmt.Sprintf("%d in %s: banned for %s (%s)", r.MaxRetry, r.FindTime, r.BanTime, strings.Join(r.Kinds, ", ")))
		}
	} else {
		var rules []string
		for _, r := range st.Policy.Rules {
			rules = append(rules, fmt.Sprintf("%s %d in %s", r.Name, r.MaxRetry, r.FindTime))
		}
		row("rules", "%s", strings.Join(rules, ", "))
	}
	row("knows", "%d addresses with attempts, %d known-good", st.Policy.Tracked, st.Policy.KnownGood)
	s.neverBanned(st.Policy.NeverBan, all)
}

func (s *screen) state(ready bool) string {
	if !ready {
		return s.paint(red, "NOT PROTECTING")
	}
	return s.paint(green, "PROTECTING")
}

func sourceLine(src *control.Source, now time.Time) string {
	line := strings.TrimRight(src.Name+" "+src.Address, " ") + ": "
	switch {
	case src.Up && src.Since.IsZero():
		line += "up"
	case src.Up:
		line += "up for " + short(now.Sub(src.Since))
	case src.Retry.After(now):
		line += "down, next try in " + short(src.Retry.Sub(now)+time.Second)
	default:
		line += "down"
	}
	if !src.LastEvent.IsZero() {
		line += ", last event " + short(now.Sub(src.LastEvent)) + " ago"
	}
	switch {
	case len(src.Speaks) > 0:
		line += ", speaks for " + strings.Join(src.Speaks, ", ")
	case src.Up:
		line += ", in reserve"
	}
	if src.Unconfirmed > 0 {
		line += fmt.Sprintf(", %d attempts that nobody confirmed", src.Unconfirmed)
	}
	return line
}

// unheard says of which kinds nobody tells, and why.
func unheard(speakers []control.Speaker) string {
	var kinds []string
	for _, sp := range speakers {
		if sp.Source != "" {
			continue
		}
		text := sp.Kind
		if sp.Why != "" {
			text += " (" + sp.Why + ")"
		}
		kinds = append(kinds, text)
	}
	return strings.Join(kinds, ", ")
}

func firewallLine(f *control.Firewall) string {
	line := f.Backend + ", enforcing"
	if !f.Enforcing {
		line = f.Backend + ", NOT enforcing"
	}
	if f.Pending > 0 {
		line += fmt.Sprintf(", %d changes pending", f.Pending)
	}
	if f.Repairs > 0 || f.Restored > 0 {
		line += fmt.Sprintf(", repaired %d rules or sets, restored %d bans", f.Repairs, f.Restored)
	}
	return line
}

// newest names the bans made last.
func newest(bans []control.Ban, now time.Time) string {
	var list []string
	for _, b := range bans[:min(len(bans), maxNow)] {
		list = append(list, fmt.Sprintf("%s %s ago (%s)", shortest(b.Prefix), short(now.Sub(b.Since)), b.Rule))
	}
	return strings.Join(list, ", ")
}

// busiestNow says who tries most.
func busiestNow(top *control.Top) string {
	if len(top.Addresses) == 0 {
		return "nobody has tried anything in the last 5m"
	}
	var list []string
	for _, b := range top.Addresses[:min(len(top.Addresses), maxNow)] {
		state := ""
		if b.Banned {
			state = ", banned"
		}
		list = append(list, fmt.Sprintf("%s (%d%s)", shortest(b.Prefix), b.Attempts, state))
	}
	return "most attempts in the last 5m: " + strings.Join(list, ", ")
}

// neverBanned lists who is never banned; who attacks and who was allowed by hand stands first.
func (s *screen) neverBanned(list []control.NeverBan, all bool) {
	list = slices.Clone(list)
	rank := func(n control.NeverBan) int {
		switch {
		case n.Bans > 0:
			return 0
		case strings.HasPrefix(n.Origin, allowedBy):
			return 1
		case n.Spared > 0:
			return 2
		}
		return 3
	}
	if !all {
		slices.SortStableFunc(list, func(a, b control.NeverBan) int { return cmp.Compare(rank(a), rank(b)) })
	}
	for i, n := range list {
		if i == maxNever && len(list) > maxNever+1 && !all {
			fmt.Fprintf(s.out, "  %-10s and %d more: fsban status --all\n", "", len(list)-i)
			break
		}
		spared := ""
		if n.Spared > 0 {
			spared = fmt.Sprintf(", %d attempts spared", n.Spared)
		}
		s.say(fmt.Sprintf("  %-10s %-20s ", "never ban", shortest(n.Prefix)), n.Origin+spared)
	}
}

// seen says what was seen since the start; beside failures what did not happen is left out.
func seen(s *control.Status) []string {
	list := []string{fmt.Sprintf("%d failures", s.Attempts["auth_failure"])}
	for _, kind := range []struct{ name, words string }{
		{"violation", "violations"}, {"call_reject", "calls refused"}, {"acl_reject", "refused by access lists"},
		{"challenge", "challenges"}, {"auth_success", "successes"},
	} {
		if n := s.Attempts[kind.name]; n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, kind.words))
		}
	}
	if s.Policy.Spared > 0 {
		list = append(list, fmt.Sprintf("%d from addresses never banned", s.Policy.Spared))
	}
	return list
}

// printFleet shows the fleet and its nodes.
func printFleet(s *screen, row func(name, format string, args ...any), f *control.Fleet, now time.Time) {
	line := fmt.Sprintf("%s through %s, shares %s: ", f.Name, f.Redis, f.Share)
	switch {
	case !f.Up:
		line += "ALONE for " + short(now.Sub(f.Since))
	case f.InStep:
		line += "in step"
	default:
		line += "catching up"
	}
	if f.Queue > 0 {
		line += fmt.Sprintf(", %d things still to be told", f.Queue)
	}
	if f.Waiting > 0 {
		line += fmt.Sprintf(", %d bans of others wait", f.Waiting)
	}
	row("fleet", "%s", line)
	for i := range f.Nodes {
		n := &f.Nodes[i]
		line := fmt.Sprintf("%-20s %s, seen %s ago, %d bans", s.clean(n.Name), s.clean(n.Version), short(now.Sub(n.Seen)), n.Bans)
		if !n.Ready {
			line += ", NOT PROTECTING"
		}
		if len(n.Speaks) > 0 {
			line += ", speaks by " + s.clean(strings.Join(n.Speaks, ", "))
		}
		if n.Name == f.Node {
			line += ", this node"
		}
		row("node", "%s", line)
	}
}
