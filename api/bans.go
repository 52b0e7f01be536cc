package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
	"unicode/utf8"

	"fsban/control"
	"fsban/decide"
	"fsban/decide/book"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// Bans returns the bans that p selects, with the kernel's counters of each.
func (a *API) Bans(_ context.Context, p *control.Pick) ([]control.Ban, error) {
	entries, err := a.entries()
	if err != nil {
		return nil, err
	}
	inKernel := make(map[netip.Prefix]firewall.Entry, len(entries))
	for _, e := range entries {
		inKernel[e.Prefix] = e
	}
	now := a.parts.Loop.Now()
	all := a.parts.Ledger.List()
	list := make([]control.Ban, 0, len(all))
	for i := range all {
		if all[i].Over(now) {
			continue
		}
		w := a.wire(&all[i])
		if e, ok := inKernel[w.Prefix]; ok {
			w.InKernel = true
			w.Dropped = control.Dropped{Packets: e.Packets, Bytes: e.Bytes}
		}
		list = append(list, w)
	}
	list = p.Of(list, now)
	if len(list) > p.Evidence {
		return list, nil
	}
	return list, a.addEvidence(list)
}

// entries lists the kernel's entries: while fsban watches, those of an earlier fsban, as far as this user may see them.
func (a *API) entries() ([]firewall.Entry, error) {
	if a.parts.Watching() {
		entries, _ := a.parts.Existing()
		return entries, nil
	}
	return a.parts.Enforcer.Entries()
}

// stillBlocked returns up to maxBlocked bans that the kernel enforces for p although fsban watches.
func (a *API) stillBlocked(p netip.Prefix) (list []netip.Prefix) {
	if !a.parts.Watching() {
		return nil
	}
	entries, _ := a.parts.Existing()
	for i := range entries {
		if len(list) == maxBlocked {
			break
		}
		if entries[i].Prefix.Overlaps(p) && !slices.Contains(list, entries[i].Prefix) {
			list = append(list, entries[i].Prefix)
		}
	}
	return list
}

// maxBlocked bounds the entries of the kernel that an answer names.
const maxBlocked = 10

// blockedText says that the kernel still blocks the bans in list.
func blockedText(list []netip.Prefix) string {
	return fmt.Sprintf("fsban only watches, and the kernel STILL BLOCKS %s by a ban from before: "+
		"stop fsban, run fsban teardown, and start fsban",
		overlaps(list))
}

// addEvidence adds the last attempts to bans. A ban that has ended meanwhile has none.
func (a *API) addEvidence(list []control.Ban) error {
	for i := range list {
		b, err := a.parts.Ledger.Load(list[i].Prefix)
		if err != nil && !errors.Is(err, ledger.ErrNotBanned) {
			return err
		}
		list[i].Evidence = wireAttempts(b.Evidence)
	}
	return nil
}

// Ban makes a ban that an operator orders.
func (a *API) Ban(ctx context.Context, r control.BanRequest, by string) (control.Ban, error) {
	if !r.Prefix.IsValid() {
		return control.Ban{}, refused("no prefix to ban")
	}
	prefix, err := parseOrder(r.Prefix, r.Reason)
	if err != nil {
		return control.Ban{}, err
	}
	if r.Time != 0 && r.Time != policy.Forever && r.Time < time.Second {
		return control.Ban{}, refused("a ban lasts at least 1s")
	}
	b, err := a.parts.Loop.Ban(ctx, decide.BanOrder{
		Prefix: prefix, BanTime: r.Time, Default: time.Duration(a.parts.Config().Policy.BanTime), By: by, Reason: r.Reason, Local: r.Local,
		Force: r.Force, Imported: r.Imported, Since: r.Since,
	})
	return a.wire(&b), refusal(err)
}

// Unban ends a ban that an operator withdraws.
func (a *API) Unban(ctx context.Context, p netip.Prefix, w control.Withdrawal, by string) (control.Ban, error) {
	prefix, err := parseOrder(p, w.Reason)
	if err != nil {
		return control.Ban{}, err
	}
	b, found, overlap, err := a.parts.Loop.Unban(ctx, prefix, order(w, by))
	blocked := a.stillBlocked(prefix)
	switch {
	case err != nil:
	case len(blocked) > 0:
		err = refused("%v: %s", prefix, blockedText(blocked))
	case found && len(overlap) > 0:
		err = refused("%v was unbanned, but is still banned: unban %s as well", prefix, overlaps(overlap))
	case !found:
		text := prefix.String() + " is not banned"
		if len(overlap) > 0 {
			text += fmt.Sprintf(", but it overlaps with %s: name the prefix as fsban list shows it", overlaps(overlap))
		}
		err = &control.RefusedError{Text: text}
	}
	return a.wire(&b), err
}

// UnbanMany ends the bans that an operator chooses.
func (a *API) UnbanMany(ctx context.Context, r control.UnbanRequest, by string) (done control.Unbanned, err error) {
	if len(r.Prefixes) > control.MaxUnbans {
		return done, refused("%d prefixes, at most %d", len(r.Prefixes), control.MaxUnbans)
	}
	list := make([]netip.Prefix, len(r.Prefixes))
	for i, p := range r.Prefixes {
		if list[i], err = parseOrder(p, r.Reason); err != nil {
			return done, err
		}
	}
	done.Ended, done.Held, err = a.parts.Loop.UnbanMany(ctx, list, book.Order{By: by, Reason: r.Reason, Local: r.Local})
	if err != nil || !a.parts.Watching() {
		return done, err
	}
	entries, _ := a.parts.Existing()
	blocked := make(map[netip.Prefix]bool, len(entries))
	for i := range entries {
		blocked[entries[i].Prefix] = true
	}
	for _, p := range list {
		if blocked[p] && len(done.Blocked) < maxBlocked {
			done.Blocked = append(done.Blocked, p)
		}
	}
	return done, nil
}

// maxReason bounds an operator's reason, in bytes.
const maxReason = 200

// checkReason returns an error for a reason that is too long or not UTF-8.
func checkReason(reason string) error {
	switch {
	case len(reason) > maxReason:
		return refused("reason: %d bytes, at most %d", len(reason), maxReason)
	case !utf8.ValidString(reason):
		return refused("reason: not UTF-8")
	}
	return nil
}

func (a *API) wire(b *ledger.Ban) control.Ban {
	return control.Ban{
		Prefix: b.Prefix, Since: b.Since, Until: b.Until, Rule: b.Rule, Source: b.Source.String(), Attempts: b.Attempts, Offence: b.Offence,
		By: b.By, Reason: b.Reason, Node: b.Node, Local: b.Local, Forced: b.Forced, Evidence: wireAttempts(b.Evidence),
		Watched: a.parts.Watching(),
	}
}

func wireAttempts(attempts []policy.Attempt) (list []control.Attempt) {
	for _, a := range attempts {
		list = append(list, control.Attempt{
			Addr: a.Addr, At: a.At, Kind: a.Kind.String(), Source: a.Source.String(), Method: a.Method.String(),
			Transport: a.Transport.String(), Proof: a.Proof.String(),
			User: a.User, Number: a.Number, Domain: a.Domain, Profile: a.Profile, UserAgent: a.UserAgent, Detail: a.Detail,
		})
	}
	return list
}
