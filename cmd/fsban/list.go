package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
)

func newList(s *settings) *cobra.Command {
	var (
		asJSON, evidence bool
		pick             control.Pick
		prefix, within   string
	)
	c := &cobra.Command{
		Use:   "list",
		Short: "List who is banned",
		Long: `List the bans in force, oldest first: what is banned, by which rule, since and for how long still, after how many
attempts, what the kernel has thrown away since, and why: an operator's reason, or the users that were tried. On a narrow
terminal some columns are left out; a pipe gets them all.`,
		Example: `  fsban list
  fsban list --sort dropped --limit 10        # who still hammers at the door
  fsban list --prefix 203.0.113.0/24          # bans in it, and bans that cover it
  fsban list --rule scanner,toll --left 1h    # ending within an hour
  fsban list --source operator --json         # made by hand, for programs`,
		Args: noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) (err error) {
			if prefix != "" {
				if pick.Prefix, err = config.ParsePrefix(prefix); err != nil {
					return &usageError{fmt.Errorf("--prefix: %w", err)}
				}
			}
			if within != "" {
				if pick.Left, err = config.ParseDuration(within); err != nil {
					return &usageError{fmt.Errorf("--left: %w", err)}
				}
			}
			if err := pick.Check(); err != nil {
				return &usageError{fmt.Errorf("--%w", err)}
			}
			switch {
			case evidence:
				pick.Evidence = control.All
			case !asJSON: // whose users tell why
				pick.Evidence = maxWithUsers
			}
			bans, err := client.Bans(cmd.Context(), pick)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), bans)
			}
			status, err := client.Status(cmd.Context())
			if err != nil {
				return err
			}
			printBans(screenOf(cmd.OutOrStdout()), bans, max(len(bans), status.Bans.IPv4+status.Bans.IPv6), evidence, time.Now())
			return nil
		}),
	}
	f := c.Flags()
	f.BoolVar(&asJSON, "json", false, "as JSON")
	f.BoolVar(&evidence, "evidence", false, "with the attempts that led to each ban")
	f.StringVar(&pick.Sort, "sort", "since", "`order`: "+strings.Join(control.Orders(), ", "))
	f.BoolVar(&pick.Reverse, "reverse", false, "the other way round")
	f.StringSliceVar(&pick.Rules, "rule", nil, "only bans of these `rules`")
	f.StringVar(&prefix, "prefix", "", "only bans inside of, or covering, this `prefix` or address")
	f.StringSliceVar(&pick.Sources, "source", nil, "only bans of these `sources`: event, cti_event, esl_log, cti_log, fleet, operator")
	f.StringVar(&pick.By, "by", "", "only bans by hand, in whose maker this `text` stands")
	f.StringVar(&pick.Node, "node", "", "only bans that this `node` of the fleet has made: its name as fsban status shows it, or its fleet.node")
	f.StringVar(&within, "left", "", "only bans that end within this `time`: 10m, 1h, 1d")
	f.IntVar(&pick.Limit, "limit", 0, "at most so many (default: all)")
	_ = c.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(control.Orders(), cobra.ShellCompDirectiveNoFileComp))
	return c
}

// maxWithUsers bounds of how many bans the users are looked up.
const maxWithUsers = 1000

func printBans(s *screen, bans []control.Ban, all int, evidence bool, now time.Time) {
	switch {
	case all == 0:
		fmt.Fprintln(s.out, "nobody is banned")
		return
	case len(bans) == 0:
		fmt.Fprintf(s.out, "none of the %d bans in force is of that kind\n", all)
		return
	}
	t := table{columns: []column{
		{name: "BANNED"}, {name: "RULE"}, {name: "SINCE", drop: 1}, {name: "LEFT"}, {name: "ATTEMPTS", right: true, drop: 3},
		{name: "PACKETS", right: true}, {name: "BYTES", right: true, drop: 2}, {name: "WHY", least: 14},
	}}
	fleet := slices.ContainsFunc(bans, func(b control.Ban) bool { return b.Node != "" })
	if fleet {
		t.columns = append(t.columns, column{name: "NODE"})
	}
	for i := range bans {
		b := &bans[i]
		attempts, packets, bytes := "-", human(b.Dropped.Packets), human(b.Dropped.Bytes)+"B"
		if b.Attempts > 0 {
			attempts = human(uint64(b.Attempts))
		}
		if !b.InKernel {
			packets, bytes = "not yet", "-"
		}
		cells := []string{shortest(b.Prefix), s.clean(b.Rule), b.Since.Local().Format("01-02 15:04"), timeLeft(b, now), attempts, packets, bytes, s.why(b)}
		if fleet {
			cells = append(cells, s.node(b))
		}
		t.add(cells...)
		if evidence {
			for _, a := range b.Evidence {
				t.note("    " + s.attempt(&a))
			}
		}
	}
	t.print(s)
	if len(bans) < all {
		fmt.Fprintf(s.out, "%d of %d bans\n", len(bans), all)
	}
}

// node says which node of the fleet has made a ban.
func (s *screen) node(b *control.Ban) string {
	if b.Local {
		return s.clean(b.Node) + " (here alone)"
	}
	return s.clean(b.Node)
}

// why says in a few words why somebody is banned.
func (s *screen) why(b *control.Ban) string {
	switch {
	case b.Reason != "":
		return s.clean(b.Reason)
	case b.By != "":
		return s.clean("by " + b.By)
	}
	return s.users(usersOf(b.Evidence))
}

// attempt is one attempt, on a line.
func (s *screen) attempt(a *control.Attempt) string {
	text := fmt.Sprintf("%s %s", a.At.Local().Format("01-02 15:04:05"), s.clean(a.Kind))
	if a.Method != "" {
		text += " " + s.clean(a.Method)
	}
	text += " user " + s.quote(a.User, 40)
	if a.Number != "" {
		text += " to " + s.quote(a.Number, 40)
	}
	return text + " from " + a.Addr.String() + " agent " + s.quote(a.UserAgent, 60) + " told by " + s.clean(a.Source)
}

// users names some users, the first few of them, each once.
func (s *screen) users(all []string) string {
	var names []string
	for _, user := range all {
		if name := s.quote(user, 22); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if n := len(names); n > 3 {
		return strings.Join(names[:3], " ") + fmt.Sprintf(" and %d more", n-3)
	}
	return strings.Join(names, " ")
}

func usersOf(attempts []control.Attempt) []string {
	list := make([]string, len(attempts))
	for i := range attempts {
		list[i] = attempts[i].User
	}
	return list
}

func timeLeft(b *control.Ban, now time.Time) string {
	if b.Until.IsZero() {
		return "forever"
	}
	return short(b.Until.Sub(now))
}

// short rounds a duration to what a reader needs.
func short(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return "0s"
	case d < 10*time.Minute:
		return d.Round(time.Second).String()
	case d > 1000*day:
		return fmt.Sprintf("%dy", d/(365*day))
	case d > 2*day:
		d = d.Round(time.Hour)
	default:
		d = d.Round(time.Minute)
	}
	if days := d / day; days > 0 && d%day > 0 {
		return fmt.Sprintf("%dd", days) + config.Duration(d%day).String()
	}
	return config.Duration(d).String()
}

// human writes a large number in three digits.
func human(n uint64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	x, unit := float64(n), 0
	for ; x >= 999.5; unit++ {
		x /= 1000
	}
	text := fmt.Sprintf("%.1f", x)
	if x >= 9.95 {
		text = fmt.Sprintf("%.0f", x)
	}
	return text + string(" kMGTPE"[unit])
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
