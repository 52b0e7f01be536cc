package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/control"
	"fsban/internal/term"
)

func newEnforce(s *settings) *cobra.Command {
	var (
		req control.EnforceRequest
		yes bool
	)
	c := &cobra.Command{
		Use:   "enforce",
		Short: "End watching: block banned addresses from now on",
		Long: `End watching (firewall.enforce: false) at run time, without a restart. Enforcement begins with an empty list: the watched
bans end, and their addresses count from zero after policy.unban_grace. With --keep the watched bans are enforced: the command
shows how many there are, and asks.

Bans that the kernel holds from before fsban watched, and bans of other nodes of the fleet, stay in any case.

Set firewall.enforce to true in the configuration file as well. Until the file agrees fsban status shows an open problem, and
fsban enforces after a restart too. --revoke withdraws that: the next start follows the file.`,
		Example: "  fsban list                     # the bans that would be in force\n  fsban enforce\n  fsban enforce --keep",
		Args:    noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) error {
			if req.Keep && req.Revoke {
				return &usageError{errors.New("--keep and --revoke exclude each other")}
			}
			if req.Keep && !yes {
				bans, err := client.Bans(cmd.Context(), control.Pick{})
				if err != nil {
					return err
				}
				if err := confirmWatched(cmd, bans); err != nil {
					return err
				}
			}
			result, err := client.Enforce(cmd.Context(), req)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if req.Revoke {
				fmt.Fprintf(out, "revoked: after the next restart fsban follows firewall.enforce in the configuration file (%v)\n", result.FileAgrees)
				return nil
			}
			fmt.Fprintf(out, "enforcing, with %s; %s ended\n", plural(result.Kept, "ban"), plural(result.Ended, "watched ban"))
			if result.Evicted > 0 {
				fmt.Fprintf(out, "No room for %s, those with the least evidence: see firewall.max_bans and firewall.backend.\n",
					plural(result.Evicted, "ban"))
			}
			if !result.FileAgrees {
				fmt.Fprintf(out, "Set firewall.enforce to true in %s and run fsban reload: the file still says false.\n", s.config)
			}
			return enforcedSoon(cmd.Context(), client)
		}),
	}
	c.Flags().BoolVar(&req.Keep, "keep", false, "enforce the watched bans, after a question")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&req.Revoke, "revoke", false, "withdraw an earlier fsban enforce: the next start follows the file")
	return c
}

// watchedBans counts bans by rule.
func watchedBans(bans []control.Ban) string {
	byRule := make(map[string]int)
	for i := range bans {
		byRule[bans[i].Rule]++
	}
	rules := slices.SortedFunc(maps.Keys(byRule), func(a, b string) int {
		return cmp.Or(cmp.Compare(byRule[b], byRule[a]), cmp.Compare(a, b))
	})
	for i, rule := range rules {
		rules[i] = fmt.Sprintf("%d by rule %s", byRule[rule], rule)
	}
	return fmt.Sprintf("%s would be enforced: %s", plural(len(bans), "watched ban"), strings.Join(rules, ", "))
}

// confirmWatched asks whether bans are to be enforced, and returns an error unless the answer is yes. No bans need no answer.
func confirmWatched(cmd *cobra.Command, bans []control.Ban) error {
	if len(bans) == 0 {
		return nil
	}
	question := watchedBans(bans) + " (fsban list). Enforce them?"
	switch ok, err := term.Confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), question); {
	case errors.Is(err, term.ErrNoTerminal):
		return &usageError{fmt.Errorf("%s %w: --yes enforces them", question, err)}
	case err != nil:
		return err
	case !ok:
		return errors.New("nothing changed: fsban still watches")
	}
	return nil
}

// enforcedWithin is how long enforce waits for the firewall.
const enforcedWithin = 15 * time.Second

// enforcedSoon waits until the firewall enforces, and returns an error if it does not.
func enforcedSoon(ctx context.Context, client *control.Client) error {
	for deadline := time.Now().Add(enforcedWithin); ; {
		status, err := client.Status(ctx)
		if err != nil || status.Firewall.Enforcing {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the firewall does not enforce yet, fsban tries again: %s", status.Firewall.Error)
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
