package xtables

import (
	"strconv"
	"strings"

	"fsban/firewall"
)

// A table is one table of the packet filter, as iptables-save prints it: the rules of each chain, in order.
type table map[string][]rule

// A rule is one rule of a chain, without "-A CHAIN", and its counters.
type rule struct {
	text    string
	counted firewall.Dropped
}

// parseTable parses the output of "iptables-save -c -t TABLE". A table that iptables has not made yet is empty.
func parseTable(saved string) table {
	t := make(table)
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		if declared, ok := strings.CutPrefix(line, ":"); ok { // ":CHAIN POLICY [0:0]"
			chain, _, _ := strings.Cut(declared, " ")
			if t[chain] == nil {
				t[chain] = []rule{}
			}
			continue
		}
		counters, line, counted := strings.Cut(line, "] ") // "[0:0] -A CHAIN ..."
		appended, ok := strings.CutPrefix(line, "-A ")
		if !counted || !ok {
			continue
		}
		chain, text, _ := strings.Cut(appended, " ")
		packets, bytes, _ := strings.Cut(strings.TrimPrefix(counters, "["), ":")
		r := rule{text: text}
		r.counted.Packets, _ = strconv.ParseUint(packets, 10, 64)
		r.counted.Bytes, _ = strconv.ParseUint(bytes, 10, 64)
		t[chain] = append(t[chain], r)
	}
	return t
}

// texts returns the rules of a chain without their counters.
func (t table) texts(chain string) []string {
	var texts []string
	for _, r := range t[chain] {
		texts = append(texts, r.text)
	}
	return texts
}
