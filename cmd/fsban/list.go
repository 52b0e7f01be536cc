package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
	"fsban/internal/guess"
	"fsban/internal/term"
)

func newList(s *settings) *cobra.Command {
	var l lister
	c := &cobra.Command{
		Use:   "list [ADDRESS|PREFIX]",
		Short: "List active bans",
		Long: `List the active bans, oldest first: prefix, rule, begin, remaining time, attempts, packets and bytes dropped since, and the
reason: an operator's, or the users that were tried. With an ADDRESS or PREFIX, list the bans in it and the bans that cover
it. On a narrow terminal some columns are left out; a pipe gets them all.

--watch prints the list, then a line for each ban that begins or ends, until it is interrupted. --csv quotes all cells; text
that a spreadsheet would take for a formula begins with an apostrophe.`,
		Example: `  fsban list
  fsban list 203.0.113.66                     # the bans that cover it
  fsban list --sort dropped --limit 10        # the busiest bans
  fsban list --rule scanner,toll --left 1h    # ending within an hour
  fsban list --source operator --json         # manual bans, for programs`,
		Args:              maxOneArg,
		ValidArgsFunction: s.completing(1, bannedNow),
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			if err := l.parse(args); err != nil {
				return &usageError{err}
			}
			l.client, l.screen = client, term.NewScreen(cmd.OutOrStdout())
			return l.run(cmd.Context(), cmd.ErrOrStderr())
		}),
	}
	f := c.Flags()
	f.BoolVar(&l.json, "json", false, "as JSON")
	f.BoolVar(&l.csv, "csv", false, "as comma-separated values")
	f.BoolVarP(&l.watch, "watch", "w", false, "keep printing bans that begin or end")
	f.BoolVar(&l.evidence, "evidence", false, "with the attempts that led to each ban")
	f.StringVar(&l.pick.Sort, "sort", "since", "`order`: "+strings.Join(control.Orders(), ", "))
	f.BoolVar(&l.pick.Reverse, "reverse", false, "in reverse order")
	f.StringSliceVar(&l.pick.Rules, "rule", nil, "only bans of these `rules`")
	f.StringSliceVar(&l.pick.Sources, "source", nil, "only bans of these `sources`: "+strings.Join(sources, ", "))
	f.StringVar(&l.pick.By, "by", "", "only manual bans whose operator contains this `text`")
	f.StringVar(&l.pick.Node, "node", "", "only bans made by this `node` of the fleet: its name in fsban status, or its fleet.node")
	f.StringVar(&l.within, "left", "", "only bans that end within this `time`: 10m, 1h, 1d")
	f.IntVar(&l.pick.Limit, "limit", 0, "at most that many (default: all)")
	_ = c.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(control.Orders(), cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("source", cobra.FixedCompletions(sources, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// sources are the sources that a ban can have.
var sources = []string{"event", "cti_event", "esl_log", "cti_log", "fleet", "operator", "kernel"}

// A lister is one run of `fsban list`.
type lister struct {
	json, csv, watch, evidence bool
	within                     string
	pick                       control.Pick
	client                     *control.Client
	screen                     *term.Screen
}

// parse checks arguments and flags.
func (l *lister) parse(args []string) (err error) {
	if len(args) > 0 {
		if l.pick.Prefix, err = config.ParsePrefix(args[0]); err != nil {
			return err
		}
	}
	if l.within != "" {
		if l.pick.Left, err = config.ParseDuration(l.within); err != nil {
			return fmt.Errorf("--left: %w", err)
		}
	}
	if err := l.pick.Check(); err != nil {
		return fmt.Errorf("--%w", err)
	}
	switch {
	case l.json && l.csv:
		return errors.New("either --json or --csv")
	case l.watch && (l.json || l.csv || l.evidence || l.pick.Limit > 0):
		return errors.New("--watch goes without --json, --csv, --evidence and --limit")
	case l.evidence || l.csv:
		l.pick.Evidence = control.All
	case !l.json: // the users of the evidence are the reason shown
		l.pick.Evidence = maxWithUsers
	}
	return nil
}

func (l *lister) run(ctx context.Context, report io.Writer) error {
	status, err := l.client.Status(ctx)
	if err != nil {
		return err
	}
	if err := checkNames(ctx, l.client, &l.pick, &status); err != nil {
		return err
	}
	bans, err := l.client.Bans(ctx, l.pick)
	switch {
	case err != nil:
		return err
	case l.json:
		return printJSON(l.screen.Out, bans)
	case l.csv:
		printCSV(l.screen.Out, bans)
		return nil
	}
	t := printBans(l.screen, bans, max(len(bans), status.Bans.IPv4+status.Bans.IPv6), l.evidence, time.Now())
	if status.Watching {
		fmt.Fprintln(l.screen.Out, "fsban watches: nobody is blocked. fsban enforce switches enforcement on.")
	}
	if !l.watch {
		return nil
	}
	return l.follow(ctx, t, bans, report)
}

// checkNames returns an error for a rule, source or node that the daemon does not know, with the names that may be meant.
func checkNames(ctx context.Context, client *control.Client, pick *control.Pick, status *control.Status) error {
	rules := []string{"operator", "kernel", "office", "fail2ban"}
	for _, r := range status.Policy.Rules {
		rules = append(rules, r.Name)
	}
	var nodes []string
	if status.Fleet != nil {
		for _, n := range status.Fleet.Nodes {
			nodes = append(nodes, n.Name)
		}
	}
	known := func() bool {
		return !slices.ContainsFunc(pick.Rules, func(r string) bool { return !slices.Contains(rules, r) }) &&
			(pick.Node == "" || slices.ContainsFunc(nodes, func(n string) bool { return n == pick.Node || strings.HasPrefix(n, pick.Node+"-") }))
	}
	if !known() { // a ban may be of a rule or node that has gone
		bans, err := client.Bans(ctx, control.Pick{})
		if err != nil {
			return err
		}
		for i := range bans {
			if b := &bans[i]; !slices.Contains(rules, b.Rule) {
				rules = append(rules, b.Rule)
			}
			if b := &bans[i]; b.Node != "" && !slices.Contains(nodes, b.Node) {
				nodes = append(nodes, b.Node)
			}
		}
	}
	for _, r := range pick.Rules {
		if !slices.Contains(rules, r) {
			return unknownName("rule", r, rules)
		}
	}
	for _, name := range pick.Sources {
		if !slices.Contains(sources, name) {
			return unknownName("source", name, sources)
		}
	}
	if !known() {
		return unknownName("node", pick.Node, nodes)
	}
	return nil
}

func unknownName(kind, name string, known []string) error {
	text := guess.DidYouMean(name, known)
	if text == "" {
		text = "there are " + list(known)
	}
	return &usageError{fmt.Errorf("no such %s %.40q: %s", kind, name, text)}
}

// followEvery is the pause between two lists of --watch.
const followEvery = time.Second

// follow prints the bans that begin or end, until ctx ends or nobody reads them. It outlives a restart of the daemon.
func (l *lister) follow(ctx context.Context, t *term.Table, bans []control.Ban, report io.Writer) error {
	known := make(map[netip.Prefix]*control.Ban, len(bans))
	for i := range bans {
		known[bans[i].Prefix] = &bans[i]
	}
	up := true
	for {
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return nil
		}
		if l.screen.Closed() {
			return nil
		}
		bans, err := l.client.Bans(ctx, l.pick)
		switch {
		case errors.Is(err, context.Canceled):
			return nil
		case errors.Is(err, control.ErrNotRunning):
			if up {
				fmt.Fprintln(report, "fsban is not running: waiting for it")
			}
			up = false
			continue
		case err != nil:
			return err
		}
		up = true
		active := make(map[netip.Prefix]*control.Ban, len(bans))
		for i := range bans {
			active[bans[i].Prefix] = &bans[i]
		}
		now := time.Now()
		for _, p := range slices.SortedFunc(maps.Keys(known), netip.Prefix.Compare) {
			if b := active[p]; b == nil || !b.Since.Equal(known[p].Since) {
				cells := banCells(l.screen, known[p], now)
				cells[columnLeft] = "ended"
				t.PrintRow(l.screen, cells...)
			}
		}
		for i := range bans {
			if old := known[bans[i].Prefix]; old == nil || !old.Since.Equal(bans[i].Since) {
				t.PrintRow(l.screen, banCells(l.screen, &bans[i], now)...)
			}
		}
		known = active
	}
}
