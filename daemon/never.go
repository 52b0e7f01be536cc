package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"fsban/config"
	"fsban/ledger"
	"fsban/neverban"
	"fsban/policy"
)

// An Allowance is an entry of the never-ban list that an operator has made at run time.
type Allowance struct {
	Prefix netip.Prefix `json:"prefix"`
	By     string       `json:"by"`
	Reason string       `json:"reason,omitempty"`
	Since  time.Time    `json:"since"`
	Until  time.Time    `json:"until,omitzero"` // zero: until somebody disallows it
	Node   string       `json:"node,omitempty"` // of the fleet: which one it was said to
	Stamp  int64        `json:"stamp,omitempty"`
	Local  bool         `json:"local,omitempty"` // it is not for the fleet
}

// maxAllowed bounds the allowances.
const maxAllowed = 10_000

// neverBanOptions say who is never banned, as the configuration has it.
func (d *Daemon) neverBanOptions() neverban.Options {
	p := &d.cfg().Policy
	opts := neverban.Options{
		Hosts: p.IgnoreHosts(), File: p.IgnoreFile, NoGateways: !p.IgnoreGateways, ACLs: p.IgnoreACLs, NoOwn: !p.IgnoreSelf,
		API: d.client.API, Changed: d.onNeverBan, SSHPorts: []uint16{},
		ParseFile: func(data []byte) ([]netip.Prefix, []string, error) {
			return config.ParseIgnoreFile(filepath.Base(p.IgnoreFile), data)
		},
	}
	for _, prefix := range p.IgnorePrefixes() {
		opts.Prefixes = append(opts.Prefixes, neverban.Entry{Prefix: prefix, Origin: "ignoreip"})
	}
	if p.IgnoreSSH {
		for _, port := range p.SSHPorts {
			opts.SSHPorts = append(opts.SSHPorts, uint16(port))
		}
	}
	return opts
}

// noAddr is nobody.
var noAddr netip.Addr

// onNeverBan runs in the watcher's goroutine.
func (d *Daemon) onNeverBan(entries []neverban.Entry, problems []string) {
	for _, p := range problems {
		if !slices.Contains(d.neverTold, p) {
			d.log.Warn("the never-ban list is not all known", "error", p)
		}
	}
	d.neverTold = problems
	// The loop is there for as long as the watcher runs.
	_ = d.do(context.Background(), func(l *loop) {
		l.listed = entries
		l.setNeverBan()
	})
}

// setNeverBan puts the never-ban list into force. It ends the bans that a rule made of addresses that are on it now: one
// that has become our own, or that somebody has put into ignoreip. What an operator banned, or the kernel held, stays.
func (l *loop) setNeverBan() {
	entries := make([]policy.NeverEntry, 0, len(l.listed)+len(l.allowed))
	for _, a := range l.allowed {
		entries = append(entries, policy.NeverEntry{Prefix: a.Prefix, Origin: a.origin()})
	}
	for _, e := range l.listed {
		entries = append(entries, policy.NeverEntry(e))
	}
	never := policy.NewNeverBan(entries)
	l.engine.SetNeverBan(never)
	l.spare(func(b *ledger.Ban) bool { return b.Rule != ruleOperator && b.Rule != ruleKernel }, func(p netip.Prefix) bool {
		_, match := never.Match(p)
		return match
	})
}

// spare ends the bans of prefixes that are in, where which says so of the ban.
func (l *loop) spare(which func(*ledger.Ban) bool, in func(netip.Prefix) bool) {
	var list []netip.Prefix
	l.ledger.Each(func(p netip.Prefix, _ time.Time) bool {
		if in(p) {
			list = append(list, p)
		}
		return true
	})
	for _, p := range list {
		if b, ok := l.ledger.Get(p); ok && which(&b) {
			l.unban(b, causeNeverBan, "")
		}
	}
}

// origin says for people why the prefix is never banned.
func (a *Allowance) origin() string {
	by := a.By
	if a.Node != "" {
		by += " on " + a.Node
	}
	if a.Until.IsZero() {
		return "allowed by " + by
	}
	return fmt.Sprintf("allowed by %s until %s", by, a.Until.Format(time.DateTime))
}

// allow puts a prefix onto the never-ban list.
func (l *loop) allow(a Allowance) error {
	if _, known := l.allowed[a.Prefix]; !known && len(l.allowed) >= maxAllowed {
		return fmt.Errorf("%d prefixes are allowed already: put them into policy.ignore_file", maxAllowed)
	}
	l.tellAllow(&a)
	if err := l.ledger.Keep(ledger.Allowed, a.Prefix, a); err != nil {
		return err
	}
	l.allowed[a.Prefix] = a
	l.setNeverBan()
	l.spareAdopted(a.Prefix)
	l.log.Info("allowed", "addr", a.Prefix, "until", end(a.Until), text("reason", a.Reason), "by", a.By)
	return nil
}

// spareAdopted ends the bans within a prefix that were found in the kernel.
func (l *loop) spareAdopted(within netip.Prefix) {
	l.spare(func(b *ledger.Ban) bool { return b.Rule == ruleKernel }, func(p netip.Prefix) bool {
		return within.Overlaps(p) && within.Bits() <= p.Bits()
	})
}

// disallow takes a prefix off it again.
func (l *loop) disallow(prefix netip.Prefix, by string) (Allowance, bool) {
	a, ok := l.allowed[prefix]
	if !ok {
		return a, false
	}
	l.dropAllowance(prefix)
	l.setNeverBan()
	l.log.Info("allowed no more", "addr", prefix, "by", by)
	return a, true
}

func (l *loop) dropAllowance(prefix netip.Prefix) {
	delete(l.allowed, prefix)
	if err := l.ledger.Keep(ledger.Allowed, prefix, nil); err != nil {
		l.log.Error("an allowance stays on disk", "addr", prefix, "error", err)
	}
}

// endAllowances drops those that are over.
func (l *loop) endAllowances(now time.Time) {
	for p, a := range l.allowed {
		if !a.Until.IsZero() && !a.Until.After(now) {
			l.disallow(p, "its time")
		}
	}
}

// restoreAllowances takes up those of an earlier process.
func (l *loop) restoreAllowances() {
	unreadable, err := l.ledger.Records(ledger.Allowed, func(record []byte) error {
		var a Allowance
		if err := json.Unmarshal(record, &a); err != nil {
			return err
		}
		if !a.Prefix.IsValid() {
			return os.ErrInvalid
		}
		if a.Until.IsZero() || a.Until.After(l.started) {
			l.allowed[a.Prefix] = a
		}
		return nil
	})
	l.missing("allowances", unreadable, err)
}

func end(t time.Time) any {
	if t.IsZero() {
		return "forever"
	}
	return t
}
