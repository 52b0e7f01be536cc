package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
	"fsban/internal/term"
)

func newHistory(s *settings) *cobra.Command {
	var h historian
	c := &cobra.Command{
		Use:   "history [ADDRESS|PREFIX]",
		Short: "List bans that have ended, and why",
		Long: `List the bans that have ended, the newest first: when and why each ended, by whose order, and why it was made. fsban keeps
them as long as state.history says, and at most state.history_max of them.

Causes: expired; unbanned and allowed (by an operator); never_ban (the never-ban list has come to hold the address); evicted
(firewall.max_bans); outage (a known-good address while the back end was down); replaced (by a ban of another rule); watched (fsban
enforce began without it).`,
		Example: `  fsban history 192.0.2.7
  fsban history --since 24h --cause unbanned,allowed     # what operators have ended since yesterday
  fsban history --since 2026-11-01 --until 2026-12-01 --csv > november.csv
  fsban history --rule auth --limit 20 --json`,
		Args: maxOneArg,
		RunE: s.asking(func(cmd *cobra.Command, args []string, client *control.Client) error {
			if err := h.parse(args, time.Now()); err != nil {
				return &usageError{err}
			}
			return h.run(cmd.Context(), client, term.NewScreen(cmd.OutOrStdout()))
		}),
	}
	f := c.Flags()
	f.BoolVar(&h.json, "json", false, "as JSON")
	f.BoolVar(&h.csv, "csv", false, "as comma-separated values")
	f.BoolVar(&h.evidence, "evidence", false, "with the attempts that led to each ban")
	f.StringSliceVar(&h.pick.Rules, "rule", nil, "only bans of these `rules`")
	f.StringSliceVar(&h.pick.Causes, "cause", nil, "only bans that ended for these `causes`")
	f.StringVar(&h.since, "since", "", "only bans that ended since this `time`: 24h, 7d, 2026-11-30, \"2026-11-30 08:00\"")
	f.StringVar(&h.until, "until", "", "only bans that ended before this `time`, written as for --since")
	f.IntVar(&h.pick.Limit, "limit", 0, "at most that many, the newest (default: all)")
	return c
}

// A historian is one run of `fsban history`.
type historian struct {
	json, csv    bool
	evidence     bool
	since, until string
	pick         control.HistoryPick
}

// parse checks arguments and flags.
func (h *historian) parse(args []string, now time.Time) (err error) {
	if len(args) == 1 {
		if h.pick.Prefix, err = config.ParsePrefix(args[0]); err != nil {
			return err
		}
	}
	if h.since != "" {
		if h.pick.Since, err = parseTime(h.since, now); err != nil {
			return fmt.Errorf("--since: %w", err)
		}
	}
	if h.until != "" {
		if h.pick.Until, err = parseTime(h.until, now); err != nil {
			return fmt.Errorf("--until: %w", err)
		}
	}
	if err := h.pick.Check(); err != nil {
		return fmt.Errorf("--%w", err)
	}
	if h.json && h.csv {
		return errors.New("either --json or --csv")
	}
	h.pick.Evidence = h.evidence || !h.json // for the users, who are the reason of a rule's ban
	return nil
}

func (h *historian) run(ctx context.Context, client *control.Client, s *term.Screen) error {
	if len(h.pick.Rules) > 0 {
		status, err := client.Status(ctx)
		if err == nil {
			err = checkNames(ctx, client, &control.Pick{Rules: h.pick.Rules}, &status)
		}
		if err != nil {
			return err
		}
	}
	ended, err := client.History(ctx, h.pick)
	switch {
	case err != nil:
		return err
	case h.json:
		return printJSON(s.Out, ended)
	case h.csv:
		printHistoryCSV(s.Out, ended)
	default:
		printHistory(s, ended, h.evidence)
	}
	return nil
}

// parseTime reads a duration before now, a day or a time of this host's zone.
func parseTime(text string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, "2006-01-02 15:04", time.DateTime} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	d, err := config.ParseDuration(text)
	if err != nil || d <= 0 {
		return now, fmt.Errorf("%.40q is not a time: write 24h, 7d, 2026-11-30 or \"2026-11-30 08:00\"", text)
	}
	return now.Add(-d), nil
}

// printHistoryCSV prints ended bans with a header, one a line.
func printHistoryCSV(out io.Writer, ended []control.EndedBan) {
	fmt.Fprintln(out, term.CSV("prefix", "rule", "source", "since", "until", "attempts", "node", "operator", "reason", "users",
		"ended", "cause", "ended_by", "ended_reason", "ended_on"))
	for i := range ended {
		e := &ended[i]
		fmt.Fprintln(out, term.CSV(term.Prefix(e.Prefix), e.Rule, e.Source, csvTime(e.Since), csvTime(e.Until), strconv.Itoa(e.Attempts),
			e.Node, e.By, e.Reason, distinctUsers(e.Evidence),
			csvTime(e.Ended), e.Cause, e.EndedBy, e.EndedReason, e.EndedOn))
	}
}

// wideHistory is the width of a screen from which operator and reason of an end are in its column, instead of on a line of their own.
const wideHistory = 120

