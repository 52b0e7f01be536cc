package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"fsban/control"
	"fsban/internal/term"
)

func newHeld(s *settings) *cobra.Command {
	var asJSON, release, discard, all bool
	c := &cobra.Command{
		Use:   "held [ADDRESS|PREFIX...]",
		Short: "List, release or discard bans held by a guard",
		Long: `List the bans held by a guard: by the outage guard those of known-good addresses, when many of them fail together; by the
known-good guard those of known-good addresses beyond policy.known_good.ban_rate; by the ban-rate guard those beyond policy.ban_rate
a minute. FIRED counts how often a rule wanted the ban: addresses that go on come first. --release makes the named bans now,
--discard drops them; --all means every held ban.`,
		Example:           "  fsban held\n  fsban held --release 192.0.2.7\n  fsban held --discard --all",
		ValidArgsFunction: s.completing(0, heldNow),
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
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
			printHeld(term.NewScreen(out), held)
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.Flags().BoolVar(&release, "release", false, "make the named bans now")
	c.Flags().BoolVar(&discard, "discard", false, "drop the named bans")
	c.Flags().BoolVar(&all, "all", false, "every held ban")
	return c
}

func printHeld(s *term.Screen, held []control.HeldBan) {
	t := term.Table{Columns: []term.Column{{Name: "HELD", Want: ipv4Width}, {Name: "GUARD", Drop: 2}, {Name: "RULE", Drop: 4},
		{Name: "SINCE", Drop: 1},
		{Name: "ATTEMPTS", Right: true, Drop: 3}, {Name: "FIRED", Right: true, Drop: 1}, {Name: "USERS", Want: 14}}}
	for _, h := range held {
		t.Add(term.Prefix(h.Prefix), s.Clean(h.Guard), s.Clean(h.Rule), h.Since.Local().Format("01-02 15:04:05"), strconv.Itoa(h.Attempts),
			strconv.Itoa(h.Firings), userList(s, usersOf(h.Evidence)))
	}
	t.Print(s)
	fmt.Fprintln(s.Out, plural(len(held), "held ban"))
}
