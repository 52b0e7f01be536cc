package main

import (
	"context"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/control"
	"fsban/internal/term"
)

// A completion is never worth a wait, nor a screen of addresses.
const (
	completeWithin = time.Second
	maxCompletions = 100
)

// completing completes the arguments of a command with prefixes from the daemon. After an error there are no completions.
func (s *settings) completing(limit int, named func(context.Context, *control.Client) ([]netip.Prefix, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if limit > 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completeWithin)
		defer cancel()
		client, err := s.client(io.Discard)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer client.Close()
		prefixes, err := named(ctx, client)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var list []cobra.Completion
		for _, p := range prefixes {
			word := term.Prefix(p)
			if strings.HasPrefix(word, begun) && !slices.Contains(args, word) {
				list = append(list, word)
			}
			if len(list) == maxCompletions {
				break
			}
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

// bannedNow are the bans in force, the newest first, and no more than anybody would look at.
func bannedNow(ctx context.Context, c *control.Client) ([]netip.Prefix, error) {
	bans, err := c.Bans(ctx, control.Pick{Reverse: true, Limit: 1000})
	list := make([]netip.Prefix, len(bans))
	for i := range bans {
		list[i] = bans[i].Prefix
	}
	return list, err
}

// bannedAddresses are the bans of single addresses, and the first address of each other.
func bannedAddresses(ctx context.Context, c *control.Client) ([]netip.Prefix, error) {
	list, err := bannedNow(ctx, c)
	for i, p := range list {
		list[i] = netip.PrefixFrom(p.Addr(), p.Addr().BitLen())
	}
	return list, err
}

// heldNow are the bans that guards hold.
func heldNow(ctx context.Context, c *control.Client) ([]netip.Prefix, error) {
	held, err := c.Held(ctx)
	list := make([]netip.Prefix, len(held))
	for i := range held {
		list[i] = held[i].Prefix
	}
	return list, err
}

// allowedBy begins the origin of a never-ban entry that fsban allow made.
const allowedBy = "allowed by "

// allowedNow are the prefixes of `fsban allow`.
func allowedNow(ctx context.Context, c *control.Client) (list []netip.Prefix, err error) {
	s, err := c.Status(ctx)
	for _, n := range s.Policy.NeverBan {
		if strings.HasPrefix(n.Origin, allowedBy) {
			list = append(list, n.Prefix)
		}
	}
	return list, err
}
