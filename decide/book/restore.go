package book

import (
	"encoding/json"
	"errors"
	"net/netip"
	"time"

	"fsban/fleet/merge"
	"fsban/ledger"
	"fsban/policy"
)

var errPrefix = errors.New("no valid prefix")

// RestoreAllowances loads the allowances of an earlier process, moves them by the step of the clock that this one has missed, and
// puts configured and them onto the never-ban list. Those that are over are deleted. Call it before the journal is replayed.
func (b *Book) RestoreAllowances(configured []policy.NeverEntry, step time.Duration) {
	var over []netip.Prefix
	unreadable, err := b.ledger.Records(ledger.Allowed, func(record []byte) error {
		var a Allowance
		if err := json.Unmarshal(record, &a); err != nil {
			return err
		}
		if !a.Prefix.IsValid() {
			return errPrefix
		}
		if a.step(step); a.over(b.started) {
			over = append(over, a.Prefix)
		} else {
			b.setAllowance(&a)
		}
		return nil
	})
	for _, p := range over {
		b.removeAllowance(p)
	}
	if step != 0 {
		b.saveAllowances()
	}
	b.ReportLoss("allowances", unreadable, err)
	b.configured = configured
	b.setNeverBan() // RestoreBans ends the bans that it forbids
}

// RestoreTombstones loads the withdrawals of an earlier process. Call it before the journal is replayed: Withdrawn answers by them.
// They move by the step of the clock that this process has missed; alone: their stamps too, because there is no fleet.
func (b *Book) RestoreTombstones(step time.Duration, alone bool) {
	b.restoreTombstones(ledger.Unbanned, merge.Bans, step, alone)
	b.restoreTombstones(ledger.Disallowed, merge.Allowances, step, alone)
}

func (b *Book) restoreTombstones(shelf ledger.Shelf, subject merge.Subject, step time.Duration, alone bool) {
	var expired []netip.Prefix
	unreadable, err := b.ledger.Records(shelf, func(record []byte) error {
		var t merge.Tombstone
		if err := json.Unmarshal(record, &t); err != nil {
			return err
		}
		if step != 0 {
			t.Step(step, alone)
			if t.Prefix.IsValid() {
				b.keepTombstone(merge.Key{Subject: subject, Prefix: t.Prefix}, &t)
			}
		}
		if !b.merge.Load(merge.Key{Subject: subject, Prefix: t.Prefix}, t, b.started) && t.Prefix.IsValid() {
			expired = append(expired, t.Prefix)
		}
		return nil
	})
	for _, p := range expired {
		_ = b.ledger.Keep(shelf, p, nil) // a removal never fails
	}
	b.ReportLoss(string(shelf), unreadable, err)
}

// RestoreBans passes the bans of the ledger through the checks, and ends those that fail. When the firewall holds fewer bans
// than the ledger, those with the least evidence are evicted. It orders nothing else: the enforcer restores by itself.
func (b *Book) RestoreBans() {
	type refused struct {
		ban ledger.Ban
		w   Withdrawal
	}
	var list []refused
	for _, ban := range b.ledger.List() {
		r := b.check(&Entry{Ban: ban, Origin: Restored})
		if r == nil {
			continue
		}
		w := Withdrawal{Cause: Invalid}
		switch r.Reason {
		case Never:
			_, w = b.forbidden(&ban)
		case Withdrawn:
			t, _ := b.merge.Tombstone(banKey(ban.Prefix))
			w = Withdrawal{Cause: Unbanned, By: t.By, Reason: t.Reason, Node: b.elsewhere(t.Node)}
		case BadPrefix, TooWide, Doubtful, Full, Outranked:
		}
		list = append(list, refused{ban, w})
	}
	for i := range list {
		b.forget(list[i].ban.Prefix, b.started)
		b.drop(list[i].ban, list[i].w)
	}
	b.fit(b.started)
}

// fit evicts the bans beyond the limits, at now. Only operators' bans may be left beyond a limit: the firewall reports that they do
// not fit. It returns the number of evicted bans.
func (b *Book) fit(now time.Time) (evicted int) {
	family, both := b.room()
	v4, v6 := b.ledger.Count()
	evicted = b.evict(true, v4-family, false, now) + b.evict(false, v6-family, false, now)
	if v4, v6 = b.ledger.Count(); both > 0 {
		evicted += b.evict(true, v4+v6-both, true, now)
	}
	return evicted
}

// Replay puts a ban into force that the journal led to and the ledger does not hold, or returns a *Refusal. If the ban was
// withdrawn, the address starts from zero, which is no error.
func (b *Book) Replay(e Entry) error {
	err := b.Ban(e)
	if r := (*Refusal)(nil); errors.As(err, &r) && r.Reason == Withdrawn {
		b.forget(e.Ban.Prefix, b.now())
		return nil
	}
	return err
}

// ReportLoss logs records of an earlier process that cannot be read.
func (b *Book) ReportLoss(records string, unreadable int, err error) {
	if err != nil || unreadable > 0 {
		b.log.Error("state only partly restored", "records", records, "unreadable", unreadable, "error", err)
	}
}
