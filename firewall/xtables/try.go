package xtables

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"fsban/firewall"
)

// triedSet and triedChain are the objects of a trial.
const (
	triedSet   = "fsban-try"
	triedChain = "FSBAN-TRY"
)

// Try creates sets and rules like those that bans need, and removes them.
func (b *IPTables) Try(ctx context.Context) error {
	for _, f := range b.families {
		if _, err := b.sets.Remove(triedSet, 0); err != nil { // left by a trial that was interrupted
			return err
		}
		if err := b.sets.Create(triedSet, f.id, 16); err != nil {
			return err
		}
		var err error
		if f.ipt != nil {
			err = f.tryRules(ctx, b.opts.Hooks, "-m set --match-set "+triedSet+" src "+f.target(b.opts.Target))
		}
		_, e := b.sets.Remove(triedSet, f.id)
		if err = errors.Join(err, e); err != nil {
			return err
		}
	}
	return nil
}

// Try creates rules like those that bans need, and removes them.
func (b *Rules) Try(ctx context.Context) error {
	for _, f := range b.families {
		if f.ipt == nil {
			continue
		}
		if err := f.tryRules(ctx, b.opts.Hooks, "-s 192.0.2.1/32 -m time --datestop 2038-01-01T00:00:00 "+f.target(b.opts.Target)); err != nil {
			return err
		}
	}
	return nil
}

// tryRules puts a rule into a chain without jumps to it.
func (f *family) tryRules(ctx context.Context, hooks []firewall.Hook, rule string) error {
	if f.id == unix.AF_INET6 {
		rule = strings.Replace(rule, "192.0.2.1/32", "2001:db8::1/128", 1)
	}
	for _, name := range firewall.Tables {
		if len(hooksOf(hooks, name)) == 0 {
			continue
		}
		err := f.ipt.restore(ctx, name, []string{":" + triedChain + " - [0:0]", "-A " + triedChain + " " + rule})
		if err == nil {
			err = f.ipt.restore(ctx, name, []string{"-F " + triedChain, "-X " + triedChain})
		}
		if err != nil {
			return f.failed("try a rule in", name, triedChain, err)
		}
	}
	return nil
}
