package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"fsban/control"
)

func newHeld(s *settings) *cobra.Command {
	var asJSON, release, discard, all bool
	c := &cobra.Command{
		Use:   "held [ADDRESS|PREFIX...]",
		Short: "Which bans do guards hold? Make them, or drop them",
		Long: `List the bans that a guard holds: the outage guard those of known-good addresses, when many of them fail together; the
ban-rate guard those beyond policy.ban_rate a minute. With --release the ones named are made now, with --discard they are
dropped; --all means every one.`,
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
			printHeld(screenOf(out), held)
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.Flags().BoolVar(&release, "release", false, "make them now")
	c.Flags().BoolVar(&discard, "discard", false, "drop them")
	c.Flags().BoolVar(&all, "all", false, "every one")
	return c
}

func printHeld(s *screen, held []control.HeldBan) {
	t := table{columns: []column{{name: "HELD"}, {name: "GUARD"}, {name: "RULE"}, {name: "SINCE", drop: 1}, {name: "ATTEMPTS", right: true}, {name: "USERS", least: 14}}}
	for _, h := range held {
		t.add(shortest(h.Prefix), s.clean(h.Guard), s.clean(h.Rule), h.Since.Local().Format("01-02 15:04:05"), strconv.Itoa(h.Attempts), s.users(usersOf(h.Evidence)))
	}
	t.print(s)
}