func printHistory(s *term.Screen, ended []control.EndedBan, evidence bool) {
	if len(ended) == 0 {
		fmt.Fprintln(s.Out, "no ended bans")
		return
	}
	t := term.Table{Columns: []term.Column{
		{Name: "ENDED"}, {Name: "ADDRESS"}, {Name: "RULE"}, {Name: "SINCE", Drop: 1}, {Name: "ATTEMPTS", Right: true, Drop: 2},
		{Name: "END", Want: 14},
		{Name: "WHY", Want: 14},
	}}
	for i := range ended {
		e := &ended[i]
		attempts := "-"
		if e.Attempts > 0 {
			attempts = term.Human(uint64(e.Attempts))
		}
		why := s.Clean(e.Reason)
		switch {
		case why != "":
		case e.By != "":
			why = s.Clean("by " + e.By)
		default:
			why = userList(s, usersOf(e.Evidence))
		}
		end := endingOf(s, e)
		long := s.Width > 0 && s.Width < wideHistory && term.Width(end) > 14
		if long { // or it would leave no room for WHY
			end = s.Clean(e.Cause)
		}
		t.Add(e.Ended.Local().Format("01-02 15:04"), term.Prefix(e.Prefix), s.Clean(e.Rule), e.Since.Local().Format("01-02 15:04"), attempts,
			end, why)
		if long {
			t.Note("    " + endingOf(s, e))
		}
		if evidence {
			for k := range e.Evidence {
				t.Note("    " + attemptLine(s, &e.Evidence[k]))
			}
		}
	}
	t.Print(s)
	fmt.Fprintln(s.Out, plural(len(ended), "ended ban"))
}

// endingOf renders how a ban ended.
func endingOf(s *term.Screen, e *control.EndedBan) string {
	text := e.Cause
	if e.EndedBy != "" {
		text += " by " + e.EndedBy
	}
	if e.EndedOn != "" {
		text += " on " + e.EndedOn
	}
	if e.EndedReason != "" {
		text += ": " + e.EndedReason
	}
	return s.Clean(text)
}

func newAllowed(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "allowed",
		Short: "List the allowances made by fsban allow",
		Long: `List the allowances made by fsban allow: prefix, begin, remaining time, operator and reason. The whole never-ban list, with
the entries of the configuration and of this host, is in fsban status --all.`,
		Example: "  fsban allowed\n  fsban allowed --json | jq -r '.[].prefix'",
		Args:    noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) error {
			allowed, err := client.Allowed(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), allowed)
			}
			printAllowed(term.NewScreen(cmd.OutOrStdout()), allowed, time.Now())
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func printAllowed(s *term.Screen, allowed []control.Allowance, now time.Time) {
	if len(allowed) == 0 {
		fmt.Fprintln(s.Out, "no allowances")
		return
	}
	t := term.Table{Columns: []term.Column{{Name: "ALLOWED"}, {Name: "SINCE", Drop: 1}, {Name: "LEFT"}, {Name: "BY", Want: 10},
		{Name: "WHY", Want: 14}}}
	fleet := slices.ContainsFunc(allowed, func(a control.Allowance) bool { return a.Node != "" })
	if fleet {
		t.Columns = append(t.Columns, term.Column{Name: "NODE"})
	}
	for i := range allowed {
		a := &allowed[i]
		left := "forever"
		if !a.Until.IsZero() {
			left = term.Duration(a.Until.Sub(now))
		}
		cells := []string{term.Prefix(a.Prefix), a.Since.Local().Format("01-02 15:04"), left, s.Clean(a.By), s.Clean(a.Reason)}
		if fleet {
			node := s.Clean(a.Node)
			if a.Local {
				node += " (here alone)"
			}
			cells = append(cells, node)
		}
		t.Add(cells...)
	}
	t.Print(s)
	fmt.Fprintln(s.Out, plural(len(allowed), "allowance"))
}

// confirmed calls do without force, and once more with it if the operator confirms a doubt of the daemon on a terminal.
func confirmed(cmd *cobra.Command, force bool, do func(force bool) error) error {
	err := do(force)
	doubt := (*control.DoubtError)(nil)
	if !errors.As(err, &doubt) {
		return err
	}
	yes, asked := term.Confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), doubt.Text+". Do it all the same?")
	switch {
	case asked != nil: // no terminal
		return err
	case !yes:
		return &control.RefusedError{Text: "nothing was changed: " + doubt.Text}
	}
	return do(true)
}

// stillBanned renders the bans that hold addresses of an allowed prefix.
func stillBanned(a *control.Allowance) error {
	var bans, prefixes []string
	for i := range a.StillBanned {
		b := &a.StillBanned[i]
		text := fmt.Sprintf("%v, rule %s", b.Prefix, b.Rule)
		if b.By != "" {
			text += ", by " + b.By
		}
		if b.Reason != "" {
			text += fmt.Sprintf(" (%.200q)", b.Reason)
		}
		bans, prefixes = append(bans, text), append(prefixes, b.Prefix.String())
	}
	return &control.RefusedError{Text: fmt.Sprintf("%v is allowed, but STILL BANNED: a ban of %s holds it. "+
		"To let it in: fsban unban %s", a.Prefix,
		strings.Join(bans, "; "), strings.Join(prefixes, " "))}
}
