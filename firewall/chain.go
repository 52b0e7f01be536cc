package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

// jump is the rule that leads from somebody's chain to fsban's.
const jump = "-j " + ChainName

// moveEvery is how often at most a jump is moved to the front of its chain. Another program may insist on the same place.
const moveEvery = time.Minute

// A plan is what has to be changed in one table.
type plan struct {
	lines []string // for iptables-restore
	made  []string // in words
	rules bool     // fsban's own chain is among it
	moved []Hook   // whose jump is put first again
	lacks []Hook   // that are not there
	notes []string
	err   error // why not everything can be as it should be
}

// guardRules makes the rules of some families what they should be. A family that fails does not hold up the other one. New
// rules are in force before old ones go: a table is changed in one moment, and tables that are no longer asked for come last.
//
// A chain of somebody else's that one family alone has is none of the other's: docker makes DOCKER-USER for IPv6 only where
// it is told to. One that no family has is an error.
func guardRules(ctx context.Context, families []*family, opts *Options) (g guarded) {
	lacking := make(map[Hook][]*family)
	failed := make(map[*family]error)
	do := func(f *family, wanted bool) {
		for _, name := range tables {
			hooks := hooksOf(opts.Hooks, name)
			if (len(hooks) > 0) != wanted {
				continue
			}
			p := f.guardTable(ctx, name, hooks, opts)
			g.made, g.notes, failed[f] = append(g.made, p.made...), append(g.notes, p.notes...), cmp.Or(failed[f], p.err)
			for _, h := range p.lacks {
				lacking[h] = append(lacking[h], f)
			}
		}
	}
	for _, f := range families {
		do(f, true)
	}
	for _, h := range opts.Hooks {
		without := lacking[h]
		if len(without) > 0 && len(without) == len(families) {
			for _, f := range without {
				failed[f] = cmp.Or(failed[f], f.failed("jump to "+ChainName+" from", h.Table, h.Chain, errNoChain))
			}
			continue
		}
		for _, f := range without {
			g.notes = append(g.notes, fmt.Sprintf("%s: there is no chain %v, which the other family has: what would pass it is not stopped there", f.name, h))
		}
	}
	for _, f := range families {
		if !f.cleaned && failed[f] == nil {
			do(f, false)
			f.cleaned = failed[f] == nil
		}
		g.err = cmp.Or(g.err, failed[f])
	}
	return g
}

func (f *family) guardTable(ctx context.Context, name string, hooks []Hook, opts *Options) plan {
	if len(hooks) == 0 && f.ipt.lacks(name) {
		return plan{}
	}
	now, err := f.ipt.save(ctx, name)
	if isMissing(err) && len(hooks) == 0 {
		return plan{} // iptables-legacy, and a kernel without this table
	} else if err != nil {
		return plan{err: f.failed("list", name, "*", err)}
	}
	f.count(name, now[ChainName])
	p := f.plan(now, name, hooks, opts)
	if len(p.lines) == 0 {
		return p
	}
	if err := f.ipt.restore(ctx, name, p.lines); err != nil {
		return plan{lacks: p.lacks, notes: p.notes, err: f.failed("change", name, ChainName, err)}
	}
	for _, h := range p.moved {
		f.moved[h] = time.Now()
	}
	if p.rules {
		p.err = cmp.Or(f.learn(ctx, name, len(f.rules(opts))), p.err)
	}
	return p
}

// plan compares a table with what it should be.
func (f *family) plan(now table, name string, hooks []Hook, opts *Options) (p plan) {
	chain := f.name + " chain " + name + "/" + ChainName
	_, there := now[ChainName]
	if len(hooks) > 0 {
		if !there {
			p.made = append(p.made, chain)
		}
		want, have := f.rules(opts), now.texts(ChainName)
		switch {
		case f.perBan && !there:
			p.lines = append(p.lines, ":"+ChainName+" - [0:0]")
		case !f.perBan && (len(have) == 0 || !slices.Equal(have, want) && !slices.Equal(have, f.printed[name])):
			p.rules = true
			p.made = append(p.made, "rule of "+chain)
			p.lines = append(p.lines, ":"+ChainName+" - [0:0]") // made, or emptied
			for _, r := range want {
				p.lines = append(p.lines, "-A "+ChainName+" "+r)
			}
		}
		for _, h := range hooks {
			f.planJump(&p, now, h)
		}
	}
	if f.cleaned {
		return p
	}
	for c := range now {
		if jumps := count(now.texts(c), jump); jumps > 0 && !slices.Contains(hooks, Hook{name, c}) {
			p.lines = append(p.lines, slices.Repeat([]string{"-D " + c + " " + jump}, jumps)...)
		}
	}
	if len(hooks) == 0 && there {
		p.lines = append(p.lines, ":"+ChainName+" - [0:0]", "-X "+ChainName)
	}
	return p
}

