package xtables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"fsban/firewall"
)

// jump is the rule of another chain that jumps to FSBAN.
const jump = "-j " + firewall.ChainName

// moveEvery is the shortest time between two moves of a jump to the front of its chain. Another program may insist on the same place.
const moveEvery = time.Minute

// A plan holds the changes that one table needs.
type plan struct {
	lines []string        // for iptables-restore
	made  []string        // in words
	rules bool            // fsban's own chain is among it
	moved []firewall.Hook // with a jump to move to the front
	lacks []firewall.Hook // whose chain does not exist
	notes []string
	err   error // reason for a plan that is not complete
}

// verifyRules repairs the rules of some families. A family that fails does not hold up the other one. New rules are in force before
// old ones are removed: a table is changed in one transaction, and tables that are no longer configured come last.
//
// A foreign chain that only one family has is no error: docker makes DOCKER-USER for IPv6 only if IPv6 is enabled. A chain that no
// family has is an error.
func verifyRules(ctx context.Context, families []*family, opts *firewall.Options) (v firewall.Verification) {
	lacking := make(map[firewall.Hook][]*family)
	failed := make(map[*family]error)
	do := func(f *family, wanted bool) {
		for _, name := range firewall.Tables {
			hooks := hooksOf(opts.Hooks, name)
			if (len(hooks) > 0) != wanted {
				continue
			}
			p := f.verifyTable(ctx, name, hooks, opts)
			v.Made, v.Notes, failed[f] = append(v.Made, p.made...), append(v.Notes, p.notes...), cmp.Or(failed[f], p.err)
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
				failed[f] = cmp.Or(failed[f], f.failed("jump to "+firewall.ChainName+" from", h.Table, h.Chain, errNoChain))
			}
			continue
		}
		for _, f := range without {
			v.Notes = append(v.Notes, fmt.Sprintf("%s has no chain %v, unlike the other family: fsban drops no packets of this family there",
				f.name, h))
		}
	}
	for _, f := range families {
		if !f.cleaned && failed[f] == nil {
			do(f, false)
			f.cleaned = failed[f] == nil
		}
		v.Err = cmp.Or(v.Err, failed[f])
	}
	return v
}

func (f *family) verifyTable(ctx context.Context, name string, hooks []firewall.Hook, opts *firewall.Options) plan {
	if len(hooks) == 0 && f.ipt.lacks(name) {
		return plan{}
	}
	now, err := f.ipt.save(ctx, name)
	if isMissing(err) && len(hooks) == 0 {
		return plan{} // iptables-legacy, and a kernel without this table
	} else if err != nil {
		return plan{err: f.failed("list", name, "*", err)}
	}
	f.count(name, now[firewall.ChainName])
	p := f.plan(now, name, hooks, opts)
	foreign := errors.Is(p.err, firewall.ErrForeign)
	f.owned[name] = !foreign
	if f.perBan && len(hooks) > 0 {
		f.unfit = nil
		if foreign {
			f.unfit = p.err
		}
	}
	if len(p.lines) == 0 {
		return p
	}
	if err := f.ipt.restore(ctx, name, p.lines); err != nil {
		return plan{lacks: p.lacks, notes: p.notes, err: f.failed("change", name, firewall.ChainName, err)}
	}
	for _, h := range p.moved {
		f.moved[h] = time.Now()
	}
	if p.rules {
		p.err = cmp.Or(f.learn(ctx, name, len(f.rules(opts))), p.err)
	}
	return p
}

