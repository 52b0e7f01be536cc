package firewall

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// rule is what stands in fsban's chain.
func (f *family) rule() []string {
	return []string{"-m", "set", "--match-set", f.set, "src", "-j", "DROP"}
}

// setupRules makes what is missing of the chains, their rule and the jumps to them, and adds to the totals what the rules
// have thrown away since the last time.
func (f *family) setupRules(hooks []Hook) (made []string, err error) {
	var now Dropped
	for _, table := range tables {
		var here []Hook
		for _, h := range hooks {
			if h.Table == table {
				here = append(here, h)
			}
		}
		if len(here) == 0 {
			continue
		}
		complete, dropped, err := f.look(table, here)
		if err != nil {
			return made, err
		}
		now.Packets += dropped.Packets
		now.Bytes += dropped.Bytes
		if complete {
			continue
		}
		m, err := f.repair(table, here)
		made = append(made, m...)
		if err != nil {
			return made, err
		}
	}
	f.count(now)
	return made, nil
}

// look lists fsban's chain and the hooks of a table, which takes one process each: whether everything is in its place,
// and what the rule has thrown away. A listing in words that it does not know it takes for incomplete.
func (f *family) look(table string, hooks []Hook) (complete bool, dropped Dropped, err error) {
	rules, err := f.ipt.ListWithCounters(table, ChainName)
	if isMissing(err) {
		return false, dropped, nil
	} else if err != nil {
		return false, dropped, f.failed("list", table, ChainName, err)
	}
	for _, r := range rules {
		text, d := cutCounters(r)
		dropped.Packets += d.Packets
		dropped.Bytes += d.Bytes
		complete = complete || text == "-A "+ChainName+" "+strings.Join(f.rule(), " ")
	}
	for _, h := range hooks {
		if !complete {
			break
		}
		rules, err := f.ipt.List(table, h.Chain)
		if err != nil {
			return false, dropped, f.failed("list", table, h.Chain, err)
		}
		complete = slices.Contains(rules, "-A "+h.Chain+" -j "+ChainName)
	}
	return complete, dropped, nil
}

// repair asks iptables for each part whether it is there, and makes it if not.
func (f *family) repair(table string, hooks []Hook) (made []string, err error) {
	chain := f.name + " chain " + table + "/" + ChainName
	there, err := f.ipt.ChainExists(table, ChainName)
	if err == nil && !there {
		made = append(made, chain)
		err = f.ipt.NewChain(table, ChainName)
	}
	if err != nil {
		return nil, f.failed("make", table, ChainName, err)
	}
	there, err = f.ipt.Exists(table, ChainName, f.rule()...)
	if err == nil && !there {
		made = append(made, "rule of "+chain)
		err = f.ipt.Append(table, ChainName, f.rule()...)
	}
	if err != nil {
		return nil, f.failed("add the rule of", table, ChainName, err)
	}
	for _, h := range hooks {
		there, err = f.ipt.Exists(table, h.Chain, "-j", ChainName)
		if err == nil && !there {
			made = append(made, "jump from "+f.name+" "+h.String())
			err = f.ipt.Insert(table, h.Chain, 1, "-j", ChainName)
		}
		if err != nil {
			return nil, f.failed("jump to "+ChainName+" from", table, h.Chain, err)
		}
	}
	return made, nil
}

// count adds to the totals what the rules' counters have gained. Counters that are lower than before were zeroed, or are
// of a new rule.
func (f *family) count(now Dropped) {
	if now.Packets < f.seen.Packets || now.Bytes < f.seen.Bytes {
		f.seen = Dropped{}
	}
	f.total.Packets += now.Packets - f.seen.Packets
	f.total.Bytes += now.Bytes - f.seen.Bytes
	f.seen = now
}

// cutCounters splits "-A FSBAN ... -c PACKETS BYTES ..." into the rule without its counters, and them.
func cutCounters(rule string) (string, Dropped) {
	words := strings.Fields(rule)
	i := slices.Index(words, "-c")
	if i < 0 || i+2 >= len(words) {
		return rule, Dropped{}
	}
	var d Dropped
	d.Packets, _ = strconv.ParseUint(words[i+1], 10, 64)
	d.Bytes, _ = strconv.ParseUint(words[i+2], 10, 64)
	return strings.Join(slices.Delete(words, i, i+3), " "), d
}

// teardownRules removes fsban's chain from every table, and every jump to it.
func (f *family) teardownRules() (removed []string, err error) {
	for _, table := range tables {
		there, err := f.ipt.ChainExists(table, ChainName)
		if failed := (*iptables.Error)(nil); errors.As(err, &failed) && failed.IsNotExist() {
			continue // iptables-legacy, and a kernel without this table
		} else if err != nil {
			return removed, f.failed("look for", table, ChainName, err)
		}
		if !there {
			continue
		}
		chains, err := f.ipt.ListChains(table)
		if err != nil {
			return removed, f.failed("list the chains of", table, "*", err)
		}
		for _, chain := range chains {
			jumps, err := f.removeJumps(table, chain)
			if err != nil {
				return removed, f.failed("delete the jump to "+ChainName+" from", table, chain, err)
			}
			if jumps > 0 {
				removed = append(removed, "jump from "+f.name+" "+table+"/"+chain)
			}
		}
		if err := f.ipt.ClearAndDeleteChain(table, ChainName); err != nil {
			return removed, f.failed("delete", table, ChainName, err)
		}
		removed = append(removed, f.name+" chain "+table+"/"+ChainName)
	}
	return removed, nil
}

func (f *family) removeJumps(table, chain string) (jumps int, err error) {
	for {
		there, err := f.ipt.Exists(table, chain, "-j", ChainName)
		if err != nil || !there {
			return jumps, err
		}
		if err := f.ipt.Delete(table, chain, "-j", ChainName); err != nil {
			return jumps, err
		}
		jumps++
	}
}

// isMissing tells whether iptables said that a chain is not there, for which it has many words and one exit status.
func isMissing(err error) bool {
	var failed *iptables.Error
	return errors.As(err, &failed) && failed.ExitStatus() == 1
}

// failed says what iptables could not do.
func (f *family) failed(verb, table, chain string, err error) error {
	return &ruleError{fmt.Sprintf("%s: %s %s/%s", f.name, verb, table, chain), err}
}
