package firewall

import (
	"strconv"
	"strings"
)

// A table is one table of the packet filter, as iptables-save prints it: the rules of each chain, in order.
type table map[string][]rule

// A rule is one rule of a chain, without "-A CHAIN", and what it has counted.
type rule struct {
	text    string
	counted Dropped
}

// parseTable reads what "iptables-save -c -t TABLE" prints. A table that iptables has not made yet is empty.
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

// texts are the rules of a chain without their counters.
func (t table) texts(chain string) []string {
	var texts []string
	for _, r := range t[chain] {
		texts = append(texts, r.text)
	}
	return texts
}