// plan returns the changes that turn the table into the configured one.
func (f *family) plan(now table, name string, hooks []firewall.Hook, opts *firewall.Options) (p plan) {
	chain := f.name + " chain " + name + "/" + firewall.ChainName
	_, there := now[firewall.ChainName]
	if !f.owned[name] { // else this process uses the chain, and repairs it
		if err := f.foreign(now, name); err != nil {
			return plan{err: err}
		}
	}
	if len(hooks) > 0 {
		if !there {
			p.made = append(p.made, chain)
		}
		want, have := f.rules(opts), now.texts(firewall.ChainName)
		switch {
		case f.perBan && !there:
			p.lines = append(p.lines, ":"+firewall.ChainName+" - [0:0]")
		case !f.perBan && (len(have) == 0 || !slices.Equal(have, want) && !slices.Equal(have, f.printed[name])):
			p.rules = true
			p.made = append(p.made, "rule of "+chain)
			p.lines = append(p.lines, ":"+firewall.ChainName+" - [0:0]") // made, or emptied
			for _, r := range want {
				p.lines = append(p.lines, "-A "+firewall.ChainName+" "+r)
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
		if jumps := count(now.texts(c), jump); jumps > 0 && !slices.Contains(hooks, firewall.Hook{Table: name, Chain: c}) {
			p.lines = append(p.lines, slices.Repeat([]string{"-D " + c + " " + jump}, jumps)...)
		}
	}
	if len(hooks) == 0 && there {
		p.lines = append(p.lines, ":"+firewall.ChainName+" - [0:0]", "-X "+firewall.ChainName)
	}
	return p
}

// planJump makes the jump the first rule of its chain: a rule before it could accept packets of banned addresses.
func (f *family) planJump(p *plan, now table, h firewall.Hook) {
	rules, there := now[h.Chain]
	if !there && !firewall.BuiltIn(h.Chain) {
		p.lacks = append(p.lacks, h)
		return
	}
	if !firewall.BuiltIn(h.Chain) {
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
			p.notes = append(p.notes, fmt.Sprintf("%s: another program keeps moving its rules before fsban's in %v: packets that they accept "+
				"are not dropped there (fsban moves its jump back once a minute)", f.name, h))
			return
		}
		p.moved = append(p.moved, h)
		p.made = append(p.made, "first place of the jump from "+f.name+" "+h.String())
		p.lines = append(p.lines, slices.Repeat([]string{"-D " + h.Chain + " " + jump}, jumps)...)
	}
	p.lines = append(p.lines, "-I "+h.Chain+" 1 "+jump)
}

// noteWay notes rules that keep packets away from another program's chain. fsban does not change them.
func (f *family) noteWay(p *plan, now table, h firewall.Hook) {
	led := false
	for _, from := range slices.Sorted(maps.Keys(now)) {
		rules := now.texts(from)
		at := slices.IndexFunc(rules, func(text string) bool { return leadsTo(text, h.Chain) })
		if at < 0 {
			continue
		}
		led = true
		if i := slices.IndexFunc(rules[:at], func(text string) bool { return leadsTo(text, "ACCEPT") }); i >= 0 {
			p.notes = append(p.notes, fmt.Sprintf("%s: in %s/%s rule %d accepts packets before the jump to %s: they are not dropped in %v", f.name,
				h.Table, from, i+1, h.Chain, h))
		}
	}
	if !led {
		p.notes = append(p.notes, fmt.Sprintf("%s: no rule jumps to %v: no packets are dropped there", f.name, h))
	}
}

// leadsTo reports whether a rule ends in a target or a chain.
func leadsTo(text, target string) bool {
	words := strings.Fields(text)
	i := slices.IndexFunc(words, func(w string) bool { return w == "-j" || w == "-g" })
	return i >= 0 && i+1 < len(words) && words[i+1] == target
}

// errNoChain is wrapped if a configured chain does not exist, such as docker's before docker runs.
var errNoChain = errors.New("there is no such chain (firewall.chains)")

// learn reads the rules that were just made as this iptables prints them, to recognise them later.
func (f *family) learn(ctx context.Context, name string, want int) error {
	f.seen[name] = firewall.Dropped{}
	now, err := f.ipt.save(ctx, name)
	if err != nil {
		return f.failed("list", name, firewall.ChainName, err)
	}
	f.count(name, now[firewall.ChainName])
	rules := now.texts(firewall.ChainName)
	if len(rules) != want {
		return f.failed("change", name, firewall.ChainName, fmt.Errorf("%d rules were made, and %d are there", want, len(rules)))
	}
	f.printed[name] = rules
	return nil
}

func hooksOf(hooks []firewall.Hook, table string) []firewall.Hook {
	return slices.DeleteFunc(slices.Clone(hooks), func(h firewall.Hook) bool { return h.Table != table })
}

func count(list []string, what string) (n int) {
	for _, s := range list {
		if s == what {
			n++
		}
	}
	return n
}

// count adds the increase of the counters in one table since the last call to the total. The first call adds nothing: counts from
// before this process would look like an attack.
func (f *family) count(name string, rules []rule) {
	var now firewall.Dropped
	for _, r := range rules {
		now.Packets += r.counted.Packets
		now.Bytes += r.counted.Bytes
	}
	seen, known := f.seen[name]
	if !known {
		seen = now
	}
	f.total, f.seen[name] = f.total.Plus(seen, now), now
}

// teardownRules removes fsban's chain from tables, and every jump to it. A foreign chain of that name stays.
func (f *family) teardownRules(tables []string) (removed []string, err error) {
	for _, name := range tables {
		r, e := f.teardownTable(name)
		removed, err = append(removed, r...), errors.Join(err, e)
		if name == tapTable {
			r, e = f.teardownTap()
			removed, err = append(removed, r...), errors.Join(err, e)
		}
	}
	return removed, err
}

func (f *family) teardownTable(name string) (removed []string, err error) {
	if f.ipt.lacks(name) {
		return nil, nil
	}
	now, err := f.ipt.save(context.Background(), name)
	if f.ipt.legacy != "" && isMissing(err) {
		return nil, nil // a kernel without this table
	} else if err != nil {
		return nil, f.failed("list", name, "*", err)
	}
	if _, there := now[firewall.ChainName]; !there {
		return nil, nil
	}
	if err := f.foreign(now, name); err != nil {
		return nil, err
	}
	var lines []string
	for _, chain := range slices.Sorted(maps.Keys(now)) {
		if jumps := count(now.texts(chain), jump); jumps > 0 {
			lines = append(lines, slices.Repeat([]string{"-D " + chain + " " + jump}, jumps)...)
			removed = append(removed, "jump from "+f.name+" "+name+"/"+chain)
		}
	}
	lines = append(lines, ":"+firewall.ChainName+" - [0:0]") // which empties it
	err = f.ipt.restore(context.Background(), name, append(lines, "-X "+firewall.ChainName))
	if err == nil {
		return append(removed, f.name+" chain "+name+"/"+firewall.ChainName), nil
	}
	// A foreign rule jumps to the chain, or the kernel has not released it yet: end the bans at least.
	if e := f.ipt.restore(context.Background(), name, lines); e != nil {
		removed = nil
	}
	return removed, f.failed("delete", name, firewall.ChainName, err)
}

// foreign returns an error that wraps firewall.ErrForeign if the chain of fsban's name holds rules, and none of them has the
// form of fsban's.
func (f *family) foreign(now table, name string) error {
	texts := now.texts(firewall.ChainName)
	if len(texts) == 0 || slices.ContainsFunc(texts, f.isOwn) {
		return nil
	}
	return f.failed("use", name, firewall.ChainName, fmt.Errorf("it holds other rules, such as %q: %w", texts[0], firewall.ErrForeign))
}

// isOwn reports whether a rule has the form of fsban's: it matches fsban's set, or bans one prefix.
func (f *family) isOwn(text string) bool {
	_, _, ban := parseBan(text)
	return ban || strings.Contains(text, "--match-set "+f.set+" src ")
}

// isMissing reports whether an error of iptables may mean that an object does not exist. The message varies; the exit status is 1
// or 3.
func isMissing(err error) bool {
	var failed interface{ ExitCode() int }
	return errors.As(err, &failed) && (failed.ExitCode() == 1 || failed.ExitCode() == 3)
}

// failed returns the error of an operation of iptables.
func (f *family) failed(verb, table, chain string, err error) error {
	return &ruleError{fmt.Sprintf("%s: %s %s/%s", f.name, verb, table, chain), err}
}
