package main

import (
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
	"fsban/firewall/backend"
	"fsban/firewall/saved"
	"fsban/internal/term"
	"fsban/policy"
)

func newStatus(s *settings) *cobra.Command {
	var (
		asJSON, all, alive bool
		wait               string
	)
	c := &cobra.Command{
		Use:   "status",
		Short: "Show protection status and open problems",
		Long: `Show whether fsban protects, open problems with their remedy (!), the sources of attempts, the firewall, and bans and addresses
of the last minutes. With --all also all problems, attempts since the start, rules and the never-ban list.

Saved firewall rules that would fail at the next boot are an open problem too, if this user may read them. The exit code is 1
if fsban does not protect, and 4 if it watches only. With --wait a script waits until it does either, also for the daemon to start.
With --alive the exit code is 0 if the daemon decides, protecting or not: a liveness probe.`,
		Example: "  fsban status\n  fsban status --all\n  fsban status --json\n  fsban status --wait 30s\n  fsban status --alive",
		Args:    noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) error {
			if alive {
				return isAlive(cmd.Context(), client)
			}
			status, err := statusWithin(cmd.Context(), client, wait)
			if err != nil {
				return err
			}
			// The command reads the files, because the daemon's user may not.
			size := 0
			if cfg, err := s.load(); err == nil {
				size = backend.SetSize(cfg.Firewall.Backend, cfg.Firewall.Options())
			}
			rules := saved.Find("/", size)
			status.Problems = append(status.Problems, rules.Problems()...)
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), status)
			} else {
				// The rest of the screen does not need the answer.
				top, _ := client.Top(cmd.Context(), maxNow)
				printStatus(term.NewScreen(cmd.OutOrStdout()), &status, &top, all, time.Now())
			}
			switch {
			case err != nil || status.Ready:
				return err
			case watches(&status):
				return &exitError{exitWatch, errors.New("watching: nobody is blocked")}
			}
			return errors.New("not protecting")
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.Flags().BoolVar(&alive, "alive", false, "only whether the daemon decides, by the exit code")
	c.Flags().StringVar(&wait, "wait", "", "wait until fsban protects or watches, at most this `time`: 30s, 5m")
	c.Flags().BoolVar(&all, "all", false, "also all problems, attempts, rules and the never-ban list")
	return c
}

// aliveWithin is the time within which a daemon that decides answers.
const aliveWithin = 3 * time.Second

// isAlive returns an error unless the decision loop answers.
func isAlive(ctx context.Context, client *control.Client) error {
	ctx, cancel := context.WithTimeout(ctx, aliveWithin)
	defer cancel()
	_, err := client.Why(ctx, netip.IPv6Unspecified()) // the loop itself answers it, in few bytes
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the decision loop does not answer within %v", aliveWithin)
	}
	return err
}

// watches reports whether fsban watches as it should: it reports bans from at least one source, and blocks nobody.
func watches(status *control.Status) bool {
	return status.Watching && slices.ContainsFunc(status.Sources, func(src control.Source) bool { return src.Up })
}

// askEvery is the pause between two questions of status --wait.
const askEvery = 100 * time.Millisecond

// statusWithin returns the daemon's status once it protects or watches, or its last one when the time limit has passed; without a limit, at
// once. A daemon that does not run yet is waited for.
func statusWithin(ctx context.Context, client *control.Client, limit string) (control.Status, error) {
	wait := time.Duration(0)
	if limit != "" {
		var err error
		if wait, err = config.ParseDuration(limit); err != nil || wait < 0 {
			return control.Status{}, &usageError{fmt.Errorf("--wait: %q is not a duration: write 30s or 5m", limit)}
		}
	}
	deadline := time.Now().Add(wait)
	for {
		status, err := client.Status(ctx)
		settled := err == nil && (status.Ready || watches(&status)) || err != nil && !errors.Is(err, control.ErrNotRunning)
		if settled || !time.Now().Before(deadline) {
			return status, err
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return status, ctx.Err()
		}
	}
}

// Lines of one screen without --all.
const (
	maxProblems = 8
	maxNow      = 3
)

