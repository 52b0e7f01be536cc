package xtables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"

	"fsban/firewall"
	"fsban/firewall/nft"
)

// variants are the two kinds of iptables. The rules of both are in force, and each program shows only its own.
var variants = []string{"nft", "legacy"}

// variant returns the variant of the programs.
func (x *xtables) variant() string {
	if x.legacy != "" {
		return "legacy"
	}
	return "nft"
}

// TeardownUnused removes fsban's chains, and the jumps to them, that were made with the variant of iptables which is not in
// use now. Call it before sets are destroyed: the kernel keeps a set that a rule of either variant names.
//
// A variant without its programs, or one that the kernel does not support, is skipped.
func TeardownUnused() (removed []string, err error) {
	for _, f := range bothFamilies() {
		if !f.is4() && !hostHasIPv6() {
			continue
		}
		used := ""
		if x, e := findXtables(f.proto(), "", nil); e == nil {
			used = x.variant()
		}
		for _, variant := range variants {
			if variant == used {
				continue
			}
			var e error
			if f.ipt, e = findXtables(f.proto(), variant, nil); e != nil {
				continue
			}
			left, e := f.tablesLeft()
			r, e2 := f.teardownRules(left)
			e = errors.Join(e, e2)
			for _, what := range r {
				removed = append(removed, what+" of iptables-"+variant)
			}
			if e != nil {
				err = errors.Join(err, fmt.Errorf("iptables-%s: %w", variant, e))
			}
		}
	}
	return removed, err
}

// tablesLeft returns the tables that hold fsban's chain in a variant that is not in use. It makes no table, and loads no module
// of iptables-legacy.
func (f *family) tablesLeft() (left []string, err error) {
	if f.ipt.variant() == "nft" {
		return f.tablesOfNFT()
	}
	for _, name := range firewall.Tables {
		if f.ipt.lacks(name) {
			continue
		}
		now, e := f.ipt.save(context.Background(), name)
		if _, there := now[firewall.ChainName]; there || name == tapTable && hasTap(now) {
			left = append(left, name)
		}
		if e != nil && !isMissing(e) {
			err = errors.Join(err, f.failed("list", name, "*", e))
		}
	}
	return left, err
}

// tablesOfNFT asks the kernel: the program would create the built-in chains, and does not show a table with rules that only nft
// understands. A kernel without nftables has no tables.
func (f *family) tablesOfNFT() (left []string, err error) {
	family := nftables.TableFamilyIPv4
	if !f.is4() {
		family = nftables.TableFamilyIPv6
	}
	chains, err := nft.Chains(family)
	for _, c := range chains {
		own := c.Name == firewall.ChainName || c.Table.Name == tapTable && (c.Name == tapIn || c.Name == tapOut)
		if own && slices.Contains(firewall.Tables, c.Table.Name) && !slices.Contains(left, c.Table.Name) {
			left = append(left, c.Table.Name)
		}
	}
	return left, err
}
