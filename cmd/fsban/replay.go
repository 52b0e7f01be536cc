package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/internal/term"
	"fsban/replay"
)

func newReplay(s *settings) *cobra.Command {
	var p player
	c := &cobra.Command{
		Use:   "replay [FILE...]",
		Short: "Simulate the bans that a recording would have caused",
		Long: `Replay recordings through the configuration, in their own time, and list the bans that they would have caused: when, by
which rule, after which attempts. Nothing is banned and no daemon is asked.

A FILE, plain or gzipped, or standard input without one, is mod_cti's cti_fail2ban.log, a console log of FreeSWITCH in
which mod_cti repeats it, a stream that FreeSWITCH sent to a client of its event socket (events, plain or JSON, and its
log), or SIP: a pcap or pcapng capture, or recorded HEP, each datagram with its length before it in four bytes. Several
files are replayed as one recording, in the order of their times. A failure that several sources report counts once, as in the
daemon. Challenges that are unanswered at the end count as if no credentials followed.

With --against, the recordings are replayed through another configuration too, and the differences are listed: bans that only
one of them makes, and bans that begin or end at another time or are made by another rule.

Events and mod_cti's lines carry their time with its offset. Lines of FreeSWITCH's log do not: their zone is taken from the
events and mod_cti's lines of the same recording, or else from --zone.

SIP shows wrong passwords that FreeSWITCH does not report: those of SUBSCRIBE, MESSAGE and others. They count if the sender's address
is proven, by a connection or because the credentials answer a nonce that was sent to it. TLS can be read from HEP, not from a capture.

Text that was not understood is counted and shown. The exit code is 1 if nothing was understood, or less than half of a
recording that is neither a console log nor SIP. Take the result of a console log as a hint: its lines can hold anything that a peer sent.`,
		Example: `  fsban replay /ddt/fs/log/cti_fail2ban.log*
  fsban replay --config new.yaml < cti_fail2ban.log
  fsban replay --against new.yaml cti_fail2ban.log
  fsban replay --zone Asia/Shanghai socket.esl
  fsban replay sip.pcap`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if p.options.Zone, err = time.LoadLocation(p.zone); err != nil {
				return &usageError{fmt.Errorf("--zone: %w", err)}
			}
			if len(args) == 0 {
				args = []string{"-"}
			}
			p.files, p.out = args, cmd.OutOrStdout()
			p.options.Stdin, p.options.Progress = cmd.InOrStdin(), term.Progress(cmd.ErrOrStderr())
			cfg, err := s.load()
			if err != nil {
				return err
			}
			if p.against != "" {
				return p.compare(s.config, &cfg)
			}
			return p.play(&cfg)
		},
	}
	c.Flags().StringVar(&p.against, "against", "", "list the differences to the bans of another configuration `file`")
	c.Flags().BoolVar(&p.json, "json", false, "as JSON")
	c.Flags().StringVar(&p.zone, "zone", "Local", "time zone of FreeSWITCH's log lines, if not recorded")
	return c
}

// A player is one run of `fsban replay`.
type player struct {
	json          bool
	zone, against string
	files         []string
	options       replay.Options
	out           io.Writer
}

// play replays the recordings and prints the result.
func (p *player) play(cfg *config.Config) error {
	result, err := replay.Run(cfg, p.files, p.options)
	if err != nil {
		return err
	}
	if p.json {
		err = printJSON(p.out, &result)
	} else {
		printReplay(term.NewScreen(p.out), &result)
	}
	return errors.Join(err, result.Err())
}

// compare replays the recordings through two configurations and prints the differences.
func (p *player) compare(name string, cfg *config.Config) error {
	if slices.Contains(p.files, "-") {
		return &usageError{errors.New("--against reads the recordings twice: name files instead of standard input")}
	}
	otherCfg, err := config.Load(p.against)
	if err != nil {
		return &usageError{err}
	}
	first, err := replay.Run(cfg, p.files, p.options)
	if err != nil {
		return err
	}
	other, err := replay.Run(&otherCfg, p.files, p.options)
	if err != nil {
		return err
	}
	c := replay.Compare(&first, &other, max(cfg.Policy.LongestFindTime(), otherCfg.Policy.LongestFindTime()))
	if p.json {
		err = printJSON(p.out, struct {
			First string `json:"first"` // names of the configurations
			Other string `json:"other"`
			replay.Comparison
		}{name, p.against, c})
	} else {
		s := term.NewScreen(p.out)
		printComparison(s, p.against, &c)
		fmt.Fprintf(s.Out, "%s with %s, %s with %s, %d the same\n", plural(len(first.Bans), "ban"), name, plural(len(other.Bans),
			"ban"), p.against,
			c.Same)
	}
	return errors.Join(err, first.Err())
}

