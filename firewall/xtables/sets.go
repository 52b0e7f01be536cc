package xtables

import (
	"errors"

	"fsban/firewall"
	"fsban/firewall/ipset"
)

// MakeSets creates the missing sets of IPTables and returns their names. It makes no rule and runs no program. Rules that were
// saved while fsban ran name these sets, and iptables-restore refuses a whole file if one is missing.
func MakeSets(opts firewall.Options) (made []string, err error) {
	if opts, err = opts.Complete(); err != nil {
		return nil, err
	}
	sets, err := ipset.Dial()
	if err != nil {
		return nil, err
	}
	b := &IPTables{opts: opts, families: bothFamilies(), sets: sets, filled: make(map[string]firewall.SetSize)}
	made, err = b.Setup()
	return made, errors.Join(err, sets.Close())
}
