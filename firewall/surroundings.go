package firewall

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// A neighbour is another program that makes rules, known by the chains and tables that it makes.
type neighbour struct {
	name   string
	chains []string // how their names begin
	tables []string // of nftables
	advice string
}

var neighbours = []neighbour{
	{"firewalld", []string{"INPUT_direct", "FWDI_", "IN_public"}, []string{"firewalld"}, "its reload flushes what iptables made, and fsban makes it again"},
	{"ufw", []string{"ufw-", "ufw6-"}, nil, "fsban's jump stands before its rules"},
	{"docker", []string{"DOCKER"}, nil, "what goes to containers passes filter/FORWARD and not filter/INPUT: raw/PREROUTING sees both"},
	{"kubernetes", []string{"KUBE-"}, []string{"kube-proxy"}, "it writes many rules often: raw/PREROUTING stands before them"},
	{"fail2ban", []string{"f2b-"}, []string{"f2b-table"}, "an address can be banned by both: unban it in both"},
	{"crowdsec", []string{"CROWDSEC_CHAIN"}, []string{"crowdsec", "crowdsec6"}, "an address can be banned by both: unban it in both"},
}

// Surroundings says in short sentences what else makes rules on this host, as far as it matters to fsban.
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
		findings = append(findings, fmt.Sprintf("iptables is iptables-%s here, and there are rules of iptables-%s too: both are in force, and each shows only its own", used, other))
		if slices.Contains(chains[other], ChainName) {
			findings = append(findings, fmt.Sprintf("chain %s is among the rules of iptables-%s, from before a change of variant: fsban takes it away once it has started anew, and fsban teardown does", ChainName, other))
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

// chainsWithRules are the chains that a variant of iptables has, without the built-in ones that hold nothing.
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
		if len(rules) > 0 || !slices.Contains(builtIn, name) {
			chains = append(chains, name)
		}
	}
	return chains
}

// tablesOfNFTables are the names of all tables of nftables, if it can be asked.
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
