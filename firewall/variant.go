package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// variants are the two kinds of iptables. The kernel heeds the rules of both, and each shows only its own.
var variants = []string{"nft", "legacy"}

// variant is which of variants the programs are.
func (x *xtables) variant() string {
	if x.legacy != "" {
		return "legacy"
	}
	return "nft"
}

// teardownUnused removes fsban's chains, and the jumps to them, that were made with the variant of iptables which is not in
// use now. Call it before sets are destroyed: the kernel keeps a set that a rule of either variant names.
//
// A variant whose programs are not there, or that the kernel does not let us look into, is passed over.
func teardownUnused() (removed []string, err error) {
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
			r, e := f.teardownRules(f.tablesLeft())
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

// tablesLeft are the tables that hold fsban's chain in a variant that is not in use. To look makes no table, and loads no
// module of iptables-legacy.
func (f *family) tablesLeft() (left []string) {
	if f.ipt.variant() == "nft" {
		return f.tablesOfNFT()
	}
	for _, name := range tables {
		if f.ipt.lacks(name) {
			continue
		}
		now, err := f.ipt.save(context.Background(), name)
		if _, there := now[ChainName]; err == nil && there {
			left = append(left, name)
		}
	}
	return left
}

// tablesOfNFT asks the kernel, because the program would make the built-in chains, and says nothing of a table that only nft
// understands.
func (f *family) tablesOfNFT() (left []string) {
	family := nftables.TableFamilyIPv4
	if !f.is4() {
		family = nftables.TableFamilyIPv6
	}
	conn, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return nil
	}
	for _, c := range chains {
		if c.Name == ChainName && slices.Contains(tables, c.Table.Name) {
			left = append(left, c.Table.Name)
		}
	}
	return left
}
