package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"fsban/control"
	"fsban/decide"
	"fsban/decide/book"
	"fsban/ledger"
	"fsban/policy"
)

// maxHistory bounds the ended bans that why lists.
const maxHistory = 5

// causes are the causes of ends in the history.
func causes() []string {
	list := []string{string(book.Replaced)}
	for _, c := range book.Causes {
		list = append(list, string(c))
	}
	slices.Sort(list)
	return list
}

// History returns the ended bans that p selects, the newest first. Bans that cannot be read are left out; the log of the start, or a
// failed write, has reported the damage.
func (a *API) History(_ context.Context, p *control.HistoryPick) ([]control.EndedBan, error) {
	known := causes()
	for _, c := range p.Causes {
		if !slices.Contains(known, c) {
			return nil, refused("no cause %.40q: there are %s", c, strings.Join(known, ", "))
		}
	}
	q := ledger.Query{Prefix: p.Prefix, Since: p.Since, Until: p.Until, Limit: p.Limit, Evidence: p.Evidence}
	if len(p.Rules)+len(p.Causes) > 0 {
		q.Match = func(e *ledger.EndedBan) bool {
			return (len(p.Rules) == 0 || slices.Contains(p.Rules, e.Rule)) &&
				(len(p.Causes) == 0 || slices.Contains(p.Causes, e.Ending.Cause))
		}
	}
	ended, _, err := a.parts.Ledger.History(q)
	list := make([]control.EndedBan, 0, len(ended))
	for i := range ended {
		list = append(list, wireEnded(&ended[i]))
	}
	return list, err
}

func wireEnded(e *ledger.EndedBan) control.EndedBan {
	return control.EndedBan{
		Prefix: e.Prefix, Since: e.Since, Until: e.Until, Rule: e.Rule, Source: e.Source.String(), Attempts: e.Attempts, Offence: e.Offence,
		By: e.By, Reason: e.Reason, Node: e.Node, Ended: e.Ending.At, Cause: e.Ending.Cause, EndedBy: e.Ending.By,
		EndedReason: e.Ending.Reason, EndedOn: e.Ending.Node, Evidence: wireAttempts(e.Evidence),
	}
}

// Allowed returns the allowances, by start.
func (a *API) Allowed(ctx context.Context) ([]control.Allowance, error) {
	allowed, err := a.parts.Loop.Allowances(ctx)
	list := make([]control.Allowance, 0, len(allowed))
	for i := range allowed {
		list = append(list, wireAllowance(&allowed[i]))
	}
	return list, err
}

func wireAllowance(a *book.Allowance) control.Allowance {
	return control.Allowance{Prefix: a.Prefix, By: a.By, Reason: a.Reason, Since: a.Since, Until: a.Until, Node: a.Node, Local: a.Local}
}

// Allow adds a prefix that an operator names to the never-ban list, and ends its bans.
func (a *API) Allow(ctx context.Context, r control.AllowRequest, by string) (control.Allowance, error) {
	prefix, err := parseOrder(r.Prefix, r.Reason)
	switch {
	case err != nil:
		return control.Allowance{}, err
	case r.Time < 0 && r.Time != policy.Forever:
		return control.Allowance{}, refused("the time limit has passed")
	}
	allowance, still, err := a.parts.Loop.Allow(ctx, decide.AllowOrder{
		Prefix: prefix, Time: r.Time, By: by, Reason: r.Reason, Local: r.Local, Force: r.Force,
	})
	w := wireAllowance(&allowance)
	for i := range still {
		w.StillBanned = append(w.StillBanned, a.wire(&still[i]))
	}
	if err == nil {
		if blocked := a.stillBlocked(prefix); len(blocked) > 0 {
			err = refused("%v is allowed, but %s", prefix, blockedText(blocked))
		}
	}
	return w, refusal(err)
}

// Disallow removes an allowance that an operator withdraws.
func (a *API) Disallow(ctx context.Context, p netip.Prefix, w control.Withdrawal, by string) (control.NeverBan, error) {
	prefix, err := parseOrder(p, w.Reason)
	if err != nil {
		return control.NeverBan{}, err
	}
	allowance, found, other, err := a.parts.Loop.Disallow(ctx, prefix, order(w, by))
	switch {
	case err != nil || found:
	case other != nil:
		err = refused("%v was not allowed by fsban allow: it is on the never-ban list because of %v (%s)", prefix, other.Prefix, other.Origin)
	default:
		err = refused("%v is not allowed", prefix)
	}
	return control.NeverBan{Prefix: prefix, Origin: allowance.Origin()}, err
}

func order(w control.Withdrawal, by string) book.Order {
	return book.Order{By: by, Reason: w.Reason, Local: w.Local}
}

// refusal returns err as package control has it.
func refusal(err error) error {
	r := (*book.Refusal)(nil)
	switch {
	case !errors.As(err, &r):
		return err
	case r.Reason == book.Doubtful:
		return &control.DoubtError{Text: r.Text}
	}
	return &control.RefusedError{Text: r.Text}
}

// overlaps renders up to a few prefixes.
func overlaps(list []netip.Prefix) string { return strings.Trim(fmt.Sprint(list), "[]") }