// printComparison prints the differences that the other configuration makes, in the order of time.
func printComparison(s *term.Screen, other string, c *replay.Comparison) {
	type row struct {
		ban  replay.Ban
		text string
	}
	var rows []row
	for _, b := range c.OnlyFirst {
		rows = append(rows, row{b, "not banned"})
	}
	for _, b := range c.OnlyOther {
		rows = append(rows, row{b, "banned"})
	}
	for i := range c.Changed {
		rows = append(rows, row{c.Changed[i].First, difference(&c.Changed[i])})
	}
	if len(rows) == 0 {
		return
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(a.ban.Since.Compare(b.ban.Since), a.ban.Prefix.Addr().Compare(b.ban.Prefix.Addr()))
	})
	t := term.Table{Columns: []term.Column{
		{Name: "ADDRESS", Want: ipv4Width}, {Name: "RULE", Drop: 2}, {Name: "AT", Drop: 1},
		{Name: "WITH " + strings.ToUpper(filepath.Base(other)), Want: 24},
	}}
	for _, r := range rows {
		t.Add(term.Prefix(r.ban.Prefix), r.ban.Rule, r.ban.Since.Local().Format(time.DateTime), r.text)
	}
	t.Print(s)
}

// difference describes the change of a ban that both configurations make.
func difference(c *replay.Change) string {
	var texts []string
	switch {
	case c.Later > 0:
		texts = append(texts, term.Duration(c.Later)+" later")
	case c.Later < 0:
		texts = append(texts, term.Duration(-c.Later)+" earlier")
	}
	if c.First.Rule != c.Other.Rule {
		texts = append(texts, "by rule "+c.Other.Rule)
	}
	length := func(b *replay.Ban) string {
		if b.Until.IsZero() {
			return "without end"
		}
		return "for " + term.Duration(b.Until.Sub(b.Since))
	}
	if a, b := length(&c.First), length(&c.Other); a != b {
		texts = append(texts, b+" instead of "+strings.TrimPrefix(a, "for "))
	}
	return strings.Join(texts, ", ")
}

func printReplay(s *term.Screen, r *replay.Result) {
	if len(r.Bans) > 0 {
		t := term.Table{Columns: []term.Column{
			{Name: "WOULD BAN", Want: ipv4Width}, {Name: "RULE", Drop: 3}, {Name: "AT"}, {Name: "UNTIL", Drop: 1}, {Name: "ATTEMPTS",
				Right: true, Drop: 2},
			{Name: "USERS", Want: 14},
		}}
		for _, b := range r.Bans {
			until := "forever"
			if !b.Until.IsZero() {
				until = b.Until.Local().Format(time.DateTime)
			}
			users := make([]string, len(b.Evidence))
			for i := range b.Evidence {
				users[i] = b.Evidence[i].User
			}
			t.Add(term.Prefix(b.Prefix), b.Rule, b.Since.Local().Format(time.DateTime), until, strconv.Itoa(b.Attempts), userList(s, users))
		}
		t.Print(s)
	}
	records := "lines or events"
	if r.Messages > 0 {
		records = "lines, events or SIP messages"
	}
	fmt.Fprintf(s.Out, "%d %s: %s, %d failures, %d violations, %d calls refused, %d refused by access lists, %d while "+
		"banned, %d from never-ban addresses\n",
		r.Read, records, plural(len(r.Bans), "ban"), r.Attempts["auth_failure"], r.Attempts["violation"],
		r.Attempts["call_reject"], r.Attempts["acl_reject"],
		r.WhileBanned, r.Spared)
	for _, n := range []struct {
		count int
		text  string
	}{
		{r.Duplicates, "reports of failures that another source reported"},
		{r.Unconfirmed, "reports that the preferred source did not confirm: not counted"},
		{r.Repeated, "lines that were in the log before: not counted"},
		{r.Outdated, "lines far older than the lines before them: not counted"},
		{r.Unproven, "refused logins on the wire whose address nothing proves, perhaps forged: only rule unproven counts them"},
		{r.Unanswered, "challenges unanswered at the end: counted as if no credentials followed"},
	} {
		if n.count > 0 {
			fmt.Fprintf(s.Out, "%d %s\n", n.count, n.text)
		}
	}
	if r.Zone != "" {
		fmt.Fprintf(s.Out, "the recording states no time zone: taking FreeSWITCH's log lines as %s (--zone)\n", s.Clean(r.Zone))
	}
	if r.Held > 0 {
		fmt.Fprintf(s.Out, "%d bans would have been held by a guard\n", r.Held)
	}
	for _, text := range r.Noticed {
		fmt.Fprintf(s.Out, "noticed: %s\n", s.Clean(text))
	}
	if r.NotUnderstood > 0 {
		fmt.Fprintf(s.Out, "%s or events not understood, for example:\n", plural(r.NotUnderstood, "line"))
		for _, e := range r.Examples {
			fmt.Fprintf(s.Out, "  %s\n", s.Quote(e, 120))
		}
	}
}
