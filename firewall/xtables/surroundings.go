package xtables

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"

	"fsban/firewall"
)

// A neighbour is another program that makes rules, known by the chains and tables that it makes.
type neighbour struct {
	name   string
	chains []string // prefixes of their names
	tables []string // of nftables
	advice string
}

var neighbours = []neighbour{
	{"firewalld", []string{"INPUT_direct", "FWDI_", "IN_public"}, []string{"firewalld"},
		"its reload flushes the rules of iptables, and fsban makes its own again"},
	{"ufw", []string{"ufw-", "ufw6-"}, nil, "fsban's jump precedes its rules"},
	{"docker", []string{"DOCKER"}, nil, "packets to containers pass filter/FORWARD and not filter/INPUT: raw/PREROUTING sees both"},
	{"kubernetes", []string{"KUBE-"}, []string{"kube-proxy"}, "it rewrites many rules often: raw/PREROUTING precedes them"},
	{"fail2ban", []string{"f2b-"}, []string{"f2b-table"}, "an address can be banned by both: unban it in both"},
	{"crowdsec", []string{"CROWDSEC_CHAIN"}, []string{"crowdsec", "crowdsec6"}, "an address can be banned by both: unban it in both"},
}

// Surroundings describes the other programs that make rules on this host, as far as they matter to fsban.
func Surroundings(ctx context.Context) []string {
	var findings []string
	chains := make(map[string][]string) // by variant
	for _, variant := range variants {
		for _, name := range []string{"iptables", "ip6tables"} {
			chains[variant] = append(chains[variant], chainsWithRules(ctx, name+"-"+variant+"-save")...)
		}
	}
	used := "nft"
	if out, err := run(ctx, nil, "", "iptables", "--version"); err == nil && strings.Contains(out, "legacy") {
		used = "legacy"
	}
	if other := map[string]string{"nft": "legacy", "legacy": "nft"}[used]; len(chains[other]) > 0 {
		findings = append(findings, fmt.Sprintf("iptables is iptables-%s here, and there are rules of iptables-%s too: both are in force, and "+
			"each shows only its own", used, other))
		if slices.Contains(chains[other], firewall.ChainName) {
			findings = append(findings,
				fmt.Sprintf("iptables-%[2]s has a chain %[1]s from before a change of variant: fsban removes it at its next "+
					"start, as fsban teardown does", firewall.ChainName, other))
		}
	}
	tables := tablesOfNFTables()
	for _, n := range neighbours {
		found := slices.ContainsFunc(slices.Concat(chains["nft"], chains["legacy"]), func(chain string) bool {
			return slices.ContainsFunc(n.chains, func(begin string) bool { return strings.HasPrefix(chain, begin) })
		})
		if found || slices.ContainsFunc(n.tables, func(t string) bool { return slices.Contains(tables, t) }) {
			findings = append(findings, n.name+" makes rules here: "+n.advice)
		}
	}
	return findings
}

// chainsWithRules returns the chains of a variant of iptables, without empty built-in ones.
func chainsWithRules(ctx context.Context, saver string) (chains []string) {
	path, err := exec.LookPath(saver)
	if err != nil {
		return nil
	}
	out, err := run(ctx, nil, "", path, "-c")
	if err != nil {
		return nil
	}
	for name, rules := range parseTable(out) {
		if len(rules) > 0 || !firewall.BuiltIn(name) {
			chains = append(chains, name)
		}
	}
	return chains
}

// tablesOfNFTables returns the names of all tables of nftables, or nil if they cannot be listed.
func tablesOfNFTables() (names []string) {
	conn, err := nftables.New()
	if err != nil {
		return nil
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil
	}
	for _, t := range tables {
		names = append(names, t.Name)
	}
	return names
}
