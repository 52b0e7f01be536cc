package firewall

import (
	"cmp"
	"fmt"
	"slices"
)

// A Target is what happens to a banned address's packets.
type Target string

// Drop throws packets away. Reject answers that the port cannot be reached; only filter's chains can do that.
const (
	Drop   Target = "DROP"
	Reject Target = "REJECT"
)

// Options say where and how a backend bans.
type Options struct {
	Hooks   []Hook  // default raw/PREROUTING: before connection tracking, so that established flows stop too
	Ports   []Ports // what is closed to a banned address; none: everything
	Target  Target  // default Drop
	MaxBans int     // size of each set; default 1,000,000
}

// complete fills in what is not set, and says what cannot be.
func (o Options) complete() (Options, error) {
	if len(o.Hooks) == 0 {
		o.Hooks = []Hook{{"raw", "PREROUTING"}}
	}
	o.MaxBans = cmp.Or(o.MaxBans, 1_000_000)
	o.Target = cmp.Or(o.Target, Drop)
	return o, o.Validate()
}

// Validate says what of the options cannot be, with the name of the setting.
func (o Options) Validate() error {
	if !slices.Contains([]Target{"", Drop, Reject}, o.Target) {
		return fmt.Errorf("firewall.target: %q is none of %s, %s", o.Target, Drop, Reject)
	}
	for _, h := range o.Hooks {
		if o.Target == Reject && h.Table != "filter" {
			return fmt.Errorf("firewall.target: the kernel cannot REJECT in %v: write DROP, or put a chain of filter into firewall.chains, like filter/INPUT", h)
		}
	}
	return nil
}

// rules are what fsban's chain of one family holds, in the words that iptables-save prints them in.
func (f *family) rules(opts *Options) []string {
	drop := "-m set --match-set " + f.set + " src " + f.target(opts.Target)
	if len(opts.Ports) == 0 {
		return []string{drop}
	}
	rules := multiports(opts.Ports)
	for i, match := range rules {
		rules[i] = match + " " + drop
	}
	return rules
}

// target is the end of a rule.
func (f *family) target(t Target) string {
	switch {
	case t != Reject:
		return "-j DROP"
	case f.is4():
		return "-j REJECT --reject-with icmp-port-unreachable"
	default:
		return "-j REJECT --reject-with icmp6-port-unreachable"
	}
}
