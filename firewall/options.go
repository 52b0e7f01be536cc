package firewall

import (
	"cmp"
	"fmt"
	"slices"
)

// A Target is the fate of a banned address's packets.
type Target string

// Drop throws packets away. Reject answers that the port cannot be reached; only filter's chains can do that.
const (
	Drop   Target = "DROP"
	Reject Target = "REJECT"
)

// None is the kind of a Recorder, which no setting names: firewall.enforce chooses it.
const None = "none"

// The kinds of backends, as the setting firewall.backend names them.
const (
	Auto     = "auto"
	IPTables = "iptables"
	NFTables = "nftables"
	Rules    = "rules"
)

// Options say where and how a backend bans.
type Options struct {
	Hooks   []Hook  // default raw/PREROUTING: before connection tracking, so that established flows stop too
	Ports   []Ports // ports that are closed to a banned address; none: all
	Target  Target  // default Drop
	MaxBans int     // size of each set; default 1,000,000
}

// Complete fills in the defaults, and validates the result.
func (o Options) Complete() (Options, error) {
	if len(o.Hooks) == 0 {
		o.Hooks = []Hook{{"raw", "PREROUTING"}}
	}
	o.MaxBans = cmp.Or(o.MaxBans, 1_000_000)
	o.Target = cmp.Or(o.Target, Drop)
	return o, o.Validate()
}

// Validate returns an error for options that no backend supports, with the name of the setting.
func (o Options) Validate() error {
	if !slices.Contains([]Target{"", Drop, Reject}, o.Target) {
		return fmt.Errorf("firewall.target: %q is none of %s, %s", o.Target, Drop, Reject)
	}
	for _, h := range o.Hooks {
		if o.Target == Reject && h.Table != "filter" {
			return fmt.Errorf("firewall.target: the kernel cannot REJECT in %v: write DROP, or put a chain of filter into firewall.chains, "+
				"like filter/INPUT", h)
		}
	}
	return nil
}