// planJump sees to it that a jump is the first rule of its chain: behind a rule that accepts it would see nothing.
func (f *family) planJump(p *plan, now table, h Hook) {
	rules, there := now[h.Chain]
	if !there && !slices.Contains(builtIn, h.Chain) {
		p.lacks = append(p.lacks, h)
		return
	}
	if !slices.Contains(builtIn, h.Chain) {
		f.noteWay(p, now, h)
	}
	jumps := count(now.texts(h.Chain), jump)
	if jumps == 1 && rules[0].text == jump {
		return
	}
	if jumps == 0 {
		p.made = append(p.made, "jump from "+f.name+" "+h.String())
	} else {
		if time.Since(f.moved[h]) < moveEvery {
			p.notes = append(p.notes, fmt.Sprintf("%s: another program puts its rules before fsban's in %v again and again: what they accept is not stopped there (fsban goes first again once a minute)", f.name, h))
			return
		}
		p.moved = append(p.moved, h)
		p.made = append(p.made, "first place of the jump from "+f.name+" "+h.String())
		p.lines = append(p.lines, slices.Repeat([]string{"-D " + h.Chain + " " + jump}, jumps)...)
	}
	p.lines = append(p.lines, "-I "+h.Chain+" 1 "+jump)
}

// noteWay says what keeps packets from a chain of somebody else's: that is not fsban's to change.
func (f *family) noteWay(p *plan, now table, h Hook) {
	led := false
	for _, from := range slices.Sorted(maps.Keys(now)) {
		rules := now.texts(from)
		at := slices.IndexFunc(rules, func(text string) bool { return leadsTo(text, h.Chain) })
		if at < 0 {
			continue
		}
		led = true
		if i := slices.IndexFunc(rules[:at], func(text string) bool { return leadsTo(text, "ACCEPT") }); i >= 0 {
			p.notes = append(p.notes, fmt.Sprintf("%s: in %s/%s rule %d accepts before the jump to %s: what it accepts is not stopped in %v", f.name, h.Table, from, i+1, h.Chain, h))
		}
	}
	if !led {
		p.notes = append(p.notes, fmt.Sprintf("%s: no rule leads to %v: nothing is stopped there", f.name, h))
	}
}

// leadsTo tells whether a rule ends in a target or a chain.
func leadsTo(text, target string) bool {
	words := strings.Fields(text)
	i := slices.IndexFunc(words, func(w string) bool { return w == "-j" || w == "-g" })
	return i >= 0 && i+1 < len(words) && words[i+1] == target
}

// errNoChain says that somebody's chain is not there: that of docker, say, before docker runs.
var errNoChain = errors.New("there is no such chain (firewall.chains)")

// learn reads how this iptables prints the rules that it has just been given, to know them again.
func (f *family) learn(ctx context.Context, name string, want int) error {
	f.seen[name] = Dropped{}
	now, err := f.ipt.save(ctx, name)
	if err != nil {
		return f.failed("list", name, ChainName, err)
	}
	f.count(name, now[ChainName])
	rules := now.texts(ChainName)
	if len(rules) != want {
		return f.failed("change", name, ChainName, fmt.Errorf("%d rules were made, and %d are there", want, len(rules)))
	}
	f.printed[name] = rules
	return nil
}

func hooksOf(hooks []Hook, table string) []Hook {
	return slices.DeleteFunc(slices.Clone(hooks), func(h Hook) bool { return h.Table != table })
}

func count(list []string, what string) (n int) {
	for _, s := range list {
		if s == what {
			n++
		}
	}
	return n
}

// count adds to the total what the rules of one table have counted since they were last read. What they had counted before
// this process began is not its own: a counter that jumps at a restart would look like an attack.
func (f *family) count(name string, rules []rule) {
	var now Dropped
	for _, r := range rules {
		now.Packets += r.counted.Packets
		now.Bytes += r.counted.Bytes
	}
	seen, known := f.seen[name]
	if !known {
		seen = now
	}
	f.total, f.seen[name] = f.total.plus(seen, now), now
}

// teardownRules removes fsban's chain from tables, and every jump to it.
func (f *family) teardownRules(tables []string) (removed []string, err error) {
	for _, table := range tables {
		if f.ipt.lacks(table) {
			continue
		}
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

// isMissing tells whether iptables said that something is not there, for which it has many words and few exit statuses.
func isMissing(err error) bool {
	var failed interface{ ExitCode() int }
	return errors.As(err, &failed) && (failed.ExitCode() == 1 || failed.ExitCode() == 3)
}

// failed says what iptables could not do.
func (f *family) failed(verb, table, chain string, err error) error {
	return &ruleError{fmt.Sprintf("%s: %s %s/%s", f.name, verb, table, chain), err}
}
