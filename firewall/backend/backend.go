// Package backend opens a firewall backend, and removes the bans of another one that an earlier run used.
package backend

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"fsban/firewall"
	"fsban/firewall/ipset"
	"fsban/firewall/nft"
	"fsban/firewall/xtables"
)

// Open opens a backend of a kind. It changes nothing, but for the objects of a trial by firewall.Auto, which it removes again.
// For firewall.Auto, reason is a sentence that explains the choice.
func Open(ctx context.Context, kind string, opts firewall.Options) (b firewall.Backend, reason string, err error) {
	switch kind {
	case firewall.None:
		return firewall.NewRecorder(), "", nil
	case firewall.IPTables:
		b, err = opened(xtables.NewIPTables(opts))
	case firewall.NFTables:
		b, err = opened(nft.New(opts))
	case firewall.Rules:
		b, err = opened(xtables.NewRules(opts))
	default:
		return choose(ctx, opts)
	}
	return b, "", err
}

// opened returns a backend as the interface, which is nil if there is none.
func opened[B firewall.Backend](b B, err error) (firewall.Backend, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

// choose tries backends: iptables with ipset, else nftables, else one iptables rule a ban.
//
// A choice that differs from that of an earlier run leaves the earlier backend's bans in the kernel: Abandoned removes them,
// once the new backend is in force.
func choose(ctx context.Context, opts firewall.Options) (firewall.Backend, string, error) {
	var failures []string
	b, err := xtables.NewIPTables(opts)
	if err == nil {
		if err = b.Try(ctx); err == nil {
			return b, "iptables with ipset works here", nil
		}
		_ = b.Close()
	}
	failures = append(failures, "iptables with ipset does not: "+err.Error())
	n, err := nft.New(opts)
	if err == nil {
		if err = n.Try(); err == nil {
			return n, "nftables works here; " + strings.Join(failures, "; "), nil
		}
		_ = n.Close()
	}
	failures = append(failures, "nftables does not: "+err.Error())
	r, err := xtables.NewRules(opts)
	if err == nil {
		if err = r.Try(ctx); err == nil {
			return r, fmt.Sprintf("one iptables rule a ban works here, for %d of them; %s", xtables.MaxRules, strings.Join(failures, "; ")), nil
		}
	}
	failures = append(failures, "one iptables rule a ban does not: "+err.Error())
	return nil, "", errors.New("no way to ban works here: " + strings.Join(failures, "; "))
}

// SetSize returns the size of the sets that MakeSets creates, and 0 if it creates none.
func SetSize(kind string, opts firewall.Options) int {
	opts, err := opts.Complete()
	if err != nil || !makesSets(kind) {
		return 0
	}
	return opts.MaxBans
}

func makesSets(kind string) bool { return kind == firewall.IPTables || kind == firewall.Auto }

// MakeSets creates the sets that rules of a kind of backend name, and returns the names of those that were missing. It makes no
// rules, so nothing is banned. Only iptables with ipset has such sets: a table of nftables is saved and restored as a whole. For
// firewall.Auto, a host without iptables or without ipset needs none, which is no error.
func MakeSets(kind string, opts firewall.Options) (made []string, err error) {
	if !makesSets(kind) {
		return nil, nil
	}
	if _, err = exec.LookPath("iptables"); err == nil {
		made, err = xtables.MakeSets(opts)
	}
	if kind == firewall.Auto && (errors.Is(err, exec.ErrNotFound) || errors.Is(err, ipset.ErrUnsupported)) {
		err = nil
	}
	return made, err
}

// Abandoned removes objects that another backend than b, or another variant of iptables, left from an earlier run, and returns
// them. Call it when b is in force: until then the other backend's bans protect the host. Objects that are not fsban's stay,
// and are no error.
func Abandoned(b firewall.Backend) (removed []string, err error) {
	if _, dry := b.(*firewall.Recorder); dry {
		return nil, nil
	}
	removed, err = xtables.TeardownUnused()
	take := func(r []string, e error) { removed, err = append(removed, r...), errors.Join(err, e) }
	if b, ok := b.(*xtables.Rules); ok {
		take(b.DropSets())
	}
	if b.Name() == firewall.NFTables {
		take(teardownOf(opened(xtables.NewIPTables(firewall.Options{}))))
	} else {
		take(teardownOf(opened(nft.New(firewall.Options{}))))
	}
	_, err = splitForeign(err)
	return removed, err
}

// Existing returns the bans that fsban's objects in the kernel hold, whichever backend made them. It changes nothing. Without the
// programs, the modules or the privilege to look there are none that it can find, and err says why.
func Existing(opts firewall.Options) (entries []firewall.Entry, err error) {
	take := func(b firewall.Backend, e error) {
		if e == nil {
			var list []firewall.Entry
			list, e = b.Entries()
			entries, e = append(entries, list...), errors.Join(e, b.Close())
		}
		if !unsupported(e) {
			err = errors.Join(err, e)
		}
	}
	take(opened(xtables.NewIPTables(opts)))
	take(opened(xtables.NewRules(opts)))
	take(opened(nft.New(opts)))
	return slices.DeleteFunc(entries, func(e firewall.Entry) bool { return e.Exception }), err
}

// unsupported reports whether err says that the host lacks a program or a module.
func unsupported(err error) bool {
	return errors.Is(err, exec.ErrNotFound) || errors.Is(err, ipset.ErrUnsupported) || errors.Is(err, nft.ErrUnsupported)
}

// Teardown removes everything that fsban ever made on this host, with any backend, and nothing else. It returns the removed
// objects, also if some removals failed, and descriptions of objects that have a name of fsban's but are not fsban's: they
// stay.
func Teardown() (removed, kept []string, err error) {
	removed, err = xtables.TeardownUnused()
	take := func(r []string, e error) { removed, err = append(removed, r...), errors.Join(err, e) }
	take(teardownOf(opened(xtables.NewIPTables(firewall.Options{}))))
	take(teardownOf(opened(xtables.NewRules(firewall.Options{})))) // where there is iptables without ipset
	take(teardownOf(opened(nft.New(firewall.Options{}))))
	kept, err = splitForeign(err)
	return removed, kept, err
}

// splitForeign separates the errors of objects that are not fsban's, each of them once, from the others.
func splitForeign(err error) (foreign []string, rest error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			f, r := splitForeign(e)
			foreign, rest = append(foreign, f...), errors.Join(rest, r)
		}
		slices.Sort(foreign)
		return slices.Compact(foreign), rest
	}
	if errors.Is(err, firewall.ErrForeign) {
		return []string{err.Error()}, nil
	}
	return nil, err
}

// teardownOf removes everything that a backend ever made. A host without its programs or modules has nothing of it.
func teardownOf(b firewall.Backend, err error) (removed []string, _ error) {
	if err == nil {
		removed, err = b.Teardown()
		err = errors.Join(err, b.Close())
	}
	if unsupported(err) && len(removed) == 0 && !errors.Is(err, firewall.ErrForeign) {
		err = nil
	}
	return removed, err
}

// Surroundings describes in short sentences the other programs that make rules on this host, as far as they matter to fsban.
func Surroundings(ctx context.Context) []string { return xtables.Surroundings(ctx) }
