package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/control"
)

func newStatus(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Are we protected, and what needs a human?",
		Long:  "Show on one screen whether fsban protects, what it hears, what it has banned, and what is wrong. The exit code is 1 when it does not protect.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := s.client()
			defer client.Close()
			status, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), status)
			} else {
				printStatus(cmd.OutOrStdout(), &status, time.Now())
			}
			if err == nil && !status.Ready {
				err = errors.New("not protecting")
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func printStatus(out io.Writer, s *control.Status, now time.Time) {
	state := "PROTECTING"
	if !s.Ready {
		state = "NOT PROTECTING"
	}
	fmt.Fprintf(out, "fsban %s  %s  up %s\n", s.Version, state, short(now.Sub(s.Started)))
	for _, p := range s.Problems {
		fmt.Fprintf(out, "  ! %s\n", p)
	}
	row := func(name, format string, args ...any) {
		fmt.Fprintf(out, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	for _, src := range s.Sources {
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
		row("source", "%s", line)
	}
	f := &s.Firewall
	enforcing := "enforcing"
	if !f.Enforcing {
		enforcing = "NOT enforcing"
	}
	line := fmt.Sprintf("%s, %s", f.Backend, enforcing)
	if f.Pending > 0 {
		line += fmt.Sprintf(", %d changes pending", f.Pending)
	}
	if f.Repairs > 0 || f.Restored > 0 {
		line += fmt.Sprintf(", repaired %d rules or sets, restored %d bans", f.Repairs, f.Restored)
	}
	row("firewall", "%s", line)
	var packets uint64
	for _, d := range f.Dropped {
		packets += d.Packets
	}
	row("bans", "%d in force (%d IPv4, %d IPv6), %d made since the start, %d packets dropped", s.Bans.IPv4+s.Bans.IPv6, s.Bans.IPv4, s.Bans.IPv6, s.Bans.Made, packets)
	row("seen", "%s", strings.Join(seen(s), ", "))
	for _, r := range s.Policy.Rules {
		row("rule", "%-12s %d in %s: banned for %s  (%s)", r.Name, r.MaxRetry, r.FindTime, r.BanTime, strings.Join(r.Kinds, ", "))
	}
	row("knows", "%d addresses with attempts, %d known-good", s.Policy.Tracked, s.Policy.KnownGood)
	for _, n := range s.Policy.NeverBan {
		spared := ""
		if n.Spared > 0 {
			spared = fmt.Sprintf(", %d attempts spared", n.Spared)
		}
		row("never ban", "%-20v %s%s", n.Prefix, n.Origin, spared)
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
