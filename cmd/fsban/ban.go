package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
	"fsban/internal/term"
)

func newBan(s *settings) *cobra.Command {
	var (
		bantime string
		req     control.BanRequest
	)
	c := &cobra.Command{
		Use:   "ban ADDRESS|PREFIX...",
		Short: "Ban an address or prefix",
		Long: `Ban addresses or prefixes by hand. A repeated ban changes only the given values: without --bantime its end stays, without
--reason its reason, and one made with --local stays local. A target that is on the never-ban list (fsban status --all),
known-good or very wide (an IPv4 /16, an IPv6 /32), or that holds such addresses, needs a confirmation on a terminal, or --force.
After a refusal the others are still banned, and the exit code is 1.`,
		Example: "  fsban ban 192.0.2.7\n  fsban ban 192.0.2.0/24 --bantime 7d --reason \"scans since Monday\"",
		Args:    someArgs,
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			if bantime != "" {
				d, err := config.ParseDuration(bantime)
				if err != nil {
					return &usageError{fmt.Errorf("--bantime: %w", err)}
				}
				req.Time = d
			}
			return eachPrefix(args, func(prefix netip.Prefix) error {
				req.Prefix = prefix
				return confirmed(cmd, req.Force, func(force bool) error {
					r := req
					r.Force = force
					b, err := client.Ban(cmd.Context(), r)
					if err == nil {
						fmt.Fprintf(cmd.OutOrStdout(), "%s %v %s%s\n", bannedWord(&b), b.Prefix, until(&b), watchNote(&b))
					}
					return err
				})
			})
		}),
	}
	c.Flags().StringVar(&bantime, "bantime", "", "how long: 90s, 10m, 24h, 7d or forever (default: as before, or policy.bantime)")
	c.Flags().StringVar(&req.Reason, "reason", "", "why: shown by list, why and history")
	c.Flags().BoolVar(&req.Force, "force", false, "ban also trusted and very wide targets, unasked")
	c.Flags().BoolVar(&req.Local, "local", false, "here, and on no other node of the fleet")
	return c
}

func newUnban(s *settings) *cobra.Command {
	var u unbanner
	c := &cobra.Command{
		Use:   "unban {ADDRESS|PREFIX... | --all | --rule RULE | --node NODE | --older TIME}",
		Short: "End bans, of one address or chosen by rule, node or age",
		Long: `End the bans of addresses or prefixes, as fsban list shows them. An address that a wider ban holds stays banned: the exit
code is 1, and the message names the prefixes to unban as well (fsban why lists them). For a minute
(policy.unban_grace) their attempts do not count, and the ended ban makes no later one longer. To prevent further bans use
fsban allow.

--rule, --node and --older choose bans, those that meet all of them; --all chooses every ban. The command asks before it ends
chosen bans, or needs --yes, and prints their number.`,
		Example: `  fsban unban 192.0.2.7
  fsban unban --rule scanner --older 1d
  fsban unban --all --yes`,
		ValidArgsFunction: s.completing(0, bannedNow),
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			if err := u.parse(args); err != nil {
				return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
			}
			if len(args) == 0 {
				return u.chosen(cmd, client)
			}
			return eachPrefix(args, func(prefix netip.Prefix) error {
				b, err := client.UnbanWith(cmd.Context(), prefix, u.order)
				if err == nil {
					fmt.Fprintf(cmd.OutOrStdout(), "unbanned %v (rule %s)%s\n", b.Prefix, b.Rule, watchNote(&b))
				}
				return err
			})
		}),
	}
	c.Flags().BoolVar(&u.all, "all", false, "end every ban")
	c.Flags().StringSliceVar(&u.pick.Rules, "rule", nil, "end the bans of these `rules`")
	c.Flags().StringVar(&u.pick.Node, "node", "", "end the bans made by this `node` of the fleet")
	c.Flags().StringVar(&u.age, "older", "", "end the bans that began longer ago than this `time`: 10m, 1h, 7d")
	c.Flags().BoolVarP(&u.yes, "yes", "y", false, "do not ask")
	c.Flags().StringVar(&u.order.Reason, "reason", "", "why: shown by history")
	c.Flags().BoolVar(&u.order.Local, "local", false, "here, and on no other node of the fleet")
	return c
}

// An unbanner is one run of `fsban unban`.
type unbanner struct {
	all, yes bool
	age      string
	older    time.Duration
	pick     control.Pick
	order    control.Withdrawal
}

// parse checks arguments and flags.
func (u *unbanner) parse(args []string) (err error) {
	choice := len(u.pick.Rules) > 0 || u.pick.Node != "" || u.age != ""
	switch {
	case len(args) == 0 && !u.all && !choice:
		return errors.New("name an address or prefix, or choose bans with --all, --rule, --node or --older")
	case len(args) > 0 && (u.all || choice):
		return errors.New("either addresses, or --all, --rule, --node and --older")
	case u.all && choice:
		return errors.New("either --all, or --rule, --node and --older")
	case u.age == "":
		return nil
	}
	if u.older, err = config.ParseDuration(u.age); err != nil {
		return fmt.Errorf("--older: %w", err)
	}
	if u.older < 0 {
		return errors.New("--older: write 10m, 1h or 7d")
	}
	return nil
}