func printStatus(s *term.Screen, st *control.Status, top *control.Top, all bool, now time.Time) {
	fmt.Fprintf(s.Out, "fsban %s  %s  up %s\n", s.Clean(st.Version), s.Protection(st.Ready, st.Watching), term.Duration(now.Sub(st.Started)))
	row := func(name, format string, args ...any) {
		s.PrintRow(fmt.Sprintf("  %-10s ", name), fmt.Sprintf(format, args...))
	}
	for i, p := range st.Problems {
		if i == maxProblems && len(st.Problems) > maxProblems+1 && !all {
			row("", "and %d more: fsban status --all", len(st.Problems)-i)
			break
		}
		s.PrintRow("  "+s.Paint(term.Yellow, "!")+" ", p)
	}
	for i := range st.Sources {
		row("source", "%s", sourceLine(&st.Sources[i], st.Problems, now))
	}
	if len(st.Sources) > 0 && !slices.ContainsFunc(st.Sources, func(src control.Source) bool { return src.Name == policy.SIP.String() }) {
		row("no tap", "forged failed logins look like real ones: set sip.tap to auto")
	}
	if text := withoutSource(st.ActiveSources); text != "" && (all || strings.HasPrefix(text, policy.AuthFailure.String())) {
		row("no source", "%s", text)
	}
	row("firewall", "%s", firewallLine(st))
	row("bans", "%s", bansLine(st))
	if len(top.NewBans) > 0 {
		row("recent", "%s", newest(top.NewBans, now))
	}
	if !top.At.IsZero() {
		row("busiest", "%s", busiestNow(top))
	}
	if st.Fleet != nil {
		printFleet(s, row, st.Fleet, now)
	}
	if !all {
		row("more", "fsban status --all: attempts, rules, never-ban list")
		return
	}
	row("attempts", "%s since the start", strings.Join(seen(st), ", "))
	row("policy", "%d addresses with attempts, %d known-good", st.Policy.Tracked, st.Policy.KnownGood)
	for _, r := range st.Policy.Rules {
		s.PrintRow(fmt.Sprintf("  %-10s %s ", "rule", term.Pad(s.Clean(r.Name), 12)),
			fmt.Sprintf("%d in %s: banned for %s (%s)", r.MaxRetry, r.FindTime, r.BanTime, strings.Join(r.Kinds, ", ")))
	}
	printNeverBan(s, st.Policy.NeverBan)
}

// bansLine counts the bans, and the packets that they dropped.
func bansLine(st *control.Status) string {
	v4, v6 := st.Bans.IPv4, st.Bans.IPv6
	if st.Watching {
		return fmt.Sprintf("%d would be active (%d IPv4, %d IPv6), %d decided since the start", v4+v6, v4, v6, st.Bans.Made)
	}
	var packets uint64
	for _, d := range st.Firewall.Dropped {
		packets += d.Packets
	}
	return fmt.Sprintf("%d active (%d IPv4, %d IPv6), %d made since the start, %d packets dropped", v4+v6, v4, v6, st.Bans.Made, packets)
}

// sourceLine describes a source. The reason why it is down is left out if it is among the problems.
func sourceLine(src *control.Source, problems []string, now time.Time) string {
	line := strings.TrimRight(src.Name+" "+src.Address, " ") + ": "
	switch {
	case src.Up && src.Since.IsZero():
		line += "up"
	case src.Up:
		line += "up for " + term.Duration(now.Sub(src.Since))
	case src.Waiting != "":
		line += "waiting, " + src.Waiting
	case src.Retry.After(now):
		line += "down, next try in " + term.Duration(src.Retry.Sub(now)+time.Second)
	default:
		line += "down"
		shown := func(problem string) bool { return strings.Contains(problem, src.Error) }
		if src.Error != "" && !slices.ContainsFunc(problems, shown) {
			line += ", " + strings.TrimPrefix(src.Error, "follow "+src.Address+": ")
		}
	}
	if !src.LastEvent.IsZero() {
		line += ", last event " + term.Duration(now.Sub(src.LastEvent)) + " ago"
	}
	if src.Messages > 0 {
		line += fmt.Sprintf(", %d messages", src.Messages)
	}
	if src.Lost > 0 {
		line += fmt.Sprintf(", %d lost", src.Lost)
	}
	switch {
	case len(src.ActiveFor) > 0:
		line += ", active for " + strings.Join(src.ActiveFor, ", ")
	case src.Up:
		line += ", in reserve"
	}
	if src.Unconfirmed > 0 {
		line += fmt.Sprintf(", %d unconfirmed attempts", src.Unconfirmed)
	}
	return line
}

// withoutSource names the kinds without a source, and the reasons.
func withoutSource(sources []control.ActiveSource) string {
	var kinds []string
	for _, src := range sources {
		if src.Source != "" {
			continue
		}
		text := src.Kind
		if src.Why != "" {
			text += " (" + src.Why + ")"
		}
		kinds = append(kinds, text)
	}
	return strings.Join(kinds, ", ")
}

