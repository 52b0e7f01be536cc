package firewall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Auto chooses a backend by trying: iptables with ipset where it works, else nftables, else one iptables rule a ban. It
// returns what it chose, and a sentence that says why. What a try makes it takes away again.
//
// A choice that differs from the one of an earlier run leaves what that one made: Abandoned takes it away, once the new one
// is in force.
func Auto(ctx context.Context, opts Options) (Backend, string, error) {
	var whyNot []string
	b, err := NewIPTables(opts)
	if err == nil {
		if err = b.try(ctx); err == nil {
			return b, "iptables with ipset works here", nil
		}
		_ = b.Close()
	}
	whyNot = append(whyNot, "iptables with ipset does not: "+err.Error())
	n, err := NewNFTables(opts)
	if err == nil {
		if err = n.try(); err == nil {
			return n, "nftables works here; " + strings.Join(whyNot, "; "), nil
		}
		_ = n.Close()
	}
	whyNot = append(whyNot, "nftables does not: "+err.Error())
	r, err := NewRules(opts)
	if err == nil {
		if err = r.try(ctx); err == nil {
			return r, fmt.Sprintf("one iptables rule a ban works here, for %d of them; %s", MaxRules, strings.Join(whyNot, "; ")), nil
		}
	}
	whyNot = append(whyNot, "one iptables rule a ban does not: "+err.Error())
	return nil, "", errors.New("no way to ban works here: " + strings.Join(whyNot, "; "))
}

// Abandoned takes away what another backend than b, or another variant of iptables, has made in an earlier run, and returns
// what it took away. Call it when b is in force: until then the other's bans stand.
func Abandoned(b Backend) (removed []string, err error) {
	if _, dry := b.(*DryRun); dry {
		return nil, nil
	}
	removed, err = teardownUnused()
	take := func(r []string, e error) { removed, err = append(removed, r...), errors.Join(err, e) }
	if b, ok := b.(*Rules); ok {
		r, e := b.dropSets()
		if errors.Is(e, errNoIPSet) {
			e = nil // nor are there sets, then
		}
		take(r, e)
	}
	if b.Name() == "nftables" {
		take(teardownOf(func() (Backend, error) { return NewIPTables(Options{}) }))
	} else {
		take(teardownOf(func() (Backend, error) { return NewNFTables(Options{}) }))
	}
	return removed, err
}

// Teardown removes what fsban ever made on this host, with whatever backend, and nothing else. It returns what it removed,
// also when some of it failed.
func Teardown() (removed []string, err error) {
	removed, err = teardownUnused()
	for _, open := range []func() (Backend, error){
		func() (Backend, error) { return NewIPTables(Options{}) },
		func() (Backend, error) { return NewRules(Options{}) }, // where there is iptables without ipset
		func() (Backend, error) { return NewNFTables(Options{}) },
	} {
		r, e := teardownOf(open)
		removed, err = append(removed, r...), errors.Join(err, e)
	}
	return removed, err
}

// teardownOf opens a backend, and removes what it ever made. Where the host has none of it, it has made nothing.
func teardownOf(open func() (Backend, error)) (removed []string, err error) {
	b, err := open()
	if err == nil {
		removed, err = b.Teardown()
		err = errors.Join(err, b.Close())
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, errNoIPSet) || errors.Is(err, errNoNFTables) {
		err = nil
	}
	return removed, err
}

// triedSet and triedChain are made to see whether it can be done.
const (
	triedSet   = "fsban-try"
	triedChain = "FSBAN-TRY"
)

// try makes sets and rules like those that are needed, and takes them away again.
func (b *IPTables) try(ctx context.Context) (err error) {
	for _, f := range b.families {
		if err := b.sets.create(triedSet, f.id, 16); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if f.ipt != nil {
			err = f.tryRules(ctx, b.opts.Hooks, "-m set --match-set "+triedSet+" src "+f.target(b.opts.Target))
		}
		if err = errors.Join(err, b.sets.destroyUnused(triedSet)); err != nil {
			return err
		}
	}
	return nil
}

// try makes rules like those that are needed, and takes them away again.
func (b *Rules) try(ctx context.Context) error {
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

// tryRules puts a rule into a chain that nothing leads to.
func (f *family) tryRules(ctx context.Context, hooks []Hook, rule string) error {
	if f.id == unix.AF_INET6 {
		rule = strings.Replace(rule, "192.0.2.1/32", "2001:db8::1/128", 1)
	}
	for _, name := range tables {
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

// try makes the table with all that is in it, unless it is there, and takes it away again.
func (b *NFTables) try() error {
	conn, err := b.dial(b.watcher.mine)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseLasting() }()
	if table, err := findTable(conn); err != nil {
		return nftError("list", "tables", err)
	} else if table != nil {
		return nil
	}
	if _, err := b.setup(); err != nil {
		return err
	}
	_, err = b.Teardown()
	return err
}
