package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/fail2ban"
	"fsban/internal/term"
	"fsban/policy"
)

// importBans takes over the bans of the running fail2ban, or of its saved answer.
func (i *importer) importBans(ctx context.Context, stdin io.Reader, s *settings) error {
	now := time.Now()
	bans, odd, err := i.readBans(ctx, stdin, now)
	if err != nil {
		return err
	}
	if i.print {
		return i.printBans(bans, odd, now)
	}
	client, err := s.client(i.report)
	if err != nil {
		return err
	}
	defer client.Close()
	res, err := i.takeOver(ctx, client, bans, now)
	if err != nil {
		return err
	}
	res.Odd = append(res.Odd, odd...)
	if i.json {
		err = printJSON(i.out, res)
	} else {
		res.print(i.out)
	}
	if len(res.Failed) > 0 {
		err = errors.Join(err, fmt.Errorf("%d bans were not taken over", len(res.Failed)))
	}
	return err
}

// readBans reads the bans in force, and identifiers that are no address.
func (i *importer) readBans(ctx context.Context, stdin io.Reader, now time.Time) (bans []fail2ban.Ban, odd []string, err error) {
	if i.bansFile == "" {
		if bans, odd, err = fail2ban.AskBans(ctx, i.from, i.taken, now); err != nil {
			err = fmt.Errorf("%w\n  start fail2ban, or name saved output of fail2ban-client get JAIL banip --with-time with --bans-file", err)
		}
		return bans, odd, err
	}
	name := i.bansFile
	if name == "-" {
		name = "standard input"
	} else {
		f, err := os.Open(i.bansFile)
		if err != nil {
			return nil, nil, err
		}
		defer func() { _ = f.Close() }()
		stdin = f
	}
	if bans, odd, err = fail2ban.ParseBans(stdin, strings.Join(i.names, ","), now); err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return bans, odd, err
}

func (i *importer) printBans(bans []fail2ban.Ban, odd []string, now time.Time) error {
	for _, o := range odd {
		fmt.Fprintf(i.report, "%.60q is banned in fail2ban and is no address: not taken\n", o)
	}
	if i.json {
		return printJSON(i.out, append([]fail2ban.Ban{}, bans...))
	}
	for _, b := range bans {
		fmt.Fprintf(i.out, "fsban ban %v --bantime %v --reason %s\n", b.Prefix, config.Duration(left(&b, now)), word(reason(&b)))
	}
	return nil
}

// left returns the remaining time of a ban in whole seconds, at least one.
func left(b *fail2ban.Ban, now time.Time) time.Duration {
	if b.Until.IsZero() {
		return policy.Forever
	}
	return max(b.Until.Sub(now).Round(time.Second), time.Second)
}

func reason(b *fail2ban.Ban) string {
	if b.Jail == "" {
		return "from fail2ban"
	}
	return fmt.Sprintf("from fail2ban, jail %.60s", b.Jail)
}

// A takenOver is the result of taking over bans.
type takenOver struct {
	Taken   []netip.Prefix `json:"taken"`
	Already []netip.Prefix `json:"already"` // banned by fsban, for as long or longer, or by an operator
	Never   []notTaken     `json:"never"`   // on fsban's never-ban list
	Failed  []notTaken     `json:"failed"`
	Odd     []string       `json:"odd"` // no addresses
}

type notTaken struct {
	Prefix netip.Prefix `json:"prefix"`
	Why    string       `json:"why"`
}

// takeOver bans the prefixes that are not banned for as long already. It goes on after a refusal of the daemon.
func (i *importer) takeOver(ctx context.Context, client *control.Client, bans []fail2ban.Ban, now time.Time) (*takenOver, error) {
	status, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	there, err := client.Bans(ctx, control.Pick{})
	if err != nil {
		return nil, err
	}
	known := make(map[netip.Prefix]*control.Ban, len(there))
	for k := range there {
		known[there[k].Prefix] = &there[k]
	}
	res := &takenOver{Taken: []netip.Prefix{}, Already: []netip.Prefix{}, Never: []notTaken{}, Failed: []notTaken{}, Odd: []string{}}
	progress := term.Progress(i.report)
	for k := range bans {
		b := &bans[k]
		if progress != nil {
			progress(int64(k+1), int64(len(bans)))
		}
		if old, ok := known[b.Prefix]; ok && (old.Rule == "operator" || old.Until.IsZero() ||
			!b.Until.IsZero() && old.Until.After(b.Until.Add(-2*time.Second))) {
			res.Already = append(res.Already, b.Prefix)
			continue
		}
		if entry, never := neverBanned(status.Policy.NeverBan, b.Prefix); never {
			res.Never = append(res.Never, notTaken{b.Prefix, "never banned, because of " + entry})
			continue
		}
		_, err := client.Ban(ctx, control.BanRequest{Prefix: b.Prefix, Time: left(b, now), Reason: reason(b), Imported: true, Since: b.Since})
		switch refused := (*control.RefusedError)(nil); {
		case err == nil:
			res.Taken = append(res.Taken, b.Prefix)
		case errors.As(err, &refused):
			res.Failed = append(res.Failed, notTaken{b.Prefix, refused.Text})
		default:
			return nil, fmt.Errorf("after %d of %d bans: %w", len(res.Taken), len(bans), err)
		}
	}
	return res, nil
}

// neverBanned returns the entry of the daemon's list that forbids a ban.
func neverBanned(list []control.NeverBan, p netip.Prefix) (string, bool) {
	for _, n := range list {
		if n.Prefix.Overlaps(p) {
			return fmt.Sprintf("%v (%s)", n.Prefix, n.Origin), true
		}
	}
	return "", false
}

func (t *takenOver) print(out io.Writer) {
	fmt.Fprintf(out, "%d bans taken over, %d were there already\n", len(t.Taken), len(t.Already))
	for _, n := range slices.Concat(t.Never, t.Failed) {
		fmt.Fprintf(out, "  not taken: %v: %s\n", n.Prefix, n.Why)
	}
	for _, o := range t.Odd {
		fmt.Fprintf(out, "  not taken: %.60q: no address\n", o)
	}
}