// chosen ends the chosen bans, once the operator has confirmed it.
func (u *unbanner) chosen(cmd *cobra.Command, client *control.Client) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if err := checkNames(ctx, client, &u.pick, &status); err != nil {
		return err
	}
	bans, err := client.Bans(ctx, u.pick)
	if err != nil {
		return err
	}
	began := time.Now().Add(-u.older)
	bans = slices.DeleteFunc(bans, func(b control.Ban) bool { return b.Since.After(began) })
	active := max(len(bans), status.Bans.IPv4+status.Bans.IPv6)
	if len(bans) == 0 {
		fmt.Fprintf(out, "no matching bans (%d active)\n", active)
		return nil
	}
	if !u.yes {
		where := ""
		if status.Fleet != nil && !u.order.Local {
			where = " on all nodes of fleet " + status.Fleet.Name
		}
		question := fmt.Sprintf("End %d of %s%s?", len(bans), plural(active, "ban"), where)
		switch ok, err := term.Confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), question); {
		case errors.Is(err, term.ErrNoTerminal):
			return &usageError{fmt.Errorf("%s %w: --yes ends them", question, err)}
		case err != nil:
			return err
		case !ok:
			return errors.New("no ban was ended")
		}
	}
	ended, err := u.end(ctx, client, bans, term.Progress(cmd.ErrOrStderr()))
	fmt.Fprintf(out, "unbanned %d of %s\n", ended, plural(active, "ban"))
	return err
}

// end ends bans, the widest first, and returns the number that are over. Bans that have expired meanwhile count.
func (u *unbanner) end(ctx context.Context, client *control.Client, bans []control.Ban, progress func(done, total int64)) (int, error) {
	slices.SortStableFunc(bans, func(a, b control.Ban) int { return cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()) })
	var refused []netip.Prefix
	for done := 0; done < len(bans); {
		r := control.UnbanRequest{Reason: u.order.Reason, Local: u.order.Local}
		for _, b := range bans[done:min(done+control.MaxUnbans, len(bans))] {
			r.Prefixes = append(r.Prefixes, b.Prefix)
		}
		result, err := client.UnbanMany(ctx, r)
		if err != nil {
			return done, err
		}
		done += len(r.Prefixes)
		refused = append(refused, result.Held...)
		if len(result.Blocked) > 0 {
			return done, &control.RefusedError{Text: fmt.Sprintf("fsban only watches, and the kernel STILL BLOCKS %s by bans from before: "+
				"stop fsban, run fsban teardown, and start fsban", strings.Trim(fmt.Sprint(result.Blocked), "[]"))}
		}
		if progress != nil {
			progress(int64(done), int64(len(bans)))
		}
	}
	if len(refused) == 0 {
		return len(bans), nil
	}
	rest, err := client.Bans(ctx, control.Pick{})
	if err != nil {
		return len(bans) - len(refused), err
	}
	var held []error
	ended := len(bans)
	for _, p := range refused {
		i := slices.IndexFunc(rest, func(b control.Ban) bool { return covers(b.Prefix, p) })
		switch {
		case i < 0:
			continue
		case rest[i].Prefix == p:
			ended--
		}
		held = append(held, fmt.Errorf("%v is still banned with %v (rule %s)", p, rest[i].Prefix, rest[i].Rule))
	}
	return ended, firstErrors(held)
}

// maxErrors bounds the errors that are reported one a line.
const maxErrors = 10

// firstErrors joins the first maxErrors of errs, and the number of the others.
func firstErrors(errs []error) error {
	if more := len(errs) - maxErrors; more > 0 {
		errs = append(errs[:maxErrors:maxErrors], fmt.Errorf("and %d more", more))
	}
	return errors.Join(errs...)
}

// eachPrefix calls a function with each argument, once all are parsed. After a refusal of the daemon it goes on with
// the others.
func eachPrefix(args []string, do func(netip.Prefix) error) error {
	prefixes, err := parsePrefixes(args)
	if err != nil {
		return err
	}
	var all error
	for _, prefix := range prefixes {
		err := do(prefix)
		all = errors.Join(all, err)
		if err != nil && !errors.As(err, new(*control.RefusedError)) {
			break
		}
	}
	return all
}

func parsePrefixes(args []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, len(args))
	for i, arg := range args {
		var err error
		if prefixes[i], err = config.ParsePrefix(arg); err != nil {
			return nil, &usageError{err}
		}
	}
	return prefixes, nil
}

// bannedWord returns the word for the state of b.
func bannedWord(b *control.Ban) string {
	if b.Watched {
		return "would be banned:"
	}
	return "banned"
}

// watchNote says that a ban is not enforced.
func watchNote(b *control.Ban) string {
	if b.Watched {
		return " (fsban watches: nobody is blocked)"
	}
	return ""
}

func until(b *control.Ban) string {
	if b.Until.IsZero() {
		return "until you unban it"
	}
	return "until " + b.Until.Local().Format("2006-01-02 15:04:05")
}