func firewallLine(st *control.Status) string {
	f := &st.Firewall
	line := f.Backend + ", enforcing"
	switch {
	case st.Watching:
		return "not used: fsban watches only; fsban enforce switches enforcement on"
	case !f.Enforcing:
		line = f.Backend + ", NOT enforcing"
	}
	if f.Pending > 0 {
		line += fmt.Sprintf(", %d changes pending", f.Pending)
	}
	if f.Repairs > 0 || f.Restored > 0 {
		line += fmt.Sprintf(", repaired %d rules or sets, restored %d bans", f.Repairs, f.Restored)
	}
	return line
}

// newest names the bans made last.
func newest(bans []control.Ban, now time.Time) string {
	var list []string
	for _, b := range bans[:min(len(bans), maxNow)] {
		list = append(list, fmt.Sprintf("%s %s ago (%s)", term.Prefix(b.Prefix), term.Duration(now.Sub(b.Since)), b.Rule))
	}
	return strings.Join(list, ", ")
}

// busiestNow names the busiest addresses.
func busiestNow(top *control.Top) string {
	banned := ", banned"
	if top.Watching {
		banned = ", would be banned"
	}
	if len(top.Addresses) == 0 {
		return "no attempts in the last 5m"
	}
	var list []string
	for _, b := range top.Addresses[:min(len(top.Addresses), maxNow)] {
		state := ""
		if b.Banned {
			state = banned
		}
		list = append(list, fmt.Sprintf("%s (%d%s)", term.Prefix(b.Prefix), b.Attempts, state))
	}
	return "most attempts in the last 5m: " + strings.Join(list, ", ")
}

// printNeverBan prints the never-ban list.
func printNeverBan(s *term.Screen, list []control.NeverBan) {
	for _, n := range list {
		spared := ""
		if n.Spared > 0 {
			spared = fmt.Sprintf(", %d attempts spared", n.Spared)
		}
		s.PrintRow(fmt.Sprintf("  %-10s %-20s ", "never ban", term.Prefix(n.Prefix)), n.Origin+spared)
	}
}

// seen lists the attempts since the start by kind; zero counts other than failures are left out.
func seen(s *control.Status) []string {
	list := []string{fmt.Sprintf("%d failures", s.Attempts["auth_failure"])}
	for _, kind := range []struct{ name, words string }{
		{"violation", "violations"}, {"call_reject", "calls refused"}, {"acl_reject", "refused by access lists"},
		{"scan", "scans"}, {"malformed", "malformed messages"}, {"flood", "floods"}, {"exploit", "exploits"},
		{"challenge", "challenges"}, {"auth_success", "successes"},
	} {
		if n := s.Attempts[kind.name]; n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, kind.words))
		}
	}
	if s.Policy.Spared > 0 {
		list = append(list, fmt.Sprintf("%d from never-ban addresses", s.Policy.Spared))
	}
	return list
}

// printFleet shows the fleet and its nodes.
func printFleet(s *term.Screen, row func(name, format string, args ...any), f *control.Fleet, now time.Time) {
	line := fmt.Sprintf("%s through %s, shares %s: ", f.Name, f.Redis, f.Share)
	switch {
	case !f.Up:
		line += "STANDALONE for " + term.Duration(now.Sub(f.Since))
	case f.InStep:
		line += "in step"
	default:
		line += "catching up"
	}
	if f.Queue > 0 {
		line += fmt.Sprintf(", %d updates queued", f.Queue)
	}
	if f.Waiting > 0 {
		line += fmt.Sprintf(", %d remote bans waiting", f.Waiting)
	}
	row("fleet", "%s", line)
	for i := range f.Nodes {
		n := &f.Nodes[i]
		line := fmt.Sprintf("%-20s %s, seen %s ago, %s", s.Clean(n.Name), s.Clean(n.Version), term.Duration(now.Sub(n.Seen)),
			plural(n.Bans, "ban"))
		switch {
		case n.Watching:
			line += ", WATCHING: announces no bans"
		case !n.Ready:
			line += ", NOT PROTECTING"
		}
		if len(n.ActiveSources) > 0 {
			line += ", sources " + s.Clean(strings.Join(n.ActiveSources, ", "))
		}
		if n.Name == f.Node {
			line += ", this node"
		}
		row("node", "%s", line)
	}
}
